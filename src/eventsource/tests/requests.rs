//! Requests: their size, their time, and the memory of unfinished ones.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::harness::*;
use crate::{eventsource::Limits, telemetry::Limit};

const EXHAUSTED: &str = r#"subscriptions_refused_total{reason="ResourceExhausted"}"#;

/// A delayed request delays no other, and a request that arrives in pieces is accepted like one in a single piece.
#[tokio::test]
async fn a_request_may_arrive_in_pieces_while_another_stops() {
    let mut server = TestServer::start(Limits::default()).await;
    let client = server.client().await;
    let (stopped, _never) = client.request().await;
    stopped.send(message("a", 70_000).split_to(70_000)).unwrap();
    let (pieces, answer) = client.request().await;
    for piece in message("b", 60_000).chunks(1_000) {
        pieces.send(piece.to_vec().into()).unwrap();
        tokio::task::yield_now().await;
    }
    assert!(!answer.is_finished());
    drop(pieces);
    assert!(in_time(answer).await.unwrap().is_none());
    assert_eq!(&*in_time(server.delivery.attached()).await.subscription.namespace, "b");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_complete_in_time_is_refused() {
    let server = TestServer::start(Limits::default()).await;
    let client = server.client().await;
    let mut whole = message("a", 60_000);
    for sent in [0, 4, 5, whole.len() - 1] {
        let started = Instant::now();
        let (pieces, answer) = client.request().await;
        pieces.send(whole.slice(..sent)).unwrap();
        let status = in_time(answer).await.unwrap().expect("refused");
        assert_eq!(started.elapsed().as_secs(), 10, "{sent} bytes");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().starts_with("the request was not complete within 10 s; "), "{status:?}");
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "LIMIT_REQUEST_TIME");
    }
    // A message is not a request: its end is missing.
    let (pieces, answer) = client.request().await;
    pieces.send(whole.split_to(whole.len())).unwrap();
    assert_eq!(in_time(answer).await.unwrap().expect("refused").code(), Code::ResourceExhausted);
    assert_eq!((server.hits(Limit::RequestTime), server.metric(EXHAUSTED)), (5, 5));
}

/// The time is for the request. The stream, and its wait for the first list, have none.
#[tokio::test(start_paused = true)]
async fn a_stream_may_last_longer_than_its_request_may_take() {
    let mut server = TestServer::unlisted(Limits::default()).await;
    let mut events = server.client().await.subscribe("a").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    server.list(crate::store::Scope::All);
    let mut stream = in_time(server.delivery.attached()).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    stream.send("{}");
    assert_eq!(in_time(events.message()).await.unwrap().unwrap().payload, b"{}");
}

#[tokio::test]
async fn a_request_above_the_largest_size_is_refused() {
    let mut server = TestServer::start(Limits::default()).await;
    let client = server.client().await;
    let send = async |bytes| {
        let (pieces, answer) = client.request().await;
        pieces.send(bytes).unwrap();
        drop(pieces);
        in_time(answer).await.unwrap()
    };
    let largest = 64 * 1024 - "kfpNamespace: a\n".len();
    assert!(send(message("a", largest)).await.is_none());
    assert_eq!(&*in_time(server.delivery.attached()).await.subscription.namespace, "a");
    let overhead = message("a", 0).len();
    let too_large = 72 * 1024 + 5 - overhead + 1;
    // By its declared length, by its bytes, and by a second message.
    let declared = message("a", 5_000_000).slice(..100);
    let twice = [message("a", 40_000), message("a", 40_000)].concat().into();
    for (name, request) in [("bytes", message("a", too_large)), ("declared", declared), ("twice", twice)] {
        let status = send(request).await.expect("refused");
        assert_eq!(status.code(), Code::ResourceExhausted, "{name}");
        let start = "the request is larger than 73728 bytes; a config of a few lines suffices";
        assert!(status.message().starts_with(start), "{name}: {status:?}");
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "LIMIT_REQUEST_SIZE");
    }
    assert_eq!((server.hits(Limit::RequestSize), server.metric(EXHAUSTED)), (3, 3));
}

/// Large requests that never end share a budget. A usual request needs none of it.
#[tokio::test]
async fn unfinished_requests_cannot_exclude_usual_ones() {
    let mut server = TestServer::start(Limits::default()).await;
    let clients = [server.client().await, server.client().await];
    let mut unfinished = Vec::new();
    let part = message("a", 65_000).slice(..65_000);
    for number in 0..150 {
        let (pieces, answer) = clients[number % 2].request().await;
        pieces.send(part.clone()).unwrap();
        unfinished.push((pieces, answer));
    }
    server.metric_is(EXHAUSTED, 13).await;
    clients[0].subscribe("b").await.expect("a usual request");
    assert_eq!(&*in_time(server.delivery.attached()).await.subscription.namespace, "b");
    assert_eq!(server.metric(EXHAUSTED), 13);
    let refused: Vec<_> = unfinished.extract_if(.., |(_, answer)| answer.is_finished()).collect();
    for (_, answer) in refused {
        let status = answer.await.unwrap().expect("refused");
        assert!(status.message().starts_with("requests of more than 4096 bytes occupy all memory"), "{status:?}");
    }
    // Their end gives the budget back.
    drop(unfinished);
    server.metric_is(r#"connections"#, 2).await;
    in_time(async {
        loop {
            let (pieces, answer) = clients[1].request().await;
            pieces.send(message("c", 60_000)).unwrap();
            drop(pieces);
            if in_time(answer).await.unwrap().is_none() {
                return;
            }
        }
    })
    .await;
}

/// A proxy acknowledges events in place of the subscriber. A refused request is no stream.
#[tokio::test]
async fn streams_behind_a_proxy_are_counted() {
    let server = TestServer::start(Limits::default()).await;
    let client = server.client().await;
    let envoy = || Some(("x-envoy-decorator-operation", "server.kfp-operator-system.svc:50051/*".to_owned()));
    let _direct = client.subscribe("a").await.unwrap();
    client.subscribe_with_header(envoy(), "kfpNamespace: [").await.unwrap_err();
    server.metric_is("proxied_streams_total", 0).await;
    let _proxied = client.subscribe_with_header(envoy(), "kfpNamespace: a").await.unwrap();
    server.metric_is("proxied_streams_total", 1).await;
}
