//! Long headers, forged headers, shutdown, and clients without HTTP/2.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::server::{Server, connect, next, within};
use crate::start;

fn headers<const N: usize>(headers: [(&'static str, String); N]) -> MetadataMap {
    let mut map = MetadataMap::new();
    for (name, value) in headers {
        map.append(name, MetadataValue::try_from(value).expect("a value"));
    }
    map
}

#[tokio::test]
async fn streams_with_long_headers_are_acknowledged() {
    let (server, proxy, mut client) = start().await;
    // The PINGs of the first stream meet the headers of the next.
    let (mut first_events, mut first) = server.subscribe(&mut client, "first").await;
    for round in 0..20 {
        let first_end = first.hand_off(vec![1; 100]).await;
        let long = headers([("response-header-bytes", "40000".to_owned()), ("long", "y".repeat(40_000))]);
        let (response, mut session) = server.subscribe_with(&mut client, "long", long).await;
        assert_eq!(response.metadata().get("long").map(|value| value.len()), Some(40_000), "round {round}");
        let mut events = response.into_inner();
        let end = session.hand_off(vec![2; 100]).await;
        session.acknowledged(end).await.expect("acknowledged");
        first.acknowledged(first_end).await.expect("acknowledged");
        next(&mut events).await;
        next(&mut first_events).await;
    }
    assert!(proxy.check() >= 20);
}

#[tokio::test]
async fn a_client_cannot_forge_the_stream_id_header() {
    let server = Server::start().await;
    let mut client = connect(server.address).await;
    let (_events, session) = server.subscribe(&mut client, "first").await;
    let id_of_another = format!("{:08x}{:016x}", session.stream_id(), 0);
    let forged = headers([("x-link-stream-id", id_of_another), ("x-link-stream-id", "1".to_owned())]);
    let (_response, second) = server.subscribe_with(&mut client, "second", forged).await;
    assert_ne!(second.stream_id(), session.stream_id());
}

#[tokio::test]
async fn a_hand_off_before_a_shutdown_is_acknowledged_after_goaway() {
    let (server, proxy, mut client) = start().await;
    let (mut events, mut session) = server.subscribe(&mut client, "drains").await;
    proxy.pause_responses();
    let before = session.hand_off(vec![1; 100]).await;
    server.shut_down();
    // The shutdown has begun when the server accepts no connections.
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let after = session.hand_off(vec![1; 100]).await;
    proxy.resume();
    session.acknowledged(before).await.expect("acknowledged");
    session.acknowledged(after).await.expect("acknowledged");
    session.end();
    session.closed().await;
    for _ in 0..2 {
        next(&mut events).await;
    }
    assert!(within(events.message()).await.expect("no error").is_none());
    assert!(proxy.saw_goaway());
    proxy.check();
}

#[tokio::test]
async fn clients_without_http2_are_disconnected_and_affect_no_other() {
    let server = Server::start().await;
    let mut client = connect(server.address).await;
    let (mut events, mut session) = server.subscribe(&mut client, "good").await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let lone_continuation = [0, 0, 1, 9, 4, 0, 0, 0, 1, 0x82];
    for first_bytes in [
        b"GET / HTTP/1.1\r\nhost: example\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client, perhaps".to_vec(),
        [&preface[..], &[0xff; 64]].concat(),
        [&preface[..], &settings, &lone_continuation].concat(),
    ] {
        let mut connection = TcpStream::connect(server.address).await.expect("connected");
        connection.write_all(&first_bytes).await.expect("written");
        let mut answer = Vec::new();
        // The server closes or resets the connection.
        let ended = within(connection.read_to_end(&mut answer)).await;
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    }
    let end = session.hand_off(vec![1; 100]).await;
    session.acknowledged(end).await.expect("acknowledged");
    next(&mut events).await;
}
