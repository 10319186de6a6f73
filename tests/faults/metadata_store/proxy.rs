//! Stands between the product and the real store, hands every call on, and answers in its place where it is told to: by
//! the name of the run and by the call. So some runs meet a store gone wrong while others flow through the same one.

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
    CATCH_UP,
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

/// The calls that a lookup of a compiled run with a named model is made of.
pub(crate) const CALLS: [&str; 4] = [CONTEXT, ARTIFACTS, EXECUTIONS, EVENTS];

/// gRPC puts a flag and a length before each message.
const PREFIX: usize = 5;

/// What is done to a call instead of handing it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An error of this code.
    Code(Code),
    /// An HTTP answer of this status that has nothing to do with gRPC.
    Http(StatusCode),
    /// A web page, which is what a wrong port mostly has to say.
    Page,
    /// A whole message of octets that are none.
    Octets,
    /// A message that is announced as compressed, and is not.
    Compressed,
    /// The right answer, cut in its middle, and called complete.
    Half,
    /// The right answer without the word on whether the call went well.
    NoStatus,
    /// The right answer, and then the word that the call failed.
    Revoked,
    /// A status and no answer.
    NoMessage,
    /// The stream of the call is reset.
    Reset,
    /// The right answer, so much later.
    After(Duration),
    /// No answer.
    Never,
}

/// A running proxy. It ends when this is dropped.
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
    /// How often each run has met its fault.
    played: watch::Sender<BTreeMap<String, usize>>,
}

#[derive(Debug, Default)]
struct State {
    /// By run: in these calls, this.
    faults: HashMap<String, (Vec<&'static str>, Fault)>,
    /// Whose contexts and artifacts these are.
    contexts: HashMap<i64, String>,
    artifacts: HashMap<i64, String>,
}

impl StoreProxy {
    /// Starts one before the store under this URL.
    pub(crate) async fn start(store: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let store = Endpoint::from_shared(store.to_owned()).expect("a URL").connect_lazy();
        let inner = Arc::new(Inner { store, state: Mutex::default(), played: watch::Sender::default() });
        let serving = tokio::spawn(serve(listener, inner.clone()));
        Self { address, inner, serving }
    }

    /// As for `--metadata-store`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this run meets this fault in these calls.
    pub(crate) fn misbehave(&self, run: &str, calls: &[&'static str], fault: Fault) {
        self.inner.state().faults.insert(run.to_owned(), (calls.to_vec(), fault));
    }

    /// From now on every call is handed on.
    pub(crate) fn behave(&self) {
        self.inner.state().faults.clear();
    }

    /// Waits until this run has met its fault so often.
    pub(crate) async fn played(&self, run: &str, times: usize) {
        let mut played = self.inner.played.subscribe();
        let enough = played.wait_for(|played| played.get(run).is_some_and(|count| *count >= times));
        timeout(CATCH_UP, enough).await.unwrap_or_else(|_| panic!("{run} is not asked for")).expect("the proxy runs");
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
        let (stream, _) = listener.accept().await.expect("connections are accepted");
        connections.spawn(connection(stream, inner.clone()));
    }
}

async fn connection(stream: TcpStream, inner: Arc<Inner>) {
    stream.set_nodelay(true).expect("an option of the socket");
    let service = service_fn(move |request| {
        let inner = inner.clone();
        async move { inner.answer(request).await }
    });
    // How it ends is for the other side to bear.
    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }

    /// An error resets the stream.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let (parts, body) = request.into_parts();
        let asked = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let run = self.state().run(&call, &asked);
        let fault = run.as_ref().and_then(|run| self.state().fault(run, &call));
        if let (Some(run), Some(_)) = (&run, fault) {
            self.played.send_modify(|played| *played.entry(run.clone()).or_default() += 1);
        }
        match fault {
            Some(Fault::Code(code)) => return Ok(Status::new(code, "played").into_http()),
            Some(Fault::Http(status)) => return Ok(http(status, "text/plain", "no healthy upstream")),
            Some(Fault::Page) => return Ok(http(StatusCode::OK, "text/html", "<html><body>Kubeflow</body></html>")),
            Some(Fault::Octets) => return Ok(message(frame(0, b"\xff\xff\xff\xff\xff\xff"), Some(Code::Ok))),
            Some(Fault::Compressed) => return Ok(message(frame(1, b"no gzip"), Some(Code::Ok))),
            Some(Fault::NoMessage) => return Ok(message(Bytes::new(), Some(Code::Ok))),
            Some(Fault::Reset) => return Err(io::Error::other("played")),
            Some(Fault::After(pause)) => tokio::time::sleep(pause).await,
            Some(Fault::Never) => std::future::pending().await,
            Some(Fault::Half | Fault::NoStatus | Fault::Revoked) | None => {}
        }

        let handed_on = Request::from_parts(parts, Body::new(Full::new(asked)));
        let answer = self.store.clone().oneshot(handed_on).await.map_err(io::Error::other)?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?;
        let trailers = body.trailers().cloned();
        let octets = body.to_bytes();
        if let Some(run) = &run {
            self.state().learn(run, &call, &octets);
        }
        Ok(match fault {
            Some(Fault::Half) => message(octets.slice(..octets.len() / 2), Some(Code::Ok)),
            Some(Fault::NoStatus) => message(octets, None),
            Some(Fault::Revoked) => message(octets, Some(Code::DataLoss)),
            _ => Response::from_parts(parts, with_trailers(octets, trailers)),
        })
    }
}

impl State {
    /// Which run is asked for.
    fn run(&self, call: &str, asked: &[u8]) -> Option<String> {
        let message = asked.get(PREFIX..)?;
        match call {
            CONTEXT => Some(GetContextByTypeAndNameRequest::decode(message).ok()?.context_name().to_owned()),
            // The same field in both.
            ARTIFACTS | EXECUTIONS => {
                self.contexts.get(&GetArtifactsByContextRequest::decode(message).ok()?.context_id()).cloned()
            }
            EVENTS => {
                let first = *GetEventsByArtifactIDsRequest::decode(message).ok()?.artifact_ids.first()?;
                self.artifacts.get(&first).cloned()
            }
            _ => None,
        }
    }

    fn fault(&self, run: &str, call: &str) -> Option<Fault> {
        self.faults.get(run).filter(|(calls, _)| calls.contains(&call)).map(|(_, fault)| *fault)
    }

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
    Response::builder().status(status).header("content-type", content_type).body(body).expect("an answer")
}

fn frame(flag: u8, octets: &[u8]) -> Bytes {
    let length = u32::try_from(octets.len()).expect("a short message");
    [&[flag][..], &length.to_be_bytes(), octets].concat().into()
}

fn message(octets: Bytes, status: Option<Code>) -> Response<Body> {
    let trailers = status
        .map(|code| HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), i32::from(code).into())]));
    let answer = Response::builder().header("content-type", "application/grpc");
    answer.body(with_trailers(octets, trailers)).expect("an answer")
}

fn with_trailers(octets: Bytes, trailers: Option<HeaderMap>) -> Body {
    match trailers {
        Some(trailers) => Body::new(Full::new(octets).with_trailers(async { Some(Ok(trailers)) })),
        None => Body::new(Full::new(octets)),
    }
}
