//! A server on a free port whose delivery the test plays, and its clients.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, header};
use http_body_util::{StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use prometheus_client::registry::Registry;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status, Streaming,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{Service as _, ServiceExt as _};

use crate::{
    delivery::fake::FakeDelivery,
    eventsource::{
        Limits, Options, Server, StreamMetrics, Tls,
        proto::{Event, EventSource, eventing_client::EventingClient},
    },
    readiness::Readiness,
    store::{Scope, Store},
    telemetry::{Limit, LimitHits},
};

/// The time limit for anything that has to happen. Only a failing test waits for it.
const IN_TIME: Duration = Duration::from_secs(30);

pub(super) async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(IN_TIME, future).await.expect("in time")
}

pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    pub(super) store: Arc<Store>,
    pub(super) readiness: Readiness,
    pub(super) delivery: FakeDelivery,
    pub(super) drain: CancellationToken,
    hits: LimitHits,
    registry: Registry,
    pub(super) task: JoinHandle<()>,
}

impl TestServer {
    /// Starts a server with these limits, whose namespaces are listed.
    pub(super) async fn start(limits: Limits) -> Self {
        let server = Self::unlisted(limits).await;
        server.list(Scope::All);
        server
    }

    /// Starts a server whose namespaces are not listed yet.
    pub(super) async fn unlisted(limits: Limits) -> Self {
        Self::start_with(Options { limits, ..Options::default() }, None).await
    }

    /// Starts a server with these options, whose namespaces are not listed yet.
    pub(super) async fn start_with(options: Options, tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (deliveries, delivery) = FakeDelivery::new();
        let (store, readiness, hits) = (Arc::<Store>::default(), Readiness::default(), LimitHits::default());
        let (drain, mut registry) = (CancellationToken::new(), Registry::default());
        let metrics = StreamMetrics::new(&mut registry);
        let options = Options { limit_hits: hits.clone(), ..options };
        let server = Server::new(deliveries, store.clone(), options, readiness.clone(), metrics).with_tls(tls);
        let serving = server.serve(listener, drain.clone());
        let task = tokio::spawn(async { Box::pin(serving).await.expect("no error") });
        Self { address, store, readiness, delivery, drain, hits, registry, task }
    }

    /// Completes the list of a scope.
    pub(super) fn list(&self, scope: Scope) {
        let list = self.store.begin_list(scope);
        self.store.finish_list(list);
    }

    pub(super) fn hits(&self, limit: Limit) -> u64 {
        self.hits.count(limit)
    }

    /// Returns the value of a metric, for example `connections` or `subscriptions_refused_total{reason="Unavailable"}`.
    pub(super) fn metric(&self, series: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{series} is missing in\n{text}")).parse().unwrap()
    }

    /// Waits until a metric has a value.
    pub(super) async fn metric_is(&self, series: &str, value: u64) {
        in_time(async {
            while self.metric(series) != value {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    pub(super) async fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        Client(in_time(endpoint.connect()).await.unwrap())
    }
}

/// A connection of a subscriber.
#[derive(Clone)]
pub(super) struct Client(pub(super) Channel);

impl Client {
    /// Subscribes to a namespace.
    pub(super) async fn subscribe(&self, namespace: &str) -> Result<Streaming<Event>, Status> {
        self.subscribe_with(&format!("kfpNamespace: {namespace}")).await
    }

    pub(super) async fn subscribe_with(&self, config: &str) -> Result<Streaming<Event>, Status> {
        self.subscribe_as(None, config).await
    }

    /// Subscribes with a bearer token.
    pub(super) async fn subscribe_as(&self, token: Option<&str>, config: &str) -> Result<Streaming<Event>, Status> {
        let authorization = token.map(|token| ("authorization", format!("Bearer {token}")));
        self.subscribe_with_header(authorization, config).await
    }

    /// Subscribes with a header.
    pub(super) async fn subscribe_with_header(
        &self,
        header: Option<(&'static str, String)>,
        config: &str,
    ) -> Result<Streaming<Event>, Status> {
        let message = EventSource { name: "model-update".to_owned(), config: config.as_bytes().to_vec() };
        let mut request = tonic::Request::new(message);
        if let Some((name, value)) = header {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        let mut client = EventingClient::new(self.0.clone());
        in_time(client.start_event_source(request)).await.map(tonic::Response::into_inner)
    }

    /// Sends a request in pieces, which are sent through the returned channel. Dropping it ends the request. The task
    /// ends with the status of the response, or with none if the stream is open.
    pub(super) async fn request(&self) -> (mpsc::UnboundedSender<Bytes>, JoinHandle<Option<Status>>) {
        let (pieces, body) = mpsc::unbounded_channel::<Bytes>();
        let body =
            futures::StreamExt::map(UnboundedReceiverStream::new(body), |piece| Ok::<_, Status>(Frame::data(piece)));
        let request = Request::post("http://server/generic.Eventing/StartEventSource")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Body::new(UnsyncBoxBody::new(StreamBody::new(body))))
            .unwrap();
        let mut channel = self.0.clone();
        in_time(channel.ready()).await.unwrap();
        let response = channel.call(request);
        let answer = tokio::spawn(async move {
            let response = response.await.expect("a response");
            Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok)
        });
        (pieces, answer)
    }
}

/// A message of a subscription whose configuration is valid and has this many bytes of comments.
pub(super) fn message(namespace: &str, comment: usize) -> Bytes {
    let config = format!("kfpNamespace: {namespace}\n{}", "#".repeat(comment));
    let message = EventSource { name: "model-update".to_owned(), config: config.into_bytes() }.encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// A connection whose frames the test writes.
pub(super) struct RawClient(pub(super) TcpStream);

impl RawClient {
    /// Connects and sends the preface of a client, with an empty SETTINGS.
    pub(super) async fn connect(server: &TestServer) -> Self {
        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        Self(tcp)
    }

    /// Waits until the server closes the connection.
    pub(super) async fn closed(&mut self) {
        let mut read = vec![0; 16 * 1024];
        while in_time(self.0.read(&mut read)).await.is_ok_and(|bytes| bytes > 0) {}
    }

    /// Returns whether the server has closed the connection, as far as it is known.
    pub(super) fn is_closed(&self) -> bool {
        let mut read = [0; 16 * 1024];
        loop {
            match self.0.try_read(&mut read) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// A frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a request for a path, without its end.
pub(super) fn headers(stream: u32, path: &str) -> Vec<u8> {
    // `:method: POST`, `:scheme: http` and the path, without dynamic table and without Huffman's code.
    let block = [&[0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
    frame(1, 4, stream, &block)
}
