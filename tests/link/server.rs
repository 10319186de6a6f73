//! A server of the `generic` protocol on links, whose streams tests write to, and a tonic client.

use std::net::SocketAddr;
use std::time::Duration;

use model_update_eventsource::eventsource::link::{Link, LinkInfo, StreamAcks};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Extensions, Request, Response, Status, Streaming};

use test_support::SOON;
use test_support::generic::{
    Event, EventSource,
    eventing_client::EventingClient,
    eventing_server::{Eventing, EventingServer},
};

pub(crate) type Client = EventingClient<Channel>;

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

/// Returns the next event of a stream.
pub(crate) async fn next(events: &mut Streaming<Event>) -> Event {
    within(events.message()).await.expect("no error").expect("an event")
}

/// The server's side of a stream. Positions are bytes from the start of the stream.
pub(crate) struct Session {
    pub(crate) name: String,
    acks: StreamAcks,
    acked: watch::Receiver<u64>,
    events: Option<mpsc::Sender<Result<Event, Status>>>,
    /// The ends of events that were not acknowledged when [`Session::hand_off_within`] last waited.
    unacknowledged: std::collections::VecDeque<u64>,
    end: u64,
}

impl Session {
    /// Hands off an event and returns the position of its end.
    pub(crate) async fn hand_off(&mut self, payload: Vec<u8>) -> u64 {
        let event = Event { name: "model-update".to_owned(), payload };
        self.end += 5 + event.encoded_len() as u64;
        self.acks.expect(self.end);
        let events = self.events.as_ref().expect("the stream has not been ended");
        within(events.send(Ok(event))).await.expect("the stream is open");
        self.end
    }

    /// Waits until fewer than `max` events are unacknowledged, and then hands off an event.
    pub(crate) async fn hand_off_within(&mut self, max: usize, payload: Vec<u8>) -> u64 {
        while self.unacknowledged.len() >= max {
            let oldest = self.unacknowledged[0];
            let acked = *within(self.acked.wait_for(|acked| *acked >= oldest)).await.expect("the stream is open");
            self.unacknowledged.retain(|end| *end > acked);
        }
        let end = self.hand_off(payload).await;
        self.unacknowledged.push_back(end);
        end
    }

    /// Waits until the stream is acknowledged to this position. Fails if it closes first.
    pub(crate) async fn acknowledged(&mut self, end: u64) -> Result<(), watch::error::RecvError> {
        within(self.acked.wait_for(|acked| *acked >= end)).await.map(drop)
    }

    /// Asserts that the stream stays open and acknowledged to exactly this position for some time.
    pub(crate) async fn unacknowledged_for(&mut self, time: Duration, acked: u64) {
        let change = self.acked.wait_for(|now| *now > acked);
        assert!(tokio::time::timeout(time, change).await.is_err(), "acknowledged, or closed");
        assert_eq!(self.acked(), acked);
    }

    pub(crate) async fn closed(&mut self) {
        within(async { while self.acked.changed().await.is_ok() {} }).await;
    }

    pub(crate) fn end(&mut self) {
        self.events = None;
    }

    /// Position to which the stream is acknowledged.
    pub(crate) fn acked(&self) -> u64 {
        *self.acked.borrow()
    }

    /// Position to which the stream is handed off.
    pub(crate) fn handed_off(&self) -> u64 {
        self.end
    }

    pub(crate) fn stream_id(&self) -> u32 {
        self.acks.stream_id()
    }
}

struct Service(mpsc::UnboundedSender<Session>);

#[tonic::async_trait]
impl Eventing for Service {
    type StartEventSourceStream = std::pin::Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn start_event_source(
        &self,
        request: Request<EventSource>,
    ) -> Result<Response<Self::StartEventSourceStream>, Status> {
        let info = request.extensions().get::<LinkInfo>().cloned().expect("a connection with a link");
        assert!(info.peer_addr().is_some());
        let acks = info.stream_acks(request.metadata().as_ref());
        let acks = acks.ok_or_else(|| Status::failed_precondition("no acknowledgements"))?;
        let (events, stream) = mpsc::channel(256);
        let headers = request.metadata().get("response-header-bytes").map(|len| len.to_str().map(str::parse));
        let session = Session {
            name: request.into_inner().name,
            acked: acks.acked(),
            acks,
            events: Some(events),
            unacknowledged: Default::default(),
            end: 0,
        };
        self.0.send(session).map_err(|_| Status::unavailable("the test is over"))?;
        let mut response = Response::<Self::StartEventSourceStream>::new(Box::pin(ReceiverStream::new(stream)));
        if let Some(Ok(Ok(len))) = headers {
            let value = "x".repeat(len).parse().expect("a header value");
            response.metadata_mut().insert("long", value);
        }
        Ok(response)
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    sessions: tokio::sync::Mutex<mpsc::UnboundedReceiver<Session>>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let (send, sessions) = mpsc::unbounded_channel();
        let incoming = TcpListenerStream::new(listener).map(|stream| {
            let stream: TcpStream = stream?;
            stream.set_nodelay(true)?;
            let peer = stream.peer_addr()?;
            Ok::<_, std::io::Error>(Link::new(stream).with_peer_addr(peer))
        });
        let serve =
            tonic::transport::Server::builder().http2_max_header_list_size(Some(1 << 20)).serve_with_incoming_shutdown(
                EventingServer::new(Service(send)),
                incoming,
                shutdown.clone().cancelled_owned(),
            );
        let task = tokio::spawn(async move { serve.await.expect("the server runs") });
        Self { address, sessions: sessions.into(), shutdown, task }
    }

    /// Accepts no connections from now on, and sends GOAWAY to every client, as for SIGTERM.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Returns the next stream that a client opens.
    pub(crate) async fn session(&self) -> Session {
        within(self.sessions.lock().await.recv()).await.expect("the server runs")
    }

    pub(crate) async fn subscribe(&self, client: &mut Client, name: &str) -> (Streaming<Event>, Session) {
        let (response, session) = self.subscribe_with(client, name, MetadataMap::new()).await;
        (response.into_inner(), session)
    }

    /// Subscribes with these request headers.
    pub(crate) async fn subscribe_with(
        &self,
        client: &mut Client,
        name: &str,
        headers: MetadataMap,
    ) -> (Response<Streaming<Event>>, Session) {
        let source = EventSource { name: name.to_owned(), config: Vec::new() };
        let request = Request::from_parts(headers, Extensions::default(), source);
        let response = within(client.start_event_source(request)).await.expect("accepted");
        let session = self.session().await;
        assert_eq!(session.name, name);
        (response, session)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn connect(address: SocketAddr) -> Client {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).expect("an address").http2_max_header_list_size(1 << 20);
    EventingClient::new(within(endpoint.connect()).await.expect("connected")).max_decoding_message_size(8 << 20)
}
