//! Throughput and latency of a link, printed and not asserted: `cargo test --release --test link throughput -- --ignored
//! --nocapture --test-threads 1`.
#![allow(clippy::print_stdout, reason = "figures for people")]

use std::pin::Pin;
use std::time::{Duration, Instant};

use model_update_eventsource::eventsource::link::Link;
use test_support::generic::{
    Event, EventSource,
    eventing_server::{Eventing, EventingServer},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use crate::server::{Server, connect, within};

const EVENTS: usize = 100_000;

/// Sends events at full speed, without acknowledgements.
struct Flood;

#[tonic::async_trait]
impl Eventing for Flood {
    type StartEventSourceStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn start_event_source(
        &self,
        _: Request<EventSource>,
    ) -> Result<Response<Self::StartEventSourceStream>, Status> {
        let event = Event { name: "model-update".to_owned(), payload: vec![b'x'; 200] };
        let events = tokio_stream::iter(std::iter::repeat_n(Ok(event), EVENTS));
        Ok(Response::new(Box::pin(events)))
    }
}

async fn flood<IO>(wrap: impl Fn(TcpStream) -> IO + Send + 'static) -> f64
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let incoming = TcpListenerStream::new(listener).map(move |stream| stream.map(&wrap));
    let server = tokio::spawn(async move {
        let served = tonic::transport::Server::builder().serve_with_incoming(EventingServer::new(Flood), incoming);
        served.await.expect("the server runs");
    });
    let mut client = connect(address).await;
    let start = Instant::now();
    let mut events = client.start_event_source(EventSource::default()).await.expect("accepted").into_inner();
    while within(events.message()).await.expect("no error").is_some() {}
    server.abort();
    EVENTS as f64 / start.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn events_per_second_with_and_without_a_link() {
    for _ in 0..3 {
        println!("without a link {:.0}/s, with a link {:.0}/s", flood(|tcp| tcp).await, flood(Link::new).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn latency_and_rate_of_acknowledgements() {
    let server = Server::start().await;
    let mut client = connect(server.address).await;
    let (mut events, mut session) = server.subscribe(&mut client, "fast").await;
    tokio::spawn(async move { while events.message().await.is_ok_and(|event| event.is_some()) {} });
    let mut times = Vec::new();
    for _ in 0..500 {
        let start = Instant::now();
        let end = session.hand_off(vec![b'x'; 200]).await;
        session.acknowledged(end).await.expect("acknowledged");
        times.push(start.elapsed());
        // Longer than the pause between two PINGs, which would delay the next event.
        tokio::time::sleep(Duration::from_millis(12)).await;
    }
    times.sort();
    println!("one event at a time: acknowledged after p50 {:?}, p99 {:?}", times[250], times[495]);

    let start = Instant::now();
    let mut end = 0;
    for _ in 0..EVENTS {
        end = session.hand_off_within(256, vec![b'x'; 200]).await;
    }
    session.acknowledged(end).await.expect("acknowledged");
    println!("at most 256 unacknowledged: {:.0}/s", EVENTS as f64 / start.elapsed().as_secs_f64());
}
