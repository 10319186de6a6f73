//! A subscriber with grpc-go, the library with which Argo Events dials.

use std::time::Duration;

use test_support::{GrpcGoClient, Line, Peers};

use crate::server::{PATIENCE, Server, Session, within};
use crate::tap::Tap;

async fn subscriber(server: &Server, tap: &Tap, count: usize) -> (GrpcGoClient, Session) {
    let peers = Peers::find().await;
    let client = peers.grpc_go_client(tap.address, "").count(count).start();
    (client, server.session().await)
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn each_event_is_confirmed() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let (mut client, mut session) = subscriber(&server, &tap, 1_000).await;
    for sequence in 0..100 {
        let total = session.hand_off(format!("event {sequence}").into_bytes()).await;
        session.confirmed(total).await.expect("confirmed");
        assert_eq!(client.payload(PATIENCE).await, format!("event {sequence}"));
    }
    assert_eq!(session.proven(), session.handed_off());
    tap.check();
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn many_events_are_confirmed_by_far_fewer_pings() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let (mut client, mut session) = subscriber(&server, &tap, 5_000).await;
    let reader = tokio::spawn(async move {
        for _ in 0..5_000 {
            client.payload(PATIENCE).await;
        }
    });
    let mut total = 0;
    for _ in 0..5_000 {
        total = session.hand_off_within(256, vec![b'x'; 200]).await;
    }
    // It cancels the stream when it has them all: the last may be confirmed or not.
    let last = session.confirmed(total).await;
    assert!(last.is_ok() || session.proven() < total);
    within(reader).await.expect("read them all");
    let pings = tap.check();
    assert!((1..1_000).contains(&pings), "{pings} PINGs for 5,000 events");
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_frozen_client_confirms_nothing_until_it_goes_on() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let (mut client, mut session) = subscriber(&server, &tap, 1_000).await;
    let first = session.hand_off(b"first".to_vec()).await;
    session.confirmed(first).await.expect("confirmed");
    assert_eq!(client.payload(PATIENCE).await, "first");

    client.pause();
    // About 80 kB: more than the window of 64 KiB, and far less than what its kernel takes and acknowledges for it.
    let mut last = first;
    for _ in 0..264 {
        last = session.hand_off(vec![b'x'; 300]).await;
    }
    session.unconfirmed_for(Duration::from_millis(700), first).await;
    assert!(client.buffered().is_empty());

    client.resume();
    session.confirmed(last).await.expect("confirmed");
    for _ in 0..264 {
        assert_eq!(client.payload(PATIENCE).await.len(), 300);
    }
    tap.check();
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_client_that_cancels_closes_its_account() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let (mut client, mut session) = subscriber(&server, &tap, 1).await;
    session.hand_off(b"only".to_vec()).await;
    assert_eq!(client.payload(PATIENCE).await, "only");
    session.closed().await;
    assert!(matches!(client.next(PATIENCE).await, Some(Line::Status { .. })));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_client_that_is_killed_while_frozen_closes_its_account_and_confirms_nothing() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let (mut client, mut session) = subscriber(&server, &tap, 1_000).await;
    client.pause();
    let total = session.hand_off(vec![b'x'; 300]).await;
    session.unconfirmed_for(Duration::from_millis(200), 0).await;
    client.kill();
    session.confirmed(total).await.expect_err("its account is closed");
    assert_eq!(session.proven(), 0);
}
