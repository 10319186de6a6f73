//! A server of the `generic` protocol over links, whose streams the test writes by hand, and a tonic client for it.

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

use test_support::generic::{
    Event, EventSource,
    eventing_client::EventingClient,
    eventing_server::{Eventing, EventingServer},
};

pub(crate) type Client = EventingClient<Channel>;

/// Long enough for a busy machine; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("this should have happened long ago")
}

/// The server's end of one stream.
pub(crate) struct Session {
    pub(crate) name: String,
    acks: StreamAcks,
    acknowledged: watch::Receiver<u64>,
    events: Option<mpsc::Sender<Result<Event, Status>>>,
    open: std::collections::VecDeque<u64>,
    total: u64,
}

impl Session {
    /// Hands an event over, and returns at which octet of the stream it ends.
    pub(crate) async fn hand_off(&mut self, payload: Vec<u8>) -> u64 {
        let event = Event { name: "model-update".to_owned(), payload };
        self.total += 5 + event.encoded_len() as u64;
        self.acks.expect(self.total);
        let events = self.events.as_ref().expect("the stream has not been ended");
        within(events.send(Ok(event))).await.expect("the stream is open");
        self.total
    }

    /// The same, but waits first until fewer than `most` events are unconfirmed.
    pub(crate) async fn hand_off_within(&mut self, most: usize, payload: Vec<u8>) -> u64 {
        while self.open.len() >= most {
            let oldest = self.open[0];
            let proven =
                *within(self.acknowledged.wait_for(|proven| *proven >= oldest)).await.expect("the stream is open");
            self.open.retain(|total| *total > proven);
        }
        let total = self.hand_off(payload).await;
        self.open.push_back(total);
        total
    }

    pub(crate) async fn confirmed(&mut self, total: u64) -> Result<(), watch::error::RecvError> {
        within(self.acknowledged.wait_for(|proven| *proven >= total)).await.map(drop)
    }

    pub(crate) async fn unconfirmed_for(&mut self, time: Duration, proven: u64) {
        let change = self.acknowledged.wait_for(|now| *now > proven);
        assert!(tokio::time::timeout(time, change).await.is_err(), "confirmed, or closed");
        assert_eq!(self.proven(), proven);
    }

    pub(crate) async fn closed(&mut self) {
        within(async { while self.acknowledged.changed().await.is_ok() {} }).await;
    }

    pub(crate) fn end(&mut self) {
        self.events = None;
    }

    pub(crate) fn proven(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    pub(crate) fn handed_off(&self) -> u64 {
        self.total
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
        let info = request.extensions().get::<LinkInfo>().cloned().expect("it came over a link");
        assert!(info.peer_addr().is_some());
        let acks = info.stream_acks(request.metadata().as_ref());
        let acks = acks.ok_or_else(|| Status::failed_precondition("no acknowledgements"))?;
        let (events, stream) = mpsc::channel(256);
        let headers = request.metadata().get("wants-headers").map(|len| len.to_str().map(str::parse));
        let session = Session {
            name: request.into_inner().name,
            acknowledged: acks.acked(),
            acks,
            events: Some(events),
            open: Default::default(),
            total: 0,
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
    pub(crate) addr: SocketAddr,
    sessions: tokio::sync::Mutex<mpsc::UnboundedReceiver<Session>>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
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
        let task = tokio::spawn(async move { serve.await.expect("it serves") });
        Self { addr, sessions: sessions.into(), shutdown, task }
    }

    /// Accepts nothing more and tells every client to go away once its streams have ended, as for SIGTERM.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// The next stream that a client has opened.
    pub(crate) async fn session(&self) -> Session {
        within(self.sessions.lock().await.recv()).await.expect("the server is up")
    }

    pub(crate) async fn subscribe(&self, client: &mut Client, name: &str) -> (Streaming<Event>, Session) {
        let (response, session) = self.subscribe_with(client, name, MetadataMap::new()).await;
        (response.into_inner(), session)
    }

    /// The same, with these headers besides.
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

pub(crate) async fn client(addr: SocketAddr) -> Client {
    let endpoint =
        Endpoint::from_shared(format!("http://{addr}")).expect("an address").http2_max_header_list_size(1 << 20);
    EventingClient::new(within(endpoint.connect()).await.expect("connected")).max_decoding_message_size(8 << 20)
}
