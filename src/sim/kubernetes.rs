//! A small Kubernetes API server that knows one kind of object: Workflows.
//!
//! It speaks HTTP/1.1 without TLS and answers as kube-apiserver 1.36 does to what the product asks of it: `tests/sim`
//! runs the same scenarios against both. What differs:
//!
//! - everybody may do everything, and every namespace exists;
//! - objects carry no `managedFields`;
//! - the patches that there are are merge patches, and nothing is replaced (`PUT`);
//! - selection by fields, dry runs and streaming lists are refused.

mod object;
mod objects;
mod refusal;
mod request;
mod selector;
mod watch;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{self, Path, RawQuery},
    http::{HeaderMap, Response, StatusCode, header},
    middleware::{self, Next},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch as channel};

pub use self::refusal::Refusal;
use self::{
    object::Form,
    objects::{Objects, Scope},
    request::Query,
    watch::Watch,
};
pub(super) use self::{
    object::{API_VERSION, KIND, Object, merge},
    selector::is_subdomain,
};
use super::connections;

const MERGE_PATCH: &str = "application/merge-patch+json";
/// For a version that a list has to wait for.
const FRESH: Duration = Duration::from_secs(3);

/// What has been asked of the API server so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Lists, by the page.
    pub lists: u64,
    /// Watches that were begun.
    pub watches: u64,
    /// Watches that are going on.
    pub open_watches: u64,
    /// Patches, the refused ones too.
    pub patches: u64,
    /// Requests that wait for the end of a pause.
    pub held: u64,
}

/// What all connections share.
pub(super) struct State {
    objects: Mutex<Objects>,
    /// The version of the objects.
    changed: channel::Sender<u64>,
    requests: channel::Sender<Requests>,
    paused: channel::Sender<bool>,
    refuse_patches: Mutex<Option<StatusCode>>,
}

impl Default for State {
    fn default() -> Self {
        let objects = Objects::default();
        Self {
            changed: channel::Sender::new(objects.version()),
            objects: objects.into(),
            requests: channel::Sender::default(),
            paused: channel::Sender::default(),
            refuse_patches: Mutex::default(),
        }
    }
}

impl State {
    pub(super) fn create(&self, namespace: &str, value: Value) -> Result<Arc<Object>, Refusal> {
        self.change(|objects| objects.create(namespace, value))
    }

    pub(super) fn patch(&self, namespace: &str, name: &str, patch: &Value) -> Result<Arc<Object>, Refusal> {
        self.change(|objects| objects.patch(namespace, name, patch))
    }

    pub(super) fn delete(&self, namespace: &str, name: &str) -> Result<Arc<Object>, Refusal> {
        self.change(|objects| objects.delete(namespace, name))
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Result<Arc<Object>, Refusal> {
        self.objects().get(namespace, name)
    }

    pub(super) fn compact(&self) {
        self.objects().compact();
    }

    pub(super) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    pub(super) fn refuse_patches(&self, status: Option<StatusCode>) {
        *self.refuse_patches.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// The version of the objects, and when it changes.
    pub(super) fn version(&self) -> channel::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Follows what is asked.
    pub(super) fn requests(&self) -> channel::Receiver<Requests> {
        self.requests.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        let (outcome, version) = {
            let mut objects = self.objects();
            (change(&mut objects), objects.version())
        };
        self.changed.send_if_modified(|current| {
            let newer = version > *current;
            *current = version.max(*current);
            newer
        });
        outcome
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, count: impl FnOnce(&mut Requests)) {
        self.requests.send_modify(count);
    }

    async fn not_paused(&self) {
        // The sender is in `self`: this cannot fail.
        self.paused.subscribe().wait_for(|paused| !paused).await.ok();
    }

    async fn fresh(&self, version: u64) -> Result<(), Refusal> {
        let mut changed = self.changed.subscribe();
        let reached = changed.wait_for(|current| *current >= version);
        match tokio::time::timeout(FRESH, reached).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::too_large_version(version, self.objects().version())),
        }
    }
}

/// Counts something as going on until it is dropped.
struct Counted(Arc<State>, fn(&mut Requests) -> &mut u64);

impl Counted {
    fn new(state: Arc<State>, what: fn(&mut Requests) -> &mut u64) -> Self {
        state.count(|requests| *what(requests) += 1);
        Self(state, what)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Self(state, what) = self;
        state.count(|requests| *what(requests) -= 1);
    }
}

/// Serves, and never ends; dropped, it takes all connections along.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    let router = router(state);
    let serve = |stream| {
        let service = TowerToHyperService::new(router.clone());
        http1::Builder::new().serve_connection(TokioIo::new(stream), service)
    };
    connections::accept(listener, serve).await;
}

