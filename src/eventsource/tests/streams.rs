//! Streams: their limits, their wait for the first list, and their end.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;

use super::harness::*;
use crate::{delivery::CloseReason, eventsource::Limits, store::Scope, telemetry::Limit};

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().expect("an ErrorInfo").reason.clone()
}

#[tokio::test]
async fn a_stream_beyond_a_limit_is_refused_with_the_numbers() {
    for (limits, namespaces, limit, reason_, message) in [
        (
            Limits { streams: 2, ..Limits::default() },
            ["a", "b", "c"],
            Limit::Streams,
            "LIMIT_STREAMS",
            "2 of at most 2 streams of this server are open; ",
        ),
        (
            Limits { streams_per_peer: 2, ..Limits::default() },
            ["a", "b", "c"],
            Limit::StreamsPerPeer,
            "LIMIT_STREAMS_PER_PEER",
            "2 of at most 2 streams of this peer address are open; ",
        ),
        (
            Limits { streams_per_namespace: 2, ..Limits::default() },
            ["a", "a", "a"],
            Limit::StreamsPerNamespace,
            "LIMIT_STREAMS_PER_NAMESPACE",
            "2 of at most 2 streams of this namespace are open; ",
        ),
    ] {
        let mut server = TestServer::start(limits).await;
        let client = server.client().await;
        let first = client.subscribe(namespaces[0]).await.unwrap();
        let _second = client.subscribe(namespaces[1]).await.unwrap();
        let status = client.subscribe(namespaces[2]).await.unwrap_err();
        assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, reason_));
        assert!(status.message().starts_with(message), "{status:?}");
        assert_eq!(server.hits(limit), 1);
        assert_eq!(server.metric(r#"subscriptions_refused_total{reason="ResourceExhausted"}"#), 1);

        // The end of a stream makes room only once delivery has handled it: its inbox is bounded, too.
        drop(first);
        server.metric_is(r#"grpc_server_handled_total{grpc_service="generic.Eventing",grpc_method="StartEventSource",grpc_type="server_stream",grpc_code="Canceled"}"#, 1).await;
        client.subscribe(namespaces[2]).await.expect_err("not handled yet");
        in_time(server.delivery.ended()).await;
        client.subscribe(namespaces[2]).await.expect("room");
    }
}

#[tokio::test]
async fn a_refused_request_takes_no_place() {
    let server = TestServer::start(Limits { streams: 1, streams_per_namespace: 1, ..Limits::default() }).await;
    let client = server.client().await;
    for _ in 0..3 {
        let status = client.subscribe_with("kfpNamespace: Odd!").await.unwrap_err();
        assert_eq!((status.code(), &*reason(&status)), (Code::InvalidArgument, "CONFIG_INVALID_VALUE"));
    }
    client.subscribe("a").await.expect("room");
}

/// One tenant's namespace that cannot be listed holds only that tenant's streams.
#[tokio::test]
async fn a_stream_waits_for_the_list_of_its_own_namespace() {
    let mut server = TestServer::unlisted(Limits::default()).await;
    let client = server.client().await;
    let mut waiting = client.subscribe("b").await.expect("held open");
    server.list(Scope::Namespace("a".into()));
    let mut events = client.subscribe("a").await.expect("accepted");
    let mut stream = in_time(server.delivery.attached()).await;
    assert_eq!(&*stream.subscription.namespace, "a");
    stream.send("{}");
    assert_eq!(in_time(events.message()).await.unwrap().unwrap().payload, b"{}");
    server.list(Scope::Namespace("b".into()));
    assert_eq!(&*in_time(server.delivery.attached()).await.subscription.namespace, "b");
    drop(server.delivery);
    server.drain.cancel();
    let end = in_time(waiting.message()).await.unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "the server is shutting down"));
}

