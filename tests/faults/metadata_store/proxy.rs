//! A proxy of a source of models that forwards calls and injects faults, chosen by the name of the run and by the call. So
//! some runs have a faulty store while the same store serves others.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use test_support::{
    CATCH_UP, eventually,
    kfp_api::{GetRunRequest, ListTasksRequest},
    ml_metadata::{
        GetArtifactsByContextRequest, GetArtifactsByContextResponse, GetContextByTypeAndNameRequest,
        GetContextByTypeAndNameResponse, GetEventsByArtifactIDsRequest,
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tonic::{
    Code, Status,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::ServiceExt as _;

pub(crate) const CONTEXT: &str = "GetContextByTypeAndName";
pub(crate) const ARTIFACTS: &str = "GetArtifactsByContext";
pub(crate) const EXECUTIONS: &str = "GetExecutionsByContext";
pub(crate) const EVENTS: &str = "GetEventsByArtifactIDs";

pub(crate) const LIST_TASKS: &str = "ListTasks";
pub(crate) const GET_RUN: &str = "GetRun";

/// Length of the prefix of a gRPC message: a flag and a length.
const PREFIX: usize = 5;

/// The answer to a call with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An error with this code.
    Code(Code),
    /// An HTTP response with this status and without gRPC.
    Http(StatusCode),
    /// An HTML page, the usual answer of a wrong port.
    HtmlPage,
    /// A complete message that cannot be decoded.
    InvalidMessage,
    /// A message that is marked as compressed and is not.
    NotCompressed,
    /// The first half of the real answer, with status OK.
    Truncated,
    /// The real answer without a status.
    NoStatus,
    /// The real answer, and then an error status.
    ErrorAfterMessage,
    /// Status OK without a message.
    NoMessage,
    /// A reset of the call's stream.
    Reset,
    /// The real answer, after a pause.
    Delay(Duration),
    /// No answer.
    Unanswered,
}

/// A running proxy. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct StoreProxy {
    address: SocketAddr,
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    store: Channel,
    state: Mutex<State>,
    /// Number of injected faults of each run.
    injected: watch::Sender<BTreeMap<String, usize>>,
}

#[derive(Debug, Default)]
struct State {
    /// No call is answered.
    is_paused: bool,
    /// The fault of each run, with its calls.
    faults: HashMap<String, (Vec<&'static str>, Fault)>,
    /// The runs of contexts.
    contexts: HashMap<i64, String>,
    /// The runs of artifacts.
    artifacts: HashMap<i64, String>,
}

impl StoreProxy {
    /// Starts a proxy of the store at this URL.
    pub(crate) async fn start(store: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let store = Endpoint::from_shared(store.to_owned()).expect("a URL").connect_lazy();
        let inner = Arc::new(Inner { store, state: Mutex::default(), injected: watch::Sender::default() });
        let serving = tokio::spawn(serve(listener, inner.clone()));
        Self { address, inner, serving }
    }

    /// URL for `--metadata-store`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Injects this fault into these calls for a run, from now on.
    pub(crate) fn inject(&self, run: &str, calls: &[&'static str], fault: Fault) {
        self.inner.state().faults.insert(run.to_owned(), (calls.to_vec(), fault));
    }

    /// Answers no call from now on.
    pub(crate) fn pause(&self) {
        self.inner.state().is_paused = true;
    }

    /// Ends the connections, and accepts no further ones.
    pub(crate) fn kill(&self) {
        self.serving.abort();
    }

    /// Listens again at the same address after [`StoreProxy::kill`], and answers calls.
    pub(crate) async fn restart(&mut self) {
        self.inner.state().is_paused = false;
        let listener =
            eventually(CATCH_UP, "the address is free", async || TcpListener::bind(self.address).await).await;
        self.serving = tokio::spawn(serve(listener, self.inner.clone()));
    }

    /// Forwards every call from now on.
    pub(crate) fn clear_faults(&self) {
        self.inner.state().faults.clear();
    }

    /// Waits until the fault of a run was injected this number of times.
    pub(crate) async fn injected(&self, run: &str, times: usize) {
        let mut injected = self.inner.injected.subscribe();
        let enough = injected.wait_for(|injected| injected.get(run).is_some_and(|count| *count >= times));
        let result = timeout(CATCH_UP, enough).await;
        result.unwrap_or_else(|_| panic!("fewer than {times} lookups of {run}")).expect("the proxy runs");
    }
}

impl Drop for StoreProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, inner: Arc<Inner>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        connections.spawn(serve_connection(stream, inner.clone()));
    }
}