fn router(state: Arc<State>) -> Router {
    let base = format!("/apis/{API_VERSION}");
    Router::new()
        .route(&format!("{base}/workflows"), get(list_all))
        .route(&format!("{base}/namespaces/{{namespace}}/workflows"), get(list).post(create))
        .route(&format!("{base}/namespaces/{{namespace}}/workflows/{{name}}"), get(read).patch(patch).delete(delete))
        .method_not_allowed_fallback(async || Refusal::method_not_allowed())
        .fallback(async || (StatusCode::NOT_FOUND, "404 page not found\n"))
        .layer(middleware::from_fn_with_state(state.clone(), unless_paused))
        .with_state(state)
}

type Shared = extract::State<Arc<State>>;
type Answer = Result<Response<Body>, Refusal>;

async fn unless_paused(state: Shared, request: extract::Request, next: Next) -> Response<Body> {
    let counted = Counted::new(state.0.clone(), |requests| &mut requests.held);
    state.not_paused().await;
    drop(counted);
    next.run(request).await
}

async fn list_all(state: Shared, query: RawQuery, headers: HeaderMap) -> Answer {
    list_or_watch(state, None, query, &headers).await
}

async fn list(state: Shared, Path(namespace): Path<String>, query: RawQuery, headers: HeaderMap) -> Answer {
    list_or_watch(state, Some(namespace), query, &headers).await
}

async fn list_or_watch(
    extract::State(state): Shared,
    scope: Scope,
    RawQuery(query): RawQuery,
    headers: &HeaderMap,
) -> Answer {
    let query = Query::parse(&query.unwrap_or_default())?;
    let form = request::form(headers)?;
    if query.watch {
        let watch = Watch::new(state, scope, query, form)?;
        let json = [(header::CONTENT_TYPE, "application/json")];
        return Ok((json, Body::from_stream(watch.into_stream())).into_response());
    }
    state.count(|requests| requests.lists += 1);
    if let Some(version) = query.version {
        state.fresh(version).await?;
    }
    // Any version is what kube-apiserver has in its cache, and from there it gives no pages.
    let limit = query.limit.filter(|_| query.version != Some(0));
    let page = state.objects().list(&scope, &query.selector, limit, query.from)?;
    let items: Vec<Value> = page.items.iter().map(|item| item.shown(form)).collect();
    let (kind, api_version) = match form {
        Form::Full => (format!("{KIND}List"), API_VERSION),
        Form::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1"),
    };
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if let Some(next) = page.next {
        metadata["continue"] = next.token().into();
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    let list = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items});
    Ok(answer(StatusCode::OK, &list))
}

async fn read(state: Shared, Path((namespace, name)): Path<(String, String)>, headers: HeaderMap) -> Answer {
    Ok(answer(StatusCode::OK, &state.get(&namespace, &name)?.shown(request::form(&headers)?)))
}

async fn create(state: Shared, Path(namespace): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let form = request::form(&headers)?;
    if media_type(&headers) != "application/json" {
        return Err(Refusal::media_type("application/json"));
    }
    let object = serde_json::from_slice(&body).map_err(|error| {
        Refusal::bad_request(format!("the object provided is unrecognized (must be of type {KIND}): {error}"))
    })?;
    Ok(answer(StatusCode::CREATED, &state.create(&namespace, object)?.shown(form)))
}

async fn patch(
    state: Shared,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    state.count(|requests| requests.patches += 1);
    let refused = *state.refuse_patches.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(status) = refused {
        return Err(Refusal::played(status, &namespace, &name));
    }
    let form = request::form(&headers)?;
    if media_type(&headers) != MERGE_PATCH {
        return Err(Refusal::media_type(MERGE_PATCH));
    }
    let patch = serde_json::from_slice(&body)
        .map_err(|error| Refusal::bad_request(format!("error decoding patch: {error}")))?;
    Ok(answer(StatusCode::OK, &state.patch(&namespace, &name, &patch)?.shown(form)))
}

async fn delete(state: Shared, Path((namespace, name)): Path<(String, String)>, body: Bytes) -> Answer {
    let options: Value = match &*body {
        [] => Value::Null,
        body => serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()))?,
    };
    if !options["preconditions"].is_null() {
        return Err(Refusal::bad_request("the simulated API server has no preconditions for deletions"));
    }
    let deleted = state.delete(&namespace, &name)?;
    let details = json!({"name": name, "group": "argoproj.io", "kind": "workflows", "uid": deleted.text("uid")});
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    Ok(answer(StatusCode::OK, &status))
}

fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

fn answer(status: StatusCode, body: &Value) -> Response<Body> {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
