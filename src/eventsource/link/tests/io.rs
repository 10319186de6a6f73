//! Single steps of the I/O: wake-ups, flushes, and the order of writes.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::HeaderMap;

use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    task::coop,
};
use tonic::transport::server::Connected as _;

use super::{
    http2::*,
    socket::{Fault, TestSocket, WakeFlag},
};
use crate::eventsource::link::{Link, STREAM_ID_HEADER, StreamAcks};

/// A link that the test drives as hyper would.
struct TestEnv {
    link: Link<TestSocket>,
    socket: TestSocket,
    woken: Arc<WakeFlag>,
    waker: Waker,
    /// The bytes that hyper has read.
    received: Vec<u8>,
}

impl TestEnv {
    fn new() -> Self {
        let socket = TestSocket::default();
        let (woken, waker) = WakeFlag::waker();
        Self { link: Link::new(socket.clone()), socket, woken, waker, received: Vec::new() }
    }

    /// A connection with stream 1 open and the server's SETTINGS written.
    fn connected() -> (Self, StreamAcks) {
        let mut env = Self::new();
        env.socket.send(&[client_preface(), headers(1, END_STREAM, 20)].concat());
        assert!(env.read().is_pending());
        env.write(&settings());
        let acks = env.acks();
        (env, acks)
    }

    /// The acknowledgements of the stream that was opened last.
    fn acks(&self) -> StreamAcks {
        let frames = self.received.strip_prefix(PREFACE).expect("the preface");
        let mut frame = parse(frames).0.pop().expect("a request");
        let (stream, token) = take_literal(&mut frame).expect("its id");
        let mut headers = HeaderMap::new();
        headers.append(STREAM_ID_HEADER, format!("{stream:08x}{token:016x}").parse().expect("a value"));
        self.link.connect_info().stream_acks(&headers).expect("tracked")
    }

    /// Reads until nothing is left.
    fn read(&mut self) -> Poll<std::io::Result<()>> {
        loop {
            let mut bytes = [0; 64];
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.link).poll_read(&mut Context::from_waker(&self.waker), &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.received.extend_from_slice(buf.filled()),
                other => return other,
            }
        }
    }

    fn poll_write(&mut self, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.link).poll_write(&mut Context::from_waker(&self.waker), bytes)
    }

    fn poll_flush(&mut self) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(&mut Context::from_waker(&self.waker))
    }

    fn poll_shutdown(&mut self) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.link).poll_shutdown(&mut Context::from_waker(&self.waker))
    }

    #[track_caller]
    fn write(&mut self, bytes: &[u8]) {
        assert!(matches!(self.poll_write(bytes), Poll::Ready(Ok(n)) if n == bytes.len()));
    }

    /// The payloads of the PINGs that were written.
    fn pings(&self) -> Vec<Vec<u8>> {
        let outgoing = self.socket.outgoing();
        parse(&outgoing).0.into_iter().filter(Frame::is_ping).map(|ping| ping.payload).collect()
    }
}

fn is_closed(acks: &StreamAcks) -> bool {
    acks.acked().has_changed().is_err()
}

#[tokio::test]
async fn a_ping_is_sent_and_flushed_without_any_other_write() {
    let (mut env, acks) = TestEnv::connected();
    env.write(&data(1, 0, 100));
    assert!(env.poll_flush().is_ready());
    assert!(env.pings().is_empty(), "no acknowledgement is expected");
    env.woken.take();
    acks.expect(100);
    assert!(env.woken.take(), "the task is woken");
    assert!(env.read().is_pending());
    assert_eq!(env.pings().len(), 1);
    assert!(env.socket.is_flushed(), "a TLS stream would otherwise keep it in its buffer");

    let before = env.received.len();
    env.socket.send(&ping_ack(&env.pings()[0]));
    assert!(env.read().is_pending(), "an acknowledgement alone is not the end of the connection");
    assert_eq!(env.received.len(), before);
    assert_eq!(*acks.acked().borrow(), 100);
}

