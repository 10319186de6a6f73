//! The connection: HTTP/2 flow control under answers that stall, and TLS.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use prost::Message;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tonic::{
    body::Body,
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};

use super::*;
use crate::{
    lookup::{
        client::Client,
        error::{CallCode, CallError},
        meter::{LARGE, MAX_ANSWER},
    },
    mlmd::proto,
};

/// A server of messages of any size: the name of the requested type is the size. Those above 100,000 bytes stall after
/// 50,000 bytes until the gate opens.
#[derive(Clone)]
struct SizedServer {
    gate: watch::Receiver<bool>,
}

impl NamedService for SizedServer {
    const NAME: &'static str = "ml_metadata.MetadataStoreService";
}

impl SizedServer {
    /// Starts it. Returns its client and its gate.
    async fn start() -> (Client, watch::Sender<bool>) {
        let (sender, gate) = watch::channel(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(Server::builder().serve_with_incoming(Self { gate }, TcpIncoming::from(listener)));
        let options = Options::default();
        let endpoint = endpoint::endpoint(&url, &options.connection()).unwrap();
        let channel = endpoint.connect_lazy();
        let metrics = LookupMetrics::new(&mut Registry::default());
        (options.client(&endpoint, channel, metrics.metrics), sender)
    }
}

impl tower::Service<http::Request<Body>> for SizedServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut gate = self.gate.clone();
        async move {
            let Ok(message) = request.into_body().collect().await else {
                return Ok(http::Response::new(Body::empty()));
            };
            let name = proto::GetArtifactTypeRequest::decode(&message.to_bytes()[5..]).unwrap();
            let size: usize = name.type_name().parse().unwrap();
            let header = [&[0], &u32::try_from(size).unwrap().to_be_bytes()[..]].concat();
            // An answer that is too large is not read on.
            let sent = if size > MAX_ANSWER { 200_000 } else { size };
            let (first, rest) = if size > 100_000 { (50_000, sent - 50_000) } else { (size, 0) };
            let chunks = stream::iter([header, vec![1; first]]);
            let later = async move {
                gate.wait_for(|open| *open).await.unwrap();
                vec![2; rest]
            };
            // Without empty frames: a client tolerates few of them.
            let later = stream::iter((rest > 0).then_some(later)).then(std::convert::identity);
            let data = chunks.chain(later).map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
            let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            let body = data.chain(stream::iter([Ok::<_, Infallible>(Frame::trailers(trailers))]));
            let body = Body::new(StreamBody::new(body));
            Ok(http::Response::builder().header("content-type", "application/grpc").body(body).unwrap())
        }
        .boxed()
    }
}

/// Asks for an answer of this size, and returns the size of the answer.
async fn ask(client: Client, namespace: String, size: usize) -> Result<usize, CallError> {
    let request = proto::GetArtifactTypeRequest { type_name: Some(size.to_string()) };
    client.call(&namespace.into(), TYPE.name(), tonic::Request::new(request), |message| Ok(message.len())).await
}

/// Each waiting answer occupies the connection's window. All of them together leave room for the others.
#[tokio::test]
async fn answers_that_stall_and_answers_that_wait_block_no_others() {
    let (client, gate) = SizedServer::start().await;
    let mut large = JoinSet::new();
    for number in 0..60 {
        large.spawn(ask(client.clone(), format!("large-{}", number % 6), 3_000_000));
    }
    let mut refused = 0;
    while refused < 60 - 2 - LARGE.waiting {
        let answer = large.join_next().await.unwrap().unwrap();
        assert_eq!(answer.unwrap_err().code, CallCode::Overloaded);
        refused += 1;
    }
    let started = Instant::now();
    let small = (0..300).map(|number| ask(client.clone(), format!("small-{}", number % 7), 30_000));
    let answers = stream::iter(small).buffer_unordered(50).collect::<Vec<_>>().await;
    let failed: Vec<_> = answers.into_iter().filter(|answer| *answer != Ok(30_000)).collect();
    assert!(failed.is_empty(), "{failed:?}");
    for _ in 0..20 {
        assert_eq!(ask(client.clone(), "small".to_owned(), 30_000).await, Ok(30_000));
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(large.len(), 2 + LARGE.waiting);
    gate.send(true).unwrap();
    while let Some(answer) = large.join_next().await {
        assert_eq!(answer.unwrap(), Ok(3_000_000));
    }
}

/// Whatever sizes come, are given up or refused, nothing is lost: afterwards there is room for the largest answers.
#[tokio::test]
async fn every_byte_is_given_back() {
    let (client, gate) = SizedServer::start().await;
    let sizes = [10, 1000, 30_000, 40_000, 90_000, 200_000, 2_000_000, MAX_ANSWER, MAX_ANSWER + 1];
    for round in 0..3 {
        let mut calls = JoinSet::new();
        for number in 0..90 {
            let (client, size) = (client.clone(), sizes[number % sizes.len()]);
            let call = ask(client, format!("team-{}", number % 4), size);
            // Not before the server has accepted it: servers tolerate few of those.
            let given_up = Duration::from_millis(200 + 50 * (number as u64 % 5));
            calls.spawn(async move {
                match tokio::time::timeout(given_up, call).await {
                    Ok(Ok(answer)) => assert_eq!(answer, size),
                    Ok(Err(error)) if size > MAX_ANSWER => assert_eq!(error.code, CallCode::TooLarge, "{error:?}"),
                    Ok(Err(error)) => assert_eq!(error.code, CallCode::Overloaded, "{error:?}"),
                    Err(_) => {}
                }
            });
        }
        gate.send(round == 1).unwrap();
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
    }
    gate.send(true).unwrap();
    let all = ["a", "b"].map(|name| ask(client.clone(), name.to_owned(), MAX_ANSWER));
    assert_eq!(futures::future::join_all(all).await, [Ok(MAX_ANSWER), Ok(MAX_ANSWER)]);
}

/// More refused answers than HTTP/2 tolerates errors of a connection: late frames of streams that were reset.
#[tokio::test]
async fn refused_answers_do_not_end_the_connection() {
    let (client, gate) = SizedServer::start().await;
    gate.send(true).unwrap();
    let calls = (0..2000).map(|_| ask(client.clone(), "team".to_owned(), MAX_ANSWER + 1));
    let answers = stream::iter(calls).buffer_unordered(100).collect::<Vec<_>>().await;
    assert!(answers.into_iter().all(|answer| answer.unwrap_err().code == CallCode::TooLarge));
    assert_eq!(ask(client, "team".to_owned(), 1000).await, Ok(1000));
}
