//! An API server in the hands of a test: it sees each request as it would go out, and each answer is the test's own.

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

use super::Client;
use crate::telemetry::metrics::KubernetesMetrics;

/// Longer than anything that the product waits for; time is paused in these tests.
const LONG: Duration = Duration::from_secs(3600);

type Chunks = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;
type Answer = Result<Response<StreamBody<UnboundedReceiverStream<Result<Frame<Bytes>, BoxError>>>>, BoxError>;

/// The requests of one client.
pub(super) struct FakeApi(mpsc::UnboundedReceiver<Asked>);

/// A request that waits for its answer.
pub(super) struct Asked {
    request: Request<Bytes>,
    answer: oneshot::Sender<Answer>,
}

/// A watch that goes on until this is dropped, which ends it well.
pub(super) struct FakeWatch(Chunks);

/// A client and the other end of it.
pub(super) fn fake() -> (Client, FakeApi) {
    let (asked, requests) = mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<Body>| {
        let asked = asked.clone();
        async move {
            let (parts, body) = request.into_parts();
            let request = Request::from_parts(parts, body.collect().await?.to_bytes());
            let (answer, answered) = oneshot::channel();
            asked.send(Asked { request, answer }).map_err(|_| "the test is over")?;
            answered.await.map_err(BoxError::from)?
        }
    });
    let metrics = KubernetesMetrics::new(&mut Registry::default());
    (Client::over(service, "default".to_owned(), metrics), FakeApi(requests))
}

impl FakeApi {
    /// The next request.
    pub(super) async fn next(&mut self) -> Asked {
        timeout(LONG, self.0.recv()).await.expect("there is another request").expect("the client is alive")
    }

    /// Whether no request has come.
    pub(super) fn is_quiet(&self) -> bool {
        self.0.is_empty()
    }

    /// Answers one list with these items, and holds the watch that follows.
    pub(super) async fn list_and_watch(&mut self, items: &[Value]) -> FakeWatch {
        self.next().await.answer_list(items, None);
        self.next().await.answer_watch()
    }
}

impl Asked {
    /// Method, path and query.
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
        self.begin(status).chunk(body.to_owned());
    }

    /// Refuses, with a Status as the API server writes it.
    pub(super) fn refuse(self, status: u16, message: &str) {
        self.answer(status, &failure(status, message));
    }

    pub(super) fn answer_list(self, items: &[Value], continued: Option<&str>) {
        let list = json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"resourceVersion": "100", "continue": continued}, "items": items,
        });
        self.answer(200, &list);
    }

    pub(super) fn answer_watch(self) -> FakeWatch {
        self.begin(200)
    }

    /// No answer: the connection breaks.
    pub(super) fn break_off(self) {
        self.answer.send(Err("connection reset by peer".into())).ok();
    }

    fn begin(self, status: u16) -> FakeWatch {
        let (chunks, body) = mpsc::unbounded_channel();
        let body = StreamBody::new(UnboundedReceiverStream::new(body));
        // Whoever asked may have given up.
        self.answer.send(Ok(Response::builder().status(status).body(body).expect("a response"))).ok();
        FakeWatch(chunks)
    }
}

impl FakeWatch {
    /// `ADDED`, `MODIFIED`, `DELETED`, or `ERROR` with a Status.
    pub(super) fn event(&self, kind: &str, object: &Value) {
        self.chunk(format!("{}\n", json!({"type": kind, "object": object})));
    }

    /// The connection breaks.
    pub(super) fn break_off(self) {
        self.0.send(Err("connection reset by peer".into())).expect("the watch is read");
    }

    fn chunk(&self, text: String) {
        // Whoever asked may have given up.
        self.0.send(Ok(Frame::data(text.into()))).ok();
    }
}

/// A Status as the API server writes it.
pub(super) fn failure(status: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": "x", "message": message})
}

/// The metadata of a Workflow, as the API server shows it.
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
    let sum = name.bytes().fold(7_u64, |sum, octet| sum.wrapping_mul(31).wrapping_add(octet.into()));
    format!("0b64ec22-9e1f-4c8e-8a2f-{:012x}", sum & 0xffff_ffff_ffff)
}