/// The flush behind the bytes sends the PING.
#[tokio::test]
async fn expecting_unwritten_bytes_wakes_no_task() {
    let (mut env, acks) = TestEnv::connected();
    env.woken.take();
    acks.expect(100);
    assert!(!env.woken.take());
    env.write(&data(1, 0, 100));
    assert!(env.pings().is_empty());
    assert!(env.poll_flush().is_ready());
    assert_eq!(env.pings().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_ping_that_is_due_later_wakes_the_task() {
    let (mut env, acks) = TestEnv::connected();
    for total in [100, 200] {
        acks.expect(total);
        env.write(&data(1, 0, 100));
        assert!(env.poll_flush().is_ready());
        let last = env.pings().pop().expect("at least one");
        env.socket.send(&ping_ack(&last));
        assert!(env.read().is_pending());
    }
    assert_eq!((env.pings().len(), *acks.acked().borrow()), (1, 100));
    env.woken.take();
    tokio::time::sleep(Duration::from_millis(8)).await;
    assert!(!env.woken.take());
    tokio::time::sleep(Duration::from_millis(4)).await;
    assert!(env.woken.take());
    assert!(env.read().is_pending());
    assert_eq!(env.pings().len(), 2);
}

#[tokio::test]
async fn nothing_else_is_written_while_a_ping_is_incomplete() {
    let (mut env, acks) = TestEnv::connected();
    acks.expect(100);
    env.write(&data(1, 0, 100));
    env.socket.state().faults = vec![Fault::Short(5), Fault::Pending];
    assert!(env.poll_flush().is_pending());
    assert!(env.poll_write(&data(1, 0, 7)).is_pending(), "five more bytes, then pending");
    env.socket.send(&frame(WINDOW_UPDATE, 0, 0, &[0; 4]));
    env.socket.state().faults = Vec::new();
    env.socket.state().full = true;
    let before = env.received.len();
    assert!(env.read().is_pending());
    assert_eq!(env.received.len(), before + 13, "reading continues");
    assert!(env.poll_write(&data(1, 0, 7)).is_pending());
    env.socket.state().full = false;
    env.write(&data(1, 0, 7));
    assert_eq!(env.pings().len(), 1);
    assert!(env.socket.outgoing().ends_with(&data(1, 0, 7)));
}

#[tokio::test]
async fn a_ping_waits_for_the_end_of_an_incomplete_frame() {
    let (mut env, acks) = TestEnv::connected();
    acks.expect(100);
    let bytes = [data(1, 0, 100), data(1, 0, 50)].concat();
    env.write(&bytes[..120]);
    assert!(env.poll_flush().is_ready());
    assert!(env.read().is_pending());
    assert_eq!(env.socket.outgoing().len(), settings().len() + 120);
    env.write(&bytes[120..]);
    assert!(env.poll_flush().is_ready());
    assert_eq!(env.pings().len(), 1);
}

#[tokio::test]
async fn a_shutdown_finishes_an_incomplete_ping_and_allows_no_other() {
    let (mut env, acks) = TestEnv::connected();
    env.write(&data(1, 0, 100));
    assert!(env.poll_shutdown().is_ready());
    acks.expect(100);
    assert!(env.read().is_pending());
    assert!(env.poll_flush().is_ready());
    assert!(env.pings().is_empty());

    let (mut env, acks) = TestEnv::connected();
    acks.expect(100);
    env.write(&data(1, 0, 100));
    env.socket.state().faults = vec![Fault::Short(5), Fault::Pending];
    assert!(env.poll_flush().is_pending());
    assert!(env.poll_shutdown().is_pending());
    env.socket.state().faults = Vec::new();
    assert!(env.poll_shutdown().is_ready());
    assert!(env.socket.state().shut_down);
    assert_eq!(env.pings().len(), 1);
}

#[tokio::test]
async fn every_end_of_a_connection_closes_its_receivers() {
    let ends: [fn(&mut TestEnv); 5] = [
        |env| {
            env.socket.state().eof = true;
            assert!(matches!(env.read(), Poll::Ready(Ok(()))));
        },
        |env| {
            env.socket.state().broken = true;
            assert!(matches!(env.read(), Poll::Ready(Err(_))));
        },
        |env| {
            env.socket.state().broken = true;
            assert!(matches!(env.poll_write(b"x"), Poll::Ready(Err(_))));
        },
        |env| {
            env.socket.state().broken = true;
            assert!(matches!(env.poll_flush(), Poll::Ready(Err(_))));
        },
        |env| *env = TestEnv::new(),
    ];
    for (index, end) in ends.into_iter().enumerate() {
        let (mut env, acks) = TestEnv::connected();
        acks.expect(100);
        env.write(&data(1, 0, 100));
        assert!(!is_closed(&acks), "end {index}");
        end(&mut env);
        assert!(is_closed(&acks), "end {index}");
        acks.expect(200);
    }
}

#[tokio::test]
async fn a_reader_with_a_tiny_buffer_reads_everything_in_order() {
    let mut env = TestEnv::new();
    let sent = [client_preface(), headers(1, END_STREAM, 30), data(1, 0, 20)].concat();
    env.socket.send(&sent);
    env.socket.state().eof = true;
    let mut received = Vec::new();
    loop {
        let mut byte = [0; 1];
        let mut buf = ReadBuf::new(&mut byte);
        let read = Pin::new(&mut env.link).poll_read(&mut Context::from_waker(&env.waker), &mut buf);
        assert!(matches!(read, Poll::Ready(Ok(()))));
        match buf.filled() {
            [] => break,
            filled => received.extend_from_slice(filled),
        }
    }
    assert_eq!(received.len(), sent.len() + 43);
    assert!(received.ends_with(&data(1, 0, 20)));
}

/// hyper starts a task for each new stream. Those run before the connection's task reads more.
#[tokio::test]
async fn new_streams_use_up_the_turn_of_the_task() {
    let mut env = TestEnv::new();
    env.socket.send(&client_preface());
    assert!(env.read().is_pending());
    for index in 0..4 {
        assert!(coop::has_budget_remaining(), "{index} streams");
        env.socket.send(&headers(2 * index + 1, END_STREAM, 3));
        assert!(env.read().is_pending());
    }
    assert!(!coop::has_budget_remaining());
}

/// A frame is read in few pieces, but not together with the requests behind it.
#[tokio::test]
async fn a_read_does_not_go_far_beyond_the_current_frame() {
    let mut env = TestEnv::new();
    env.socket.send(&[client_preface(), data(1, 0, 10_000), headers(1, END_STREAM, 3).repeat(100)].concat());
    let mut reads = Vec::new();
    loop {
        let before = env.socket.state().incoming.len();
        let mut bytes = [0; 16 * 1024];
        let mut buf = ReadBuf::new(&mut bytes);
        if Pin::new(&mut env.link).poll_read(&mut Context::from_waker(&env.waker), &mut buf).is_pending() {
            break;
        }
        reads.push(before - env.socket.state().incoming.len());
    }
    assert_eq!(reads[..4], [64, 4096, 4096, 10_000 + 24 + 15 + 9 - 64 - 2 * 4096]);
    assert!(reads[4..].iter().all(|read| *read <= 64), "{reads:?}");
}

#[test]
fn a_link_is_small() {
    let size = size_of::<Link<tokio::net::TcpStream>>();
    assert!(size <= 320, "{size}");
}