async fn serve_connection(stream: TcpStream, inner: Arc<Inner>) {
    stream.set_nodelay(true).expect("a socket option");
    let service = service_fn(move |request| {
        let inner = inner.clone();
        async move { inner.answer(request).await }
    });
    // The client may end the connection in any way.
    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }

    /// Answers a call.
    ///
    /// # Errors
    /// Every error resets the call's stream.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let (parts, body) = request.into_parts();
        let request_bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
        if self.state().is_paused {
            std::future::pending::<()>().await;
        }
        let run = self.state().run(&call, &request_bytes);
        let fault = run.as_ref().and_then(|run| self.state().fault(run, &call));
        if let (Some(run), Some(_)) = (&run, fault) {
            self.injected.send_modify(|injected| *injected.entry(run.clone()).or_default() += 1);
        }
        match fault {
            Some(Fault::Code(code)) => return Ok(Status::new(code, "injected").into_http()),
            Some(Fault::Http(status)) => return Ok(http(status, "text/plain", "no healthy upstream")),
            Some(Fault::HtmlPage) => {
                return Ok(http(StatusCode::OK, "text/html", "<html><body>Kubeflow</body></html>"));
            }
            Some(Fault::InvalidMessage) => {
                return Ok(grpc(frame(0, b"\xff\xff\xff\xff\xff\xff"), Some(Code::Ok)));
            }
            Some(Fault::NotCompressed) => return Ok(grpc(frame(1, b"no gzip"), Some(Code::Ok))),
            Some(Fault::NoMessage) => return Ok(grpc(Bytes::new(), Some(Code::Ok))),
            Some(Fault::Reset) => return Err(io::Error::other("injected")),
            Some(Fault::Delay(pause)) => tokio::time::sleep(pause).await,
            Some(Fault::Unanswered) => std::future::pending().await,
            Some(Fault::Truncated | Fault::NoStatus | Fault::ErrorAfterMessage) | None => {}
        }

        let forwarded = Request::from_parts(parts, Body::new(Full::new(request_bytes)));
        let answer = self.store.clone().oneshot(forwarded).await.map_err(io::Error::other)?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?;
        let trailers = body.trailers().cloned();
        let bytes = body.to_bytes();
        if let Some(run) = &run {
            self.state().learn(run, &call, &bytes);
        }
        Ok(match fault {
            Some(Fault::Truncated) => grpc(bytes.slice(..bytes.len() / 2), Some(Code::Ok)),
            Some(Fault::NoStatus) => grpc(bytes, None),
            Some(Fault::ErrorAfterMessage) => grpc(bytes, Some(Code::DataLoss)),
            _ => Response::from_parts(parts, with_trailers(bytes, trailers)),
        })
    }
}

impl State {
    /// Returns the run of a request.
    fn run(&self, call: &str, request: &[u8]) -> Option<String> {
        let message = request.get(PREFIX..)?;
        match call {
            CONTEXT => Some(GetContextByTypeAndNameRequest::decode(message).ok()?.context_name().to_owned()),
            // Both requests have the same field.
            ARTIFACTS | EXECUTIONS => {
                self.contexts.get(&GetArtifactsByContextRequest::decode(message).ok()?.context_id()).cloned()
            }
            EVENTS => {
                let first = *GetEventsByArtifactIDsRequest::decode(message).ok()?.artifact_ids.first()?;
                self.artifacts.get(&first).cloned()
            }
            LIST_TASKS => Some(ListTasksRequest::decode(message).ok()?.run_id),
            GET_RUN => Some(GetRunRequest::decode(message).ok()?.run_id),
            _ => None,
        }
    }

    fn fault(&self, run: &str, call: &str) -> Option<Fault> {
        self.faults.get(run).filter(|(calls, _)| calls.contains(&call)).map(|(_, fault)| *fault)
    }

    /// Records the contexts and artifacts of a run from an answer of the store.
    fn learn(&mut self, run: &str, call: &str, answer: &[u8]) {
        let message = answer.get(PREFIX..).unwrap_or_default();
        if call == CONTEXT
            && let Ok(GetContextByTypeAndNameResponse { context: Some(context) }) = Message::decode(message)
        {
            self.contexts.insert(context.id(), run.to_owned());
        } else if call == ARTIFACTS
            && let Ok(GetArtifactsByContextResponse { artifacts, .. }) = Message::decode(message)
        {
            self.artifacts.extend(artifacts.iter().map(|artifact| (artifact.id(), run.to_owned())));
        }
    }
}

fn http(status: StatusCode, content_type: &str, text: &'static str) -> Response<Body> {
    let body = Body::new(Full::new(Bytes::from_static(text.as_bytes())));
    Response::builder().status(status).header("content-type", content_type).body(body).expect("a response")
}

/// Returns a message with the prefix that gRPC requires.
fn frame(flag: u8, message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[flag][..], &length.to_be_bytes(), message].concat().into()
}

fn grpc(bytes: Bytes, status: Option<Code>) -> Response<Body> {
    let trailers = status
        .map(|code| HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), i32::from(code).into())]));
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(with_trailers(bytes, trailers)).expect("a response")
}

fn with_trailers(bytes: Bytes, trailers: Option<HeaderMap>) -> Body {
    match trailers {
        Some(trailers) => Body::new(Full::new(bytes).with_trailers(async { Some(Ok(trailers)) })),
        None => Body::new(Full::new(bytes)),
    }
}