#[tokio::test]
async fn a_waiting_stream_ends_with_the_drain() {
    let server = TestServer::unlisted(Limits::default()).await;
    let mut waiting = server.client().await.subscribe("b").await.expect("held open");
    server.drain.cancel();
    let end = in_time(waiting.message()).await.unwrap_err();
    assert_eq!((end.code(), &*reason(&end)), (Code::Unavailable, "SHUTTING_DOWN"));
    in_time(server.task).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_delivery_closes_ends_with_the_reason() {
    let mut server = TestServer::start(Limits::default()).await;
    let client = server.client().await;
    for (close, code, text, reason_) in [
        (Some(CloseReason::ShuttingDown), Code::Unavailable, "the server is shutting down", "SHUTTING_DOWN"),
        (
            Some(CloseReason::NotReading),
            Code::ResourceExhausted,
            "the subscriber does not read its events, ",
            "LIMIT_UNACKNOWLEDGED_BYTES",
        ),
        (
            Some(CloseReason::TooManyRuns),
            Code::ResourceExhausted,
            "too many runs are pending for the streams of this namespace, ",
            "LIMIT_PENDING_RUNS",
        ),
        (
            Some(CloseReason::MaxConnectionAge),
            Code::Unavailable,
            "the stream has reached its maximum age ",
            "MAX_CONNECTION_AGE",
        ),
        (None, Code::Unavailable, "the server is shutting down", "SHUTTING_DOWN"),
    ] {
        let mut events = client.subscribe("a").await.unwrap();
        let mut stream = in_time(server.delivery.attached()).await;
        stream.send("{}");
        match close {
            Some(reason) => stream.close(reason),
            None => drop(stream),
        }
        assert!(in_time(events.message()).await.unwrap().is_some(), "events before the end are sent");
        let end = in_time(events.message()).await.unwrap_err();
        assert_eq!((end.code(), &*reason(&end)), (code, reason_));
        assert!(end.message().starts_with(text), "{end:?}");
    }
}

/// Such a stream is not polled. It would hold its events, which delivery no longer counts, for as long as the peer wants.
#[tokio::test]
async fn a_closed_stream_that_is_not_read_ends_with_its_connection() {
    let mut server = TestServer::start(Limits::default()).await;
    for reason in [CloseReason::NotReading, CloseReason::TooManyRuns] {
        let client = server.client().await;
        let _events = client.subscribe("a").await.unwrap();
        let mut stream = in_time(server.delivery.attached()).await;
        // More than the client's window.
        stream.send(&"x".repeat(8 << 20));
        stream.close(reason);
        in_time(server.delivery.ended()).await;
    }
}

#[tokio::test]
async fn health_follows_readiness() {
    let server = TestServer::unlisted(Limits::default()).await;
    let condition = server.readiness.condition("watch", "not listed");
    let mut health = HealthClient::new(server.client().await.0);
    let mut statuses = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let mut becomes = async |wanted: ServingStatus| {
        in_time(async { while statuses.message().await.unwrap().unwrap().status != wanted as i32 {} }).await;
    };
    becomes(ServingStatus::NotServing).await;
    condition.release();
    becomes(ServingStatus::Serving).await;
}

/// Health and reflection have their own limits, so that they cannot take the place of streams or memory.
#[tokio::test]
async fn calls_of_health_are_limited() {
    let server = TestServer::start(Limits::default()).await;
    let mut health = HealthClient::new(server.client().await.0);
    let mut watches = Vec::new();
    for _ in 0..16 {
        watches.push(health.watch(HealthCheckRequest::default()).await.unwrap());
    }
    let status = health.watch(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "LIMIT_STREAMS_PER_PEER"));
    let large = HealthCheckRequest { service: "x".repeat(5_000) };
    drop(watches);
    let status = in_time(async {
        loop {
            let status = health.check(large.clone()).await.unwrap_err();
            if status.message().contains("larger") {
                return status;
            }
        }
    })
    .await;
    assert_eq!(&*reason(&status), "LIMIT_REQUEST_SIZE");
    tokio::time::timeout(Duration::from_secs(5), server.client().await.subscribe("a"))
        .await
        .unwrap()
        .expect("a stream");
}
