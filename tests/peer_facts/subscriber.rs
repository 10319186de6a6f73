//! The grpc-go subscriber reports what happens to its stream.

use std::net::SocketAddr;
use std::time::Duration;

use test_support::{Line, Peers, SOON};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

use test_support::generic::{
    Event, EventSource,
    eventing_server::{Eventing, EventingServer},
};

pub(crate) type Events = mpsc::Sender<Result<Event, Status>>;

/// Sends the request and the event sender of every stream to the test.
struct Service(mpsc::UnboundedSender<(Request<()>, EventSource, Events)>);

#[tonic::async_trait]
impl Eventing for Service {
    type StartEventSourceStream = ReceiverStream<Result<Event, Status>>;

    async fn start_event_source(
        &self,
        request: Request<EventSource>,
    ) -> Result<Response<Self::StartEventSourceStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        if message.config.is_empty() {
            return Err(Status::invalid_argument("kfpNamespace is missing"));
        }
        let (events, stream) = mpsc::channel(16);
        let request = Request::from_parts(metadata, extensions, ());
        self.0.send((request, message, events)).expect("the test receives");
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    streams: mpsc::UnboundedReceiver<(Request<()>, EventSource, Events)>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let (sender, streams) = mpsc::unbounded_channel();
        let incoming = TcpListenerStream::new(listener);
        let service = EventingServer::new(Service(sender));
        tokio::spawn(tonic::transport::Server::builder().serve_with_incoming(service, incoming));
        Self { addr, streams }
    }

    pub(crate) async fn stream(&mut self) -> (Request<()>, EventSource, Events) {
        tokio::time::timeout(SOON, self.streams.recv()).await.expect("a stream in time").expect("the server runs")
    }
}

pub(crate) fn event(payload: &str) -> Result<Event, Status> {
    Ok(Event { name: "model-update".to_owned(), payload: payload.as_bytes().to_vec() })
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn it_subscribes_as_argo_does_and_reports_events_and_the_end() {
    let peers = Peers::find().await;
    let mut server = Server::start().await;
    let client = peers.grpc_go_client(server.addr, "kfpNamespace: team").name("other").token("secret").window(70_000);
    let mut client = client.start();
    let (request, source, events) = server.stream().await;
    assert_eq!((source.name.as_str(), source.config.as_slice()), ("other", b"kfpNamespace: team".as_slice()));
    assert_eq!(request.metadata().get("authorization").expect("a token"), "Bearer secret");
    assert_eq!(client.next(SOON).await, Some(Line::Open(true)));

    for payload in [r#"{"pipelineName":"<ünï>"}"#, ""] {
        events.send(event(payload)).await.expect("the stream is open");
        let expected = Line::Event { name: "model-update".to_owned(), payload: payload.to_owned() };
        assert_eq!(client.next(SOON).await, Some(expected));
    }
    drop(events);
    let end = Line::Status { code: "OK".to_owned(), message: String::new() };
    assert_eq!((client.next(SOON).await, client.next(SOON).await), (Some(end), None));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn it_reports_a_refusal_and_an_absent_server() {
    let peers = Peers::find().await;
    let server = Server::start().await;
    let refused = peers.grpc_go_client(server.addr, "").start().next(SOON).await;
    let message = "kfpNamespace is missing".to_owned();
    assert_eq!(refused, Some(Line::Status { code: "InvalidArgument".to_owned(), message }));

    let no_listener = SocketAddr::from(([127, 0, 0, 1], 1));
    let refused = peers.grpc_go_client(no_listener, "kfpNamespace: team").start().next(SOON).await;
    assert!(matches!(&refused, Some(Line::Status { code, .. }) if code == "Unavailable"), "{refused:?}");
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn it_cancels_after_the_given_number_of_events() {
    let peers = Peers::find().await;
    let mut server = Server::start().await;
    let mut client = peers.grpc_go_client(server.addr, "kfpNamespace: team").count(1).start();
    let (_, _, events) = server.stream().await;
    events.send(event("one")).await.expect("the stream is open");
    assert_eq!(client.payload(SOON).await, "one");
    tokio::time::timeout(SOON, events.closed()).await.expect("the stream is cancelled");
    assert!(matches!(client.next(SOON).await, Some(Line::Status { code, .. }) if code == "Canceled"));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn it_reads_nothing_while_paused_and_everything_after() {
    let peers = Peers::find().await;
    let mut server = Server::start().await;
    let mut client = peers.grpc_go_client(server.addr, "kfpNamespace: team").start();
    let (_, _, events) = server.stream().await;
    assert_eq!(client.next(SOON).await, Some(Line::Open(true)));
    client.pause();
    for _ in 0..10 {
        events.send(event("late")).await.expect("its kernel receives it");
    }
    let silence = tokio::time::timeout(Duration::from_millis(300), client.next(SOON)).await;
    assert!(silence.is_err(), "a paused process printed {silence:?}");
    client.resume();
    for _ in 0..10 {
        assert_eq!(client.payload(SOON).await, "late");
    }
}
