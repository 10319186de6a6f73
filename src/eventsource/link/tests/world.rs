//! hyper on one side of a link and a peer on the other, played by the test, with a plain account of what may be proven.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::Instant;
use tonic::transport::server::Connected as _;

use super::transport::{Flag, Wire};
use super::wire::*;
use crate::eventsource::link::{Link, STREAM_ID_HEADER, StreamAccount};

#[derive(Clone, Debug)]
pub(super) enum Op {
    /// The peer opens a stream, with a header block of so many frames.
    Open {
        blocks: u8,
    },
    /// The peer sends something that is none of the link's business.
    Chatter(u8),
    PeerResets(usize),
    /// Our side answers with a header block of this length.
    Respond(usize, usize),
    Data(usize, usize),
    Trailers(usize, usize),
    WeReset(usize),
    /// A PING of hyper's own.
    OwnPing,
    /// The test wants what is queued on the stream so far, and so much more.
    Expect(usize, u64),
    /// The peer reads on, or does not.
    Frozen(bool),
    /// The socket takes nothing, or does.
    Full(bool),
    Pass(u64),
    Turn,
}

struct Stream {
    account: Option<StreamAccount>,
    /// DATA octets that hyper has queued.
    queued: u64,
    wanted: Vec<u64>,
    /// Our side has sent its end, or either side a reset.
    over: bool,
}

/// hyper on one side of the link, the peer on the other, and what both know.
pub(super) struct World {
    link: Link<Wire>,
    pub(super) wire: Wire,
    flag: Arc<Flag>,
    waker: Waker,
    streams: Vec<Stream>,
    /// What the peer has sent after its preface, and whether hyper shall find an id in it.
    sent: Vec<(Vec<u8>, bool)>,
    pub(super) received: Vec<u8>,
    pub(super) queue: Vec<u8>,
    written: usize,
    frozen: bool,
    /// How much of the link's output the peer has read, and what it found there by stream.
    read: usize,
    parser: Parser,
    found: HashMap<u32, u64>,
    /// For each PING that the peer has acknowledged: what it had found before it.
    acknowledged: Vec<HashMap<u32, u64>>,
    began: Instant,
}

impl World {
    pub(super) fn new(moods: &[u8], vectored: bool) -> Self {
        let wire = Wire::new(moods, vectored);
        let (flag, waker) = Flag::waker();
        let mut world = Self {
            link: Link::new(wire.clone()),
            wire,
            flag,
            waker,
            streams: Vec::new(),
            sent: Vec::new(),
            received: Vec::new(),
            queue: settings(),
            written: 0,
            frozen: false,
            read: 0,
            parser: Parser::default(),
            found: HashMap::new(),
            acknowledged: Vec::new(),
            began: Instant::now(),
        };
        world.wire.send(PREFACE);
        world.send(settings(), false);
        world
    }

    fn send(&mut self, octets: Vec<u8>, opens: bool) {
        self.wire.send(&octets);
        self.sent.push((octets, opens));
    }

