//! The connection under a stream, with real neighbours: tonic's server over it, real clients, real TCP.

mod grpc_go;
mod odd;
mod server;
mod speed;
mod tap;

use std::time::Duration;

use server::{Server, client, within};
use tap::Tap;

#[tokio::test]
async fn each_event_of_a_reading_client_is_confirmed() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let mut client = client(tap.address).await;
    let (mut events, mut session) = server.subscribe(&mut client, "one").await;
    for sequence in 0..20 {
        let total = session.hand_off(vec![b'x'; 300]).await;
        let event = within(events.message()).await.expect("the stream is fine").expect("an event");
        assert_eq!(event.payload.len(), 300, "event {sequence}");
        session.confirmed(total).await.expect("confirmed");
    }
    assert_eq!(session.proven(), session.handed_off(), "nothing is proven that was not written");
    tap.check();
}

#[tokio::test]
async fn many_events_are_confirmed_by_far_fewer_pings() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let mut client = client(tap.address).await;
    let (mut events, mut session) = server.subscribe(&mut client, "many").await;
    let reader = tokio::spawn(async move {
        for _ in 0..10_000 {
            events.message().await.expect("the stream is fine").expect("an event");
        }
        events
    });
    let mut total = 0;
    for _ in 0..10_000 {
        total = session.hand_off_within(256, vec![b'x'; 200]).await;
    }
    session.confirmed(total).await.expect("confirmed");
    within(reader).await.expect("read them all");
    let pings = tap.check();
    assert!((1..2_000).contains(&pings), "{pings} PINGs for 10,000 events");
}

#[tokio::test]
async fn a_client_whose_socket_stalls_confirms_nothing_until_it_goes_on() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let mut client = client(tap.address).await;
    let (mut events, mut session) = server.subscribe(&mut client, "stalled").await;
    let first = session.hand_off(vec![1; 300]).await;
    session.confirmed(first).await.expect("confirmed");

    tap.pause_responses();
    let mut last = first;
    for _ in 0..50 {
        last = session.hand_off(vec![2; 300]).await;
    }
    session.unconfirmed_for(Duration::from_millis(300), first).await;

    tap.resume();
    session.confirmed(last).await.expect("confirmed");
    for _ in 0..51 {
        within(events.message()).await.expect("the stream is fine").expect("an event");
    }
    tap.check();
}

#[tokio::test]
async fn what_flow_control_holds_back_is_not_confirmed() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let mut client = client(tap.address).await;
    let (mut events, mut session) = server.subscribe(&mut client, "unread").await;
    // tonic's client grants 64 KiB at first, and more only as the stream is read. Its HTTP/2 stack reads all the same.
    let small = session.hand_off(vec![1; 1_000]).await;
    session.confirmed(small).await.expect("confirmed");
    let large = session.hand_off(vec![2; 5_000_000]).await;
    session.unconfirmed_for(Duration::from_millis(300), small).await;
    for _ in 0..2 {
        within(events.message()).await.expect("the stream is fine").expect("an event");
    }
    session.confirmed(large).await.expect("confirmed");
    tap.check();
}

#[tokio::test]
async fn one_stream_that_is_cancelled_leaves_the_other_alone() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let mut client = client(tap.address).await;
    let (mut kept, mut keeps) = server.subscribe(&mut client, "kept").await;
    let (cancelled, mut cancels) = server.subscribe(&mut client, "cancelled").await;
    assert_ne!(keeps.stream_id(), cancels.stream_id());

    tap.pause_responses();
    let lost = cancels.hand_off(vec![1; 100]).await;
    let held = keeps.hand_off(vec![2; 100]).await;
    drop(cancelled);
    // The client's RST_STREAM passes: only what it reads is stalled.
    cancels.confirmed(lost).await.expect_err("its account is closed");
    keeps.unconfirmed_for(Duration::from_millis(100), 0).await;
    tap.resume();
    keeps.confirmed(held).await.expect("confirmed");
    within(kept.message()).await.expect("the stream is fine").expect("an event");
    assert_eq!(cancels.proven(), 0);
    tap.check();
}

#[tokio::test]
async fn a_stream_that_we_end_is_still_confirmed_and_then_closed() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let mut client = client(tap.address).await;
    let (mut events, mut session) = server.subscribe(&mut client, "ends").await;
    let total = session.hand_off(vec![1; 100]).await;
    session.end();
    session.confirmed(total).await.expect("confirmed");
    session.closed().await;
    within(events.message()).await.expect("the stream is fine").expect("an event");
    assert!(within(events.message()).await.expect("an orderly end").is_none());
    tap.check();
}

#[tokio::test]
async fn a_connection_that_breaks_closes_its_accounts() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let mut client = client(tap.address).await;
    let (_events, mut session) = server.subscribe(&mut client, "breaks").await;
    tap.pause_responses();
    let total = session.hand_off(vec![1; 100]).await;
    tap.cut();
    session.confirmed(total).await.expect_err("its account is closed");
    assert_eq!(session.proven(), 0);
}
