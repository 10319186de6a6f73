//! The adapter, step by step: who is woken when, and what stands between whom.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tonic::transport::server::Connected as _;

use super::transport::{Flag, Wire};
use super::wire::*;
use crate::eventsource::link::{Link, STREAM_ID_HEADER, StreamAccount};

struct Hyper {
    link: Link<Wire>,
    wire: Wire,
    flag: Arc<Flag>,
    waker: Waker,
    received: Vec<u8>,
}

impl Hyper {
    fn new() -> Self {
        let wire = Wire::default();
        let (flag, waker) = Flag::waker();
        Self { link: Link::new(wire.clone()), wire, flag, waker, received: Vec::new() }
    }

    /// A connection on which stream 1 is open and our SETTINGS are out.
    fn greeted() -> (Self, StreamAccount) {
        let mut hyper = Self::new();
        hyper.wire.send(&[hello(), headers(1, END_STREAM, 20)].concat());
        assert!(hyper.read().is_pending());
        hyper.write(&settings());
        let account = hyper.account();
        (hyper, account)
    }

    /// The account of the stream that was opened last.
    fn account(&self) -> StreamAccount {
        let frames = self.received.strip_prefix(PREFACE).expect("the preface");
        let mut frame = parse(frames).0.pop().expect("a request");
        let (stream, token) = take_literal(&mut frame).expect("its id");
        let mut headers = HeaderMap::new();
        headers.append(STREAM_ID_HEADER, format!("{stream:08x}{token:016x}").parse().expect("a value"));
        self.link.connect_info().account(&headers).expect("an account")
    }

    /// Reads until there is nothing more.
    fn read(&mut self) -> Poll<std::io::Result<()>> {
        loop {
            let mut octets = [0; 64];
            let mut buf = ReadBuf::new(&mut octets);
            match Pin::new(&mut self.link).poll_read(&mut Context::from_waker(&self.waker), &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.received.extend_from_slice(buf.filled()),
                other => return other,
            }
        }
    }

    fn poll_write(&mut self, octets: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.link).poll_write(&mut Context::from_waker(&self.waker), octets)
    }

    fn poll_flush(&mut self) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(&mut Context::from_waker(&self.waker))
    }

    fn poll_shutdown(&mut self) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.link).poll_shutdown(&mut Context::from_waker(&self.waker))
    }

    #[track_caller]
    fn write(&mut self, octets: &[u8]) {
        assert!(matches!(self.poll_write(octets), Poll::Ready(Ok(n)) if n == octets.len()));
    }

    /// The payloads of the PINGs that are on the wire.
    fn pings(&self) -> Vec<Vec<u8>> {
        let outgoing = self.wire.outgoing();
        parse(&outgoing).0.into_iter().filter(Frame::is_ping).map(|ping| ping.payload).collect()
    }
}

fn is_closed(account: &StreamAccount) -> bool {
    account.acknowledged().has_changed().is_err()
}

#[tokio::test]
async fn a_ping_goes_out_where_nothing_else_is_written_and_is_flushed() {
    let (mut hyper, account) = Hyper::greeted();
    hyper.write(&data(1, 0, 100));
    assert!(hyper.poll_flush().is_ready());
    assert!(hyper.pings().is_empty(), "nobody wants one");
    hyper.flag.take();
    account.expect(100);
    assert!(hyper.flag.take(), "the task is woken");
    assert!(hyper.read().is_pending());
    assert_eq!(hyper.pings().len(), 1);
    assert!(hyper.wire.is_flushed(), "a TLS stream would keep it otherwise");

    let before = hyper.received.len();
    hyper.wire.send(&pong(&hyper.pings()[0]));
    assert!(hyper.read().is_pending(), "an acknowledgement alone is not the end of the connection");
    assert_eq!(hyper.received.len(), before);
    assert_eq!(*account.acknowledged().borrow(), 100);
}

