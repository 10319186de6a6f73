//! An API server that has succeeded Workflows and nothing else: it serves lists and watches of their metadata. Each
//! page is made from a template, so that a hundred thousand Workflows take no memory here, and no time of the
//! measurement.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::Write as _,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    http::header,
    response::{IntoResponse as _, Response},
};
use futures::stream;
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::sleep};

/// Namespaces of the Workflows.
const NAMESPACES: usize = 1_000;
/// Entries of `managedFields` about nodes of the status, of which Argo's controller writes one for each task.
const NODES: usize = 9;
/// The line of a watch whose version the API server has forgotten.
const EXPIRED: &str = concat!(
    r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"#,
    r#""message":"too old resource version"}}"#,
    "\n"
);

/// The server. Dropping it closes its port.
pub(crate) struct Workflows {
    shared: Arc<Shared>,
    /// The URL of the API server.
    pub(crate) url: String,
    _server: JoinSet<()>,
}

struct Shared {
    number: AtomicUsize,
    /// The fields of the metadata that are the same in every Workflow.
    common: String,
    /// Counts the expirations of watches.
    expired: watch::Sender<u64>,
    /// Counts the complete lists.
    listed: watch::Sender<u64>,
}

impl Workflows {
    /// Starts without a Workflow. Each will have this number of bytes of annotations.
    pub(crate) async fn start(annotations: usize) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            number: AtomicUsize::new(0),
            common: common(annotations),
            expired: watch::Sender::default(),
            listed: watch::Sender::default(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new().fallback(list_or_watch).with_state(shared.clone());
        let mut server = JoinSet::new();
        server.spawn(async { axum::serve(listener, router).await.expect("the server serves") });
        Ok(Self { shared, url, _server: server })
    }

    /// Sets the number of Workflows, for the next list.
    pub(crate) fn set_number(&self, number: usize) {
        self.shared.number.store(number, Ordering::Relaxed);
    }

    /// Ends all watches with 410, and waits until their client has listed all Workflows again.
    pub(crate) async fn relist(&self) {
        let mut listed = self.shared.listed.subscribe();
        listed.mark_unchanged();
        self.shared.expired.send_modify(|number| *number += 1);
        listed.changed().await.expect("the sender is here");
    }

    /// The bytes of the metadata of one Workflow.
    pub(crate) fn metadata_bytes(&self) -> usize {
        self.shared.item(0).len()
    }
}

impl Shared {
    /// The number of the namespace of a Workflow. A list is ordered by namespace, as that of a real API server.
    fn namespace(&self, number: usize) -> usize {
        number * NAMESPACES / self.number.load(Ordering::Relaxed).max(NAMESPACES)
    }

    fn item(&self, number: usize) -> String {
        // Their beginnings differ, as those of real ones do: the store has a table of these.
        let uid = format!("{number:08x}-9e1f-4c8e-8a2f-{number:012x}");
        format!(
            r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{{"name":"penguin-pipeline-{number:07}","namespace":"team-{}","uid":"{uid}","resourceVersion":"{}","creationTimestamp":"2026-08-01T10:00:00Z","labels":{{"pipeline/runid":"{uid}","workflows.argoproj.io/completed":"true","workflows.argoproj.io/phase":"Succeeded"}},{}}}}}"#,
            self.namespace(number),
            number + 1,
            self.common
        )
    }
}

/// The annotations, and managed fields like those that an API server makes of the writes of Kubeflow and Argo's
/// controller.
fn common(annotations: usize) -> String {
    let owned = |keys: &[&str]| keys.iter().map(|key| (format!("f:{key}"), json!({}))).collect::<Map<_, _>>();
    let node = owned(&[
        "boundaryID",
        "children",
        "displayName",
        "finishedAt",
        "hostNodeName",
        "id",
        "name",
        "outputs",
        "phase",
        "progress",
        "resourcesDuration",
        "startedAt",
        "templateName",
        "templateScope",
        "type",
    ]);
    let nodes: Map<String, Value> =
        (0..NODES).map(|number| (format!("f:penguin-pipeline-{number:010}"), Value::Object(node.clone()))).collect();
    let entry = |manager: &str, fields: Value| {
        json!({
            "manager": manager, "operation": "Update", "apiVersion": "argoproj.io/v1alpha1", "fieldsType": "FieldsV1",
            "time": "2026-08-01T10:20:00Z", "fieldsV1": fields,
        })
    };
    let keys = ["pipelines.kubeflow.org/pipeline_spec", "pipelines.kubeflow.org/run_log"];
    let labels = ["workflows.argoproj.io/completed", "workflows.argoproj.io/phase"];
    let spec = json!({"description": "", "inputs": [], "name": "penguin-pipeline"}).to_string();
    let metadata = json!({
        "annotations": {keys[0]: spec, keys[1]: "x".repeat(annotations)},
        "managedFields": [
            entry("apiserver", json!({
                "f:metadata": {"f:annotations": owned(&keys), "f:labels": owned(&["pipeline/runid"])},
                "f:spec": owned(&["arguments", "entrypoint", "serviceAccountName", "templates"]),
            })),
            entry("workflow-controller", json!({
                "f:metadata": {"f:labels": owned(&labels)},
                "f:status": {
                    "f:finishedAt": {}, "f:phase": {}, "f:progress": {}, "f:startedAt": {}, "f:nodes": nodes,
                },
            })),
        ],
    });
    let text = metadata.to_string();
    text[1..text.len() - 1].to_owned()
}

async fn list_or_watch(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let parameters: HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let number = |key: &str| parameters.get(key).and_then(|value| value.parse::<usize>().ok());
    let body = if parameters.contains_key("watch") {
        watch_until(&shared, Duration::from_secs(number("timeoutSeconds").unwrap_or(60) as u64))
    } else {
        page(&shared, number("continue").unwrap_or(0), number("limit").unwrap_or(usize::MAX)).into()
    };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A watch without a change, which ends after this time, or with an expiration.
fn watch_until(shared: &Shared, duration: Duration) -> Body {
    let mut expired = shared.expired.subscribe();
    expired.mark_unchanged();
    Body::from_stream(stream::once(async move {
        tokio::select! {
            _ = expired.changed() => Ok::<_, Infallible>(EXPIRED),
            () = sleep(duration) => Ok(""),
        }
    }))
}

fn page(shared: &Shared, first: usize, limit: usize) -> String {
    let all = shared.number.load(Ordering::Relaxed);
    let end = first.saturating_add(limit).min(all);
    let token = if end < all { end.to_string() } else { String::new() };
    let mut text = format!(
        r#"{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"{}","continue":"{token}"}},"items":["#,
        all + 1
    );
    for number in first..end {
        let comma = if number == first { "" } else { "," };
        write!(text, "{comma}{}", shared.item(number)).expect("a String takes everything");
    }
    text.push_str("]}");
    if token.is_empty() {
        shared.listed.send_modify(|number| *number += 1);
    }
    text
}
