//! Requests, answers and peers that are out of the ordinary.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::server::{Server, client, within};
use crate::tap::Tap;

fn headers<const N: usize>(headers: [(&'static str, String); N]) -> MetadataMap {
    let mut map = MetadataMap::new();
    for (name, value) in headers {
        map.append(name, MetadataValue::try_from(value).expect("a value"));
    }
    map
}

#[tokio::test]
async fn answers_and_requests_with_long_headers_pass_and_are_confirmed() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let mut client = client(tap.address).await;
    // A first stream keeps PINGs coming while the headers of the next go out.
    let (mut first_events, mut first) = server.subscribe(&mut client, "first").await;
    for round in 0..20 {
        let before = first.hand_off(vec![1; 100]).await;
        let long = headers([("wants-headers", "40000".to_owned()), ("long", "y".repeat(40_000))]);
        let (response, mut session) = server.subscribe_with(&mut client, "long", long).await;
        assert_eq!(response.metadata().get("long").map(|value| value.len()), Some(40_000), "round {round}");
        let mut events = response.into_inner();
        let total = session.hand_off(vec![2; 100]).await;
        session.confirmed(total).await.expect("confirmed");
        first.confirmed(before).await.expect("confirmed");
        within(events.message()).await.expect("the stream is fine").expect("an event");
        within(first_events.message()).await.expect("the stream is fine").expect("an event");
    }
    assert!(tap.check() >= 20);
}

#[tokio::test]
async fn a_clients_own_header_of_that_name_does_not_pass_for_ours() {
    let server = Server::start().await;
    let mut client = client(server.addr).await;
    let (_events, session) = server.subscribe(&mut client, "first").await;
    let own = format!("{:08x}{:016x}", session.stream_id(), 0);
    let forged = headers([("x-link-stream-id", own), ("x-link-stream-id", "1".to_owned())]);
    let (_response, forger) = server.subscribe_with(&mut client, "second", forged).await;
    assert_ne!(forger.stream_id(), session.stream_id());
}

#[tokio::test]
async fn what_was_handed_off_before_a_shutdown_is_confirmed_after_the_goaway() {
    let server = Server::start().await;
    let tap = Tap::start(server.addr).await;
    let mut client = client(tap.address).await;
    let (mut events, mut session) = server.subscribe(&mut client, "drains").await;
    tap.pause_responses();
    let before = session.hand_off(vec![1; 100]).await;
    server.shut_down();
    // It takes nobody in any more, so it has begun to shut down.
    while TcpStream::connect(server.addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let after = session.hand_off(vec![1; 100]).await;
    tap.resume();
    session.confirmed(before).await.expect("confirmed");
    session.confirmed(after).await.expect("confirmed");
    session.end();
    session.closed().await;
    for _ in 0..2 {
        within(events.message()).await.expect("the stream is fine").expect("an event");
    }
    assert!(within(events.message()).await.expect("an orderly end").is_none());
    assert!(tap.saw_goaway());
    tap.check();
}

#[tokio::test]
async fn peers_that_speak_no_http2_are_turned_away_and_harm_nobody() {
    let server = Server::start().await;
    let mut client = client(server.addr).await;
    let (mut events, mut session) = server.subscribe(&mut client, "good").await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let lone_continuation = [0, 0, 1, 9, 4, 0, 0, 0, 1, 0x82];
    for begin in [
        b"GET / HTTP/1.1\r\nhost: example\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client, perhaps".to_vec(),
        [&preface[..], &[0xff; 64]].concat(),
        [&preface[..], &settings, &lone_continuation].concat(),
    ] {
        let mut peer = TcpStream::connect(server.addr).await.expect("connected");
        peer.write_all(&begin).await.expect("written");
        let mut answer = Vec::new();
        // The end of the connection or its reset: either way we are turned away.
        let ended = within(peer.read_to_end(&mut answer)).await;
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    }
    let total = session.hand_off(vec![1; 100]).await;
    session.confirmed(total).await.expect("confirmed");
    within(events.message()).await.expect("the stream is fine").expect("an event");
}