    pub(super) async fn apply(&mut self, op: Op) {
        match op {
            Op::Open { blocks } if self.streams.len() < 4 => {
                let id = id(self.streams.len());
                self.streams.push(Stream { account: None, queued: 0, wanted: Vec::new(), over: false });
                match blocks {
                    1 => self.send(headers(id, END_STREAM, 60), true),
                    _ => {
                        self.send(frame(HEADERS, PADDED, id, &[1, 0x82, 0]), false);
                        for _ in 2..blocks {
                            self.send(frame(CONTINUATION, 0, id, &[0x82; 30]), false);
                        }
                        self.send(frame(CONTINUATION, END_HEADERS, id, &[0x82; 30]), true);
                    }
                }
                self.turn();
                let account = self.account(id);
                self.streams.last_mut().expect("just opened").account = Some(account);
            }
            Op::Open { .. } => {}
            Op::Chatter(which) => {
                let octets = match which % 8 {
                    0 => frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
                    1 => frame(PING, 0, 0, &[which; 8]),
                    2 => pong(&[which; 8]),
                    3 => frame(SETTINGS, ACK, 0, &[]),
                    4 => data(1, END_STREAM, which.into()),
                    5 => frame(GOAWAY, 0, 0, &[0; 8]),
                    6 => frame(PRIORITY, 0, 1, &[0; 5]),
                    _ => frame(which | 0x80, which, which.into(), &vec![0x55; which.into()]),
                };
                self.send(octets, false);
            }
            Op::PeerResets(index) => {
                if let Some(stream) = self.streams.get_mut(index) {
                    stream.over = true;
                    self.send(reset(id(index)), false);
                }
            }
            Op::Respond(index, len) => {
                if self.is_open(index) {
                    self.queue.extend(long_headers(id(index), 0, len.max(1)).concat());
                }
            }
            Op::Data(index, len) => {
                if self.is_open(index) {
                    self.queue.extend(data(id(index), 0, len));
                    self.streams[index].queued += len as u64;
                }
            }
            Op::Trailers(index, len) => {
                if self.is_open(index) {
                    self.streams[index].over = true;
                    self.queue.extend(long_headers(id(index), END_STREAM, len.max(1)).concat());
                }
            }
            Op::WeReset(index) => {
                if self.is_open(index) {
                    self.streams[index].over = true;
                    self.queue.extend(reset(id(index)));
                }
            }
            Op::OwnPing => self.queue.extend(frame(PING, 0, 0, b"of hyper")),
            Op::Expect(index, ahead) => {
                if let Some(stream) = self.streams.get_mut(index) {
                    let total = stream.queued + ahead;
                    stream.account.as_ref().expect("opened").expect(total);
                    // One that does not exceed its predecessor is covered by that.
                    if stream.wanted.last().is_none_or(|last| *last < total) {
                        stream.wanted.push(total);
                    }
                }
            }
            Op::Frozen(frozen) => self.frozen = frozen,
            Op::Full(full) => self.wire.state().full = full,
            Op::Pass(ms) => tokio::time::advance(Duration::from_millis(ms)).await,
            Op::Turn => self.turn(),
        }
    }

    fn is_open(&self, index: usize) -> bool {
        self.streams.get(index).is_some_and(|stream| !stream.over)
    }

    /// The connection's task runs for as long as it is woken, then the peer reads and answers.
    fn turn(&mut self) {
        self.run();
        if !self.frozen {
            self.peer_reads();
        }
    }

    pub(super) fn run(&mut self) {
        loop {
            self.flag.take();
            self.poll();
            if !self.flag.take() {
                break;
            }
        }
    }

    /// One round of hyper's: read all there is, write all that is queued, flush.
    fn poll(&mut self) {
        let mut cx = Context::from_waker(&self.waker);
        loop {
            let mut octets = [0; 100];
            let mut buf = ReadBuf::new(&mut octets);
            match Pin::new(&mut self.link).poll_read(&mut cx, &mut buf) {
                Poll::Pending => break,
                Poll::Ready(result) => result.expect("it reads"),
            }
            assert!(!buf.filled().is_empty(), "the end, where there is none");
            self.received.extend_from_slice(buf.filled());
        }
        while self.written < self.queue.len() {
            let next = &self.queue[self.written..self.queue.len().min(self.written + 20_000)];
            let (a, b) = next.split_at(next.len().min(9));
            let polled = if self.link.is_write_vectored() {
                let slices = [std::io::IoSlice::new(a), std::io::IoSlice::new(b)];
                Pin::new(&mut self.link).poll_write_vectored(&mut cx, &slices)
            } else {
                Pin::new(&mut self.link).poll_write(&mut cx, next)
            };
            match polled {
                Poll::Pending => return,
                Poll::Ready(n) => self.written += n.expect("it writes"),
            }
        }
        if let Poll::Ready(result) = Pin::new(&mut self.link).poll_flush(&mut cx) {
            result.expect("it flushes");
        }
    }

    /// The peer ends the connection, and hyper reads what is left.
    pub(super) fn read_to_end(&mut self) {
        self.wire.state().eof = true;
        loop {
            let mut octets = [0; 100];
            let mut buf = ReadBuf::new(&mut octets);
            let polled = Pin::new(&mut self.link).poll_read(&mut Context::from_waker(&self.waker), &mut buf);
            match (polled, buf.filled()) {
                (Poll::Ready(Ok(())), []) => return,
                (_, filled) => self.received.extend_from_slice(filled),
            }
        }
    }