#[tokio::test]
async fn what_is_expected_before_it_is_written_is_pinged_by_the_flush_and_wakes_nobody() {
    let (mut hyper, account) = Hyper::greeted();
    hyper.flag.take();
    account.expect(100);
    assert!(!hyper.flag.take());
    hyper.write(&data(1, 0, 100));
    assert!(hyper.pings().is_empty());
    assert!(hyper.poll_flush().is_ready());
    assert_eq!(hyper.pings().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_ping_that_is_due_later_wakes_the_task_then() {
    let (mut hyper, account) = Hyper::greeted();
    for total in [100, 200] {
        account.expect(total);
        hyper.write(&data(1, 0, 100));
        assert!(hyper.poll_flush().is_ready());
        let last = hyper.pings().pop().expect("at least one");
        hyper.wire.send(&pong(&last));
        assert!(hyper.read().is_pending());
    }
    assert_eq!((hyper.pings().len(), *account.acknowledged().borrow()), (1, 100));
    hyper.flag.take();
    tokio::time::sleep(Duration::from_millis(8)).await;
    assert!(!hyper.flag.take());
    tokio::time::sleep(Duration::from_millis(4)).await;
    assert!(hyper.flag.take());
    assert!(hyper.read().is_pending());
    assert_eq!(hyper.pings().len(), 2);
}

#[tokio::test]
async fn nothing_else_is_written_while_a_ping_is_half_out() {
    let (mut hyper, account) = Hyper::greeted();
    account.expect(100);
    hyper.write(&data(1, 0, 100));
    hyper.wire.state().moods = vec![5, 0];
    assert!(hyper.poll_flush().is_pending());
    assert!(hyper.poll_write(&data(1, 0, 7)).is_pending(), "5 octets more, and then it waits");
    hyper.wire.send(&frame(WINDOW_UPDATE, 0, 0, &[0; 4]));
    hyper.wire.state().moods = Vec::new();
    hyper.wire.state().full = true;
    let before = hyper.received.len();
    assert!(hyper.read().is_pending());
    assert_eq!(hyper.received.len(), before + 13, "reading goes on");
    assert!(hyper.poll_write(&data(1, 0, 7)).is_pending());
    hyper.wire.state().full = false;
    hyper.write(&data(1, 0, 7));
    assert_eq!(hyper.pings().len(), 1);
    assert!(hyper.wire.outgoing().ends_with(&data(1, 0, 7)));
}

#[tokio::test]
async fn a_ping_waits_for_the_end_of_the_frame_that_is_half_out() {
    let (mut hyper, account) = Hyper::greeted();
    account.expect(100);
    let octets = [data(1, 0, 100), data(1, 0, 50)].concat();
    hyper.write(&octets[..120]);
    assert!(hyper.poll_flush().is_ready());
    assert!(hyper.read().is_pending());
    assert_eq!(hyper.wire.outgoing().len(), settings().len() + 120);
    hyper.write(&octets[120..]);
    assert!(hyper.poll_flush().is_ready());
    assert_eq!(hyper.pings().len(), 1);
}

#[tokio::test]
async fn no_ping_is_begun_after_the_shutdown_but_one_that_is_half_out_is_finished() {
    let (mut hyper, account) = Hyper::greeted();
    hyper.write(&data(1, 0, 100));
    assert!(hyper.poll_shutdown().is_ready());
    account.expect(100);
    assert!(hyper.read().is_pending());
    assert!(hyper.poll_flush().is_ready());
    assert!(hyper.pings().is_empty());

    let (mut hyper, account) = Hyper::greeted();
    account.expect(100);
    hyper.write(&data(1, 0, 100));
    hyper.wire.state().moods = vec![5, 0];
    assert!(hyper.poll_flush().is_pending());
    assert!(hyper.poll_shutdown().is_pending());
    hyper.wire.state().moods = Vec::new();
    assert!(hyper.poll_shutdown().is_ready());
    assert!(hyper.wire.state().shut_down);
    assert_eq!(hyper.pings().len(), 1);
}

#[tokio::test]
async fn every_way_in_which_a_connection_ends_closes_its_accounts() {
    let ends: [fn(&mut Hyper); 5] = [
        |hyper| {
            hyper.wire.state().eof = true;
            assert!(matches!(hyper.read(), Poll::Ready(Ok(()))));
        },
        |hyper| {
            hyper.wire.state().broken = true;
            assert!(matches!(hyper.read(), Poll::Ready(Err(_))));
        },
        |hyper| {
            hyper.wire.state().broken = true;
            assert!(matches!(hyper.poll_write(b"x"), Poll::Ready(Err(_))));
        },
        |hyper| {
            hyper.wire.state().broken = true;
            assert!(matches!(hyper.poll_flush(), Poll::Ready(Err(_))));
        },
        |hyper| *hyper = Hyper::new(),
    ];
    for (index, end) in ends.into_iter().enumerate() {
        let (mut hyper, account) = Hyper::greeted();
        account.expect(100);
        hyper.write(&data(1, 0, 100));
        assert!(!is_closed(&account), "way {index}");
        end(&mut hyper);
        assert!(is_closed(&account), "way {index}");
        account.expect(200);
    }
}

#[tokio::test]
async fn a_reader_with_a_tiny_buffer_gets_everything_in_order() {
    let mut hyper = Hyper::new();
    let sent = [hello(), headers(1, END_STREAM, 30), data(1, 0, 20)].concat();
    hyper.wire.send(&sent);
    hyper.wire.state().eof = true;
    let mut received = Vec::new();
    loop {
        let mut octet = [0; 1];
        let mut buf = ReadBuf::new(&mut octet);
        let read = Pin::new(&mut hyper.link).poll_read(&mut Context::from_waker(&hyper.waker), &mut buf);
        assert!(matches!(read, Poll::Ready(Ok(()))));
        match buf.filled() {
            [] => break,
            filled => received.extend_from_slice(filled),
        }
    }
    assert_eq!(received.len(), sent.len() + 43);
    assert!(received.ends_with(&data(1, 0, 20)));
}

#[test]
fn a_connection_costs_little() {
    let size = size_of::<Link<tokio::net::TcpStream>>();
    assert!(size <= 320, "{size}");
}
