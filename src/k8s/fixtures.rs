//! A fake API server: the test sees each request as the client sends it, and sends each answer.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::{BoxError, service_fn};

use super::{Client, KubernetesMetrics};

/// Longer than every timeout under test. These tests run in paused time.
const LONG: Duration = Duration::from_secs(3600);

type Chunks = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;
type Answer = Result<Response<StreamBody<UnboundedReceiverStream<Result<Frame<Bytes>, BoxError>>>>, BoxError>;

/// The requests of one client.
pub(super) struct FakeApi(mpsc::UnboundedReceiver<PendingRequest>);

/// A request without an answer yet.
pub(super) struct PendingRequest {
    request: Request<Bytes>,
    answer: oneshot::Sender<Answer>,
}

/// The body of an answer: a watch, or a list that arrives in chunks. Dropping it ends the answer without an error.
pub(super) struct FakeBody(Chunks);

/// A client, and the API server that it talks to.
pub(super) fn fake_client() -> (Client, FakeApi) {
    let (sender, requests) = mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<Body>| {
        let sender = sender.clone();
        async move {
            let (parts, body) = request.into_parts();
            let request = Request::from_parts(parts, body.collect().await?.to_bytes());
            let (answer, answered) = oneshot::channel();
            sender.send(PendingRequest { request, answer }).map_err(|_| "the test has ended")?;
            answered.await.map_err(BoxError::from)?
        }
    });
    let metrics = KubernetesMetrics::new(&mut Registry::default());
    (Client::over(service, "default".to_owned(), metrics), FakeApi(requests))
}

impl FakeApi {
    /// Waits for the next request.
    pub(super) async fn next(&mut self) -> PendingRequest {
        timeout(LONG, self.0.recv()).await.expect("there is another request").expect("the client is alive")
    }

    /// Returns whether no request is pending.
    pub(super) fn is_idle(&self) -> bool {
        self.0.is_empty()
    }

    /// Answers a list with these items, and then the watch.
    pub(super) async fn list_and_watch(&mut self, items: &[Value]) -> FakeBody {
        self.next().await.answer_list(items, None);
        self.next().await.answer_watch()
    }
}

impl PendingRequest {
    /// Returns method, path and query.
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.request.method(), self.request.uri())
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.request.headers().get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.request.body()[..]).expect("a body of JSON")
    }

    pub(super) fn answer(self, status: u16, body: &Value) {
        self.answer_text(status, &body.to_string());
    }

    pub(super) fn answer_text(self, status: u16, body: &str) {
        self.answer_with(status, "application/json", body);
    }

    pub(super) fn answer_with(self, status: u16, content_type: &str, body: &str) {
        self.begin(status, content_type).chunk(body.to_owned());
    }

    /// Answers with a Kubernetes Status.
    pub(super) fn refuse(self, status: u16, message: &str) {
        self.answer(status, &failure(status, message));
    }

    pub(super) fn answer_list(self, items: &[Value], continued: Option<&str>) {
        self.answer(200, &list(items, continued));
    }

    pub(super) fn answer_watch(self) -> FakeBody {
        self.begin(200, "application/json")
    }

    /// Resets the connection instead of an answer.
    pub(super) fn reset(self) {
        self.answer.send(Err("connection reset by peer".into())).ok();
    }

    /// Sends the headers of an answer. The body is open.
    pub(super) fn begin(self, status: u16, content_type: &str) -> FakeBody {
        let (chunks, body) = mpsc::unbounded_channel();
        let body = StreamBody::new(UnboundedReceiverStream::new(body));
        let response = Response::builder().status(status).header("content-type", content_type).body(body);
        // The client may have timed out.
        self.answer.send(Ok(response.expect("a response"))).ok();
        FakeBody(chunks)
    }
}

impl FakeBody {
    /// Sends an event: `ADDED`, `MODIFIED`, `DELETED`, or `ERROR` with a Status.
    pub(super) fn event(&self, kind: &str, object: &Value) {
        self.chunk(format!("{}\n", json!({"type": kind, "object": object})));
    }

    /// Resets the connection.
    pub(super) fn reset(self) {
        self.0.send(Err("connection reset by peer".into())).expect("the watch is read");
    }

    pub(super) fn chunk(&self, text: impl Into<Bytes>) {
        // The client may have timed out.
        self.0.send(Ok(Frame::data(text.into()))).ok();
    }
}

/// A page of a list.
pub(super) fn list(items: &[Value], continued: Option<&str>) -> Value {
    json!({
        "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": "100", "continue": continued}, "items": items,
    })
}

/// A Kubernetes Status.
pub(super) fn failure(status: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": "x", "message": message})
}

/// The metadata of a Workflow.
pub(super) fn workflow(name: &str, version: u32) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {
            "name": name, "namespace": "team", "uid": uid_of(name), "resourceVersion": version.to_string(),
            "creationTimestamp": "2026-08-01T10:00:00Z", "labels": {"workflows.argoproj.io/phase": "Running"},
        },
    })
}

/// A UID for each name.
pub(super) fn uid_of(name: &str) -> String {
    let sum = name.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("0b64ec22-9e1f-4c8e-8a2f-{:012x}", sum & 0xffff_ffff_ffff)
}
