//! A small Kubernetes API server for Workflows: list, watch and merge patch over HTTP/1.1, without TLS.
//!
//! `tests/sim` holds it to kube-apiserver 1.36. The differences:
//!
//! - answers have metadata only (`PartialObjectMetadata`), whatever the client accepts;
//! - every request is allowed, and every namespace exists;
//! - names, labels, annotations and patches are not validated; `generation` and `managedFields` are absent;
//! - a list shows the newest version, whatever its `resourceVersion`, and its pages expire with the next change;
//! - a watch needs a `resourceVersion` and sends no bookmarks;
//! - selectors consist of the requirements `key`, `!key` and `key=value`;
//! - other parameters of lists and watches are refused.

mod objects;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{self, Path, RawQuery},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, patch},
};
use futures::{Stream, future::OptionFuture, stream};
use kube::core::{Expression, Selector, Status};
use serde_json::{Map, Value, json};
use tokio::{
    sync::watch as channel,
    time::{Instant, sleep_until},
};

use self::objects::{Objects, Selection, bad_request, failure};
use super::builders::API_VERSION;

const PARAMETERS: [&str; 7] =
    ["watch", "labelSelector", "limit", "continue", "resourceVersion", "timeoutSeconds", "allowWatchBookmarks"];

/// The number of requests to the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Started watches.
    pub watches: u64,
    /// Patches, including refused ones.
    pub patches: u64,
}

/// The state that all requests share.
#[derive(Default)]
pub(super) struct Server {
    objects: Mutex<Objects>,
    /// The version of the objects.
    pub(super) version: channel::Sender<u64>,
    pub(super) requests: channel::Sender<Requests>,
    /// The status with which patches are refused.
    pub(super) patch_refusal: Mutex<Option<StatusCode>>,
}

impl Server {
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        let (outcome, version) = {
            let mut objects = self.objects();
            (change(&mut objects), objects.version)
        };
        // Not under the lock of the objects: a receiver may read them in `wait_for`.
        self.version.send_if_modified(|latest| version > std::mem::replace(latest, version.max(*latest)));
        outcome
    }

    pub(super) fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn router(server: Arc<Server>) -> Router {
    let base = format!("/apis/{API_VERSION}");
    Router::new()
        .route(&format!("{base}/workflows"), get(list_or_watch))
        .route(&format!("{base}/namespaces/{{namespace}}/workflows"), get(list_or_watch))
        .route(&format!("{base}/namespaces/{{namespace}}/workflows/{{name}}"), patch(merge_patch))
        .with_state(server)
}

async fn list_or_watch(
    extract::State(server): extract::State<Arc<Server>>,
    namespace: Option<Path<String>>,
    RawQuery(query): RawQuery,
) -> Response {
    answer(select(server, namespace.map(|Path(namespace)| namespace), &query.unwrap_or_default()))
}

/// Answers a list or starts a watch.
fn select(server: Arc<Server>, namespace: Option<String>, query: &str) -> Result<Body, Box<Status>> {
    let query: HashMap<String, String> =
        form_urlencoded::parse(query.as_bytes()).into_owned().filter(|(_, value)| !value.is_empty()).collect();
    let text = |key: &str| query.get(key).map(String::as_str);
    let number = |key: &str| {
        let number = text(key).map(str::parse::<u64>).transpose();
        number.map_err(|error| bad_request(&format!("{key}: {error}")))
    };
    if let Some(unknown) = query.keys().find(|key| !PARAMETERS.contains(&key.as_str())) {
        return Err(bad_request(&format!("the simulated API server does not support {unknown}")));
    }
    let selection = Selection { namespace, selector: selector(text("labelSelector").unwrap_or_default())? };
    let version = number("resourceVersion")?;
    if matches!(text("watch"), Some("true" | "1")) {
        let version = version.ok_or_else(|| bad_request("a watch needs a resourceVersion"))?;
        let timeout = number("timeoutSeconds")?.map(Duration::from_secs);
        server.requests.send_modify(|requests| requests.watches += 1);
        return Ok(Body::from_stream(watch(server, selection, version, timeout)));
    }
    let limit = number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let page = server.objects().list(&selection, limit, text("continue"))?;
    let items: Vec<Value> = page.items.iter().map(|object| partial(object)).collect();
    let list = json!({
        "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": page.version.to_string(), "continue": page.next},
        "items": Some(items).filter(|items| !items.is_empty()),
    });
    Ok(list.to_string().into())
}

async fn merge_patch(
    extract::State(server): extract::State<Arc<Server>>,
    Path((namespace, name)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    server.requests.send_modify(|requests| requests.patches += 1);
    let refusal = *server.patch_refusal.lock().unwrap_or_else(PoisonError::into_inner);
    let patched = match (refusal, serde_json::from_slice::<Map<_, _>>(&body)) {
        (Some(status), _) => Err(failure(status.as_u16(), "", "simulated refusal", Value::Null)),
        (None, Err(error)) => Err(bad_request(&format!("error decoding patch: {error}"))),
        (None, Ok(patch)) => server.change(|objects| objects.patch(&namespace, &name, &patch.into())),
    };
    answer(patched.map(|object| partial(&object).to_string().into()))
}

fn answer(outcome: Result<Body, Box<Status>>) -> Response {
    let (code, body) = match outcome {
        Ok(body) => (200, body),
        Err(status) => (status.code, error_body(&status).to_string().into()),
    };
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn error_body(status: &Status) -> Value {
    let mut body = json!(status);
    body["kind"] = "Status".into();
    body["apiVersion"] = "v1".into();
    body
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// Reads a label selector; an empty text selects everything.
fn selector(text: &str) -> Result<Selector, Box<Status>> {
    let requirement = |text: &str| match (text.strip_prefix('!'), text.split_once('=')) {
        (Some(key), None) => Expression::DoesNotExist(key.to_owned()),
        (None, Some((key, value))) => Expression::Equal(key.to_owned(), value.to_owned()),
        _ => Expression::Exists(text.to_owned()),
    };
    if text.contains([' ', '(', '<', '>']) || text.contains("!=") || text.contains("==") {
        return Err(bad_request(&format!("the simulated API server does not support the selector {text:?}")));
    }
    Ok(text.split(',').filter(|text| !text.is_empty()).map(requirement).collect())
}

/// Returns the lines of a watch.
fn watch(
    server: Arc<Server>,
    selection: Selection,
    version: u64,
    timeout: Option<Duration>,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let end = timeout.map(|timeout| Instant::now() + timeout);
    let changed = server.version.subscribe();
    // Without a position the watch is over.
    stream::unfold((changed, Some(version)), move |(mut changed, position)| {
        let (server, selection) = (server.clone(), selection.clone());
        async move {
            let mut version = position?;
            loop {
                changed.mark_unchanged();
                let (current, events) = {
                    let objects = server.objects();
                    (objects.version, objects.events_since(version, &selection))
                };
                version = version.max(current);
                match events {
                    Err(expired) => return Some((Ok(line("ERROR", &error_body(&expired)).into()), (changed, None))),
                    Ok(events) if !events.is_empty() => {
                        let lines = events.iter().map(|(name, object)| line(name, &partial(object)));
                        return Some((Ok(lines.collect::<String>().into()), (changed, Some(version))));
                    }
                    Ok(_) => {}
                }
                tokio::select! {
                    Ok(()) = changed.changed() => {}
                    Some(()) = OptionFuture::from(end.map(sleep_until)) => return None,
                    else => return None,
                }
            }
        }
    })
}

fn line(event: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": event, "object": object}))
}
