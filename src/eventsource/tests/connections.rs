//! Connections: their limits, and floods of HTTP/2.

use tokio::io::AsyncWriteExt as _;

use super::harness::*;
use crate::{eventsource::Limits, telemetry::Limit};

/// Small limits: 64 connections.
fn limits() -> Limits {
    Limits { streams: 8, streams_per_peer: 8, ..Limits::default() }
}

#[tokio::test]
async fn connections_without_a_stream_make_room_for_others() {
    let mut server = TestServer::start(limits()).await;
    let subscriber = server.client().await;
    let mut events = subscriber.subscribe("a").await.unwrap();
    let mut stream = in_time(server.delivery.attached()).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(RawClient::connect(&server).await);
    }
    for client in &mut idle[..37] {
        client.closed().await;
    }
    assert!(idle[37..].iter().all(|client| !client.is_closed()));
    assert_eq!((server.hits(Limit::Connections), server.metric("connections")), (37, 64));
    let another = server.client().await;
    another.subscribe("a").await.expect("room");
    stream.send("{}");
    assert_eq!(in_time(events.message()).await.unwrap().unwrap().payload, b"{}");
}

/// Responses occupy memory until they are read: a peer that reads none of them is disconnected.
#[tokio::test]
async fn a_peer_that_does_not_read_its_responses_is_disconnected() {
    let mut server = TestServer::start(limits()).await;
    let subscriber = server.client().await;
    let mut events = subscriber.subscribe("a").await.unwrap();
    let mut stream = in_time(server.delivery.attached()).await;
    let mut flood = RawClient::connect(&server).await;
    let send = async {
        for stream in (1..).step_by(2) {
            if flood.0.write_all(&headers(stream, "/unknown")).await.is_err() {
                return;
            }
        }
    };
    in_time(send).await;
    assert!(server.hits(Limit::Connections) >= 1);
    stream.send("{}");
    assert_eq!(in_time(events.message()).await.unwrap().unwrap().payload, b"{}");
}

/// Rapid reset (CVE-2023-44487).
#[tokio::test]
async fn a_peer_that_resets_its_streams_at_once_harms_no_other() {
    let mut server = TestServer::start(limits()).await;
    let subscriber = server.client().await;
    let mut events = subscriber.subscribe("a").await.unwrap();
    let mut stream = in_time(server.delivery.attached()).await;
    let mut flood = RawClient::connect(&server).await;
    let resets = async {
        for stream in (1..100_000).step_by(2) {
            let reset = frame(3, 0, stream, &8_u32.to_be_bytes());
            let both = [headers(stream, "/generic.Eventing/StartEventSource"), reset].concat();
            if flood.0.write_all(&both).await.is_err() {
                return;
            }
        }
    };
    in_time(resets).await;
    flood.closed().await;
    stream.send("{}");
    assert_eq!(in_time(events.message()).await.unwrap().unwrap().payload, b"{}");
}