    /// The peer reads what came, with the strictest eye, and acknowledges the link's PINGs.
    fn peer_reads(&mut self) {
        let unread = self.wire.state().outgoing[self.read..].to_vec();
        let (frames, rest) = self.parser.parse(&unread);
        self.read += unread.len() - rest.len();
        let before = self.acknowledged.len();
        for frame in frames {
            if frame.kind == DATA {
                *self.found.entry(frame.stream).or_default() += frame.payload.len() as u64;
            }
            if frame.is_ping() && frame.payload != b"of hyper" {
                self.acknowledged.push(self.found.clone());
                self.wire.send(&pong(&frame.payload));
            }
        }
        let pings = self.acknowledged.len();
        assert!(pings <= before + 1, "two at once, though the first was not acknowledged");
        let most = 1 + self.began.elapsed().as_millis() / 10;
        assert!(pings as u128 <= most, "{pings} PINGs, where {most} are allowed");
    }

    fn account(&self, stream: u32) -> StreamAccount {
        let frames = self.received.strip_prefix(PREFACE).expect("the preface");
        let mut opened = parse(frames).0.into_iter().rev().find(|frame| frame.stream == stream).expect("a request");
        let (found, token) = take_literal(&mut opened).expect("its id");
        assert_eq!(found, stream);
        let mut headers = HeaderMap::new();
        headers.append(STREAM_ID_HEADER, format!("{found:08x}{token:016x}").parse().expect("a value"));
        self.link.connect_info().account(&headers).expect("an account")
    }

    /// What is proven is what the peer had found before a PING that it acknowledged, never anything else.
    pub(super) fn check(&self) {
        for (index, stream) in self.streams.iter().enumerate() {
            let Some(account) = &stream.account else { continue };
            let proven = *account.acknowledged().borrow();
            let known = self.acknowledged.iter().map(|found| found.get(&id(index)).copied().unwrap_or(0));
            assert!(proven == 0 || known.clone().any(|octets| octets == proven), "stream {index}: {proven}");
        }
    }

    /// Lets everything come to rest, and compares what both sides have read with what the other wrote.
    pub(super) async fn finish(&mut self) {
        self.frozen = false;
        self.wire.state().full = false;
        for _ in 0..20 {
            self.turn();
            tokio::time::advance(Duration::from_millis(5)).await;
            self.check();
        }
        assert_eq!(self.written, self.queue.len());
        let outgoing = self.wire.outgoing();
        let (frames, rest) = parse(&outgoing);
        assert!(rest.is_empty());
        let others = frames.into_iter().filter(|frame| !frame.is_ping() || frame.payload == b"of hyper");
        let written: Vec<u8> = others.flat_map(|frame| frame.octets()).collect();
        assert!(written == self.queue, "the peer's octets differ from hyper's");

        let (mut received, rest) = parse(self.received.strip_prefix(PREFACE).expect("the preface"));
        assert!(rest.is_empty());
        for (frame, (_, opens)) in received.iter_mut().zip(&self.sent) {
            assert_eq!(take_literal(frame).is_some(), *opens);
        }
        let received: Vec<_> = received.iter().map(Frame::octets).collect();
        let sent: Vec<_> = self.sent.iter().map(|(octets, _)| octets.clone()).collect();
        assert!(received == sent, "hyper's octets differ from the peer's");

        for (index, stream) in self.streams.iter().enumerate().filter(|(_, stream)| !stream.over) {
            let account = stream.account.as_ref().expect("opened");
            let proven = *account.acknowledged().borrow();
            let last = stream.wanted.iter().filter(|total| **total <= stream.queued).max().copied().unwrap_or(0);
            assert!(proven >= last, "stream {index}: {proven} proven, {last} wanted and written");
            assert!(account.acknowledged().has_changed().is_ok(), "stream {index} is open");
            let found = self.acknowledged.last().and_then(|found| found.get(&id(index))).copied().unwrap_or(0);
            assert_eq!(proven, found, "stream {index}: all that was acknowledged");
        }
    }
}

fn id(index: usize) -> u32 {
    2 * u32::try_from(index).expect("small") + 1
}
