//! What the link costs. Prints figures, holds them to nothing: `cargo test --release --test link speed -- --ignored
//! --nocapture --test-threads 1`.
#![allow(clippy::print_stdout, reason = "printing is what these are for")]

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

use crate::server::{Server, client, within};

const EVENTS: usize = 100_000;

/// Sends events as fast as it can, and asks for no proof.
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
    let addr = listener.local_addr().expect("an address");
    let incoming = TcpListenerStream::new(listener).map(move |stream| stream.map(&wrap));
    let server = tokio::spawn(async move {
        let served = tonic::transport::Server::builder().serve_with_incoming(EventingServer::new(Flood), incoming);
        served.await.expect("it serves");
    });
    let mut client = client(addr).await;
    let began = Instant::now();
    let mut events = client.start_event_source(EventSource::default()).await.expect("accepted").into_inner();
    while within(events.message()).await.expect("the stream is fine").is_some() {}
    server.abort();
    EVENTS as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn events_a_second_with_and_without_a_link() {
    for _ in 0..3 {
        println!("bare {:.0}/s, link {:.0}/s", flood(|tcp| tcp).await, flood(Link::new).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn how_fast_events_are_confirmed() {
    let server = Server::start().await;
    let mut client = client(server.addr).await;
    let (mut events, mut session) = server.subscribe(&mut client, "fast").await;
    tokio::spawn(async move { while events.message().await.is_ok_and(|event| event.is_some()) {} });
    let mut times = Vec::new();
    for _ in 0..500 {
        let began = Instant::now();
        let total = session.hand_off(vec![b'x'; 200]).await;
        session.confirmed(total).await.expect("confirmed");
        times.push(began.elapsed());
        // One at a time means: not held up by the PING of the one before.
        tokio::time::sleep(Duration::from_millis(12)).await;
    }
    times.sort();
    println!("one event at a time: confirmed after p50 {:?}, p99 {:?}", times[250], times[495]);

    let began = Instant::now();
    let mut total = 0;
    for _ in 0..EVENTS {
        total = session.hand_off_within(256, vec![b'x'; 200]).await;
    }
    session.confirmed(total).await.expect("confirmed");
    println!("at most 256 unconfirmed: {:.0}/s", EVENTS as f64 / began.elapsed().as_secs_f64());
}
