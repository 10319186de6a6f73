//! A link between a simulated hyper and a simulated peer, and a record of what both have read.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::HeaderMap;
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    time::Instant,
};
use tonic::transport::server::Connected as _;

use super::{
    http2::*,
    socket::{Fault, TestSocket, WakeFlag},
};
use crate::eventsource::link::{Link, STREAM_ID_HEADER, StreamAcks};

/// The payload of hyper's own PINGs.
const HYPER_PING: &[u8; 8] = b"of hyper";

/// A step of a test. Streams are indexes into [`Harness::streams`].
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// The peer opens a stream, with a header block of this many frames.
    Open {
        blocks: u8,
    },
    /// The peer sends a frame that the link only forwards.
    OtherFrame(u8),
    PeerReset(usize),
    /// hyper sends a header block of this length.
    Respond(usize, usize),
    Data(usize, usize),
    Trailers(usize, usize),
    ServerReset(usize),
    HyperPing,
    /// The handler expects the acknowledgement of everything queued on the stream so far, and of this many bytes more.
    Expect(usize, u64),
    /// The peer stops reading, or resumes.
    FreezePeer(bool),
    /// The socket stops accepting bytes, or resumes.
    FillSocket(bool),
    /// Advances the clock by milliseconds.
    Advance(u64),
    /// The connection's task and the peer run.
    Run,
}

struct Stream {
    acks: Option<StreamAcks>,
    /// The DATA bytes that hyper has queued.
    queued: u64,
    expected: Vec<u64>,
    /// The server has sent its end, or either side a reset.
    ended: bool,
}

/// See the module.
pub(super) struct Harness {
    link: Link<TestSocket>,
    pub(super) socket: TestSocket,
    woken: Arc<WakeFlag>,
    waker: Waker,
    streams: Vec<Stream>,
    /// The frames that the peer has sent after its preface, and whether the link appends a stream id.
    sent: Vec<(Vec<u8>, bool)>,
    /// The bytes that hyper has read.
    pub(super) received: Vec<u8>,
    /// The bytes that hyper writes.
    pub(super) queue: Vec<u8>,
    /// The bytes of `queue` that are written.
    written: usize,
    frozen: bool,
    /// The bytes of the link's output that the peer has read.
    peer_read: usize,
    peer_parser: Parser,
    /// The DATA bytes that the peer has read, by stream.
    peer_data: HashMap<u32, u64>,
    /// `peer_data` at each PING that the peer has acknowledged.
    acknowledged: Vec<HashMap<u32, u64>>,
    started: Instant,
}

impl Harness {
    pub(super) fn new(faults: &[Fault], vectored: bool) -> Self {
        let socket = TestSocket::new(faults, vectored);
        let (woken, waker) = WakeFlag::waker();
        let mut harness = Self {
            link: Link::new(socket.clone()),
            socket,
            woken,
            waker,
            streams: Vec::new(),
            sent: Vec::new(),
            received: Vec::new(),
            queue: settings(),
            written: 0,
            frozen: false,
            peer_read: 0,
            peer_parser: Parser::default(),
            peer_data: HashMap::new(),
            acknowledged: Vec::new(),
            started: Instant::now(),
        };
        harness.socket.send(PREFACE);
        harness.send(settings(), false);
        harness
    }

    fn send(&mut self, bytes: Vec<u8>, opens: bool) {
        self.socket.send(&bytes);
        self.sent.push((bytes, opens));
    }

    pub(super) async fn apply(&mut self, op: Op) {
        match op {
            Op::Open { blocks } if self.streams.len() < 4 => {
                let id = id(self.streams.len());
                self.streams.push(Stream { acks: None, queued: 0, expected: Vec::new(), ended: false });
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
                self.run();
                let acks = self.acks(id);
                self.streams.last_mut().expect("just opened").acks = Some(acks);
            }
            Op::Open { .. } => {}
            Op::OtherFrame(which) => {
                let bytes = match which % 8 {
                    0 => frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
                    1 => frame(PING, 0, 0, &[which; 8]),
                    2 => ping_ack(&[which; 8]),
                    3 => frame(SETTINGS, ACK, 0, &[]),
                    4 => data(1, END_STREAM, which.into()),
                    5 => frame(GOAWAY, 0, 0, &[0; 8]),
                    6 => frame(PRIORITY, 0, 1, &[0; 5]),
                    _ => frame(which | 0x80, which, which.into(), &vec![0x55; which.into()]),
                };
                self.send(bytes, false);
            }
            Op::PeerReset(index) => {
                if let Some(stream) = self.streams.get_mut(index) {
                    stream.ended = true;
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
                    self.streams[index].ended = true;
                    self.queue.extend(long_headers(id(index), END_STREAM, len.max(1)).concat());
                }
            }
            Op::ServerReset(index) => {
                if self.is_open(index) {
                    self.streams[index].ended = true;
                    self.queue.extend(reset(id(index)));
                }
            }
            Op::HyperPing => self.queue.extend(frame(PING, 0, 0, HYPER_PING)),
            Op::Expect(index, ahead) => {
                if let Some(stream) = self.streams.get_mut(index) {
                    let total = stream.queued + ahead;
                    stream.acks.as_ref().expect("opened").expect(total);
                    // A smaller total is covered by its predecessor.
                    if stream.expected.last().is_none_or(|last| *last < total) {
                        stream.expected.push(total);
                    }
                }
            }
            Op::FreezePeer(frozen) => self.frozen = frozen,
            Op::FillSocket(full) => self.socket.state().full = full,
            Op::Advance(ms) => tokio::time::advance(Duration::from_millis(ms)).await,
            Op::Run => self.run(),
        }
    }

    fn is_open(&self, index: usize) -> bool {
        self.streams.get(index).is_some_and(|stream| !stream.ended)
    }

    fn run(&mut self) {
        self.run_task();
        if !self.frozen {
            self.run_peer();
        }
    }

    /// Runs the connection's task for as long as it is woken.
    pub(super) fn run_task(&mut self) {
        loop {
            self.woken.take();
            self.poll();
            if !self.woken.take() {
                break;
            }
        }
    }

    /// One poll of hyper's: reads all there is, writes all that is queued, flushes.
    fn poll(&mut self) {
        let mut cx = Context::from_waker(&self.waker);
        loop {
            let mut bytes = [0; 100];
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.link).poll_read(&mut cx, &mut buf) {
                Poll::Pending => break,
                Poll::Ready(result) => result.expect("no read error"),
            }
            assert!(!buf.filled().is_empty(), "the end of an open connection");
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
                Poll::Ready(n) => self.written += n.expect("no write error"),
            }
        }
        if let Poll::Ready(result) = Pin::new(&mut self.link).poll_flush(&mut cx) {
            result.expect("no flush error");
        }
    }

    /// The peer closes the connection, and hyper reads what is left.
    pub(super) fn read_to_end(&mut self) {
        self.socket.state().eof = true;
        loop {
            let mut bytes = [0; 100];
            let mut buf = ReadBuf::new(&mut bytes);
            let polled = Pin::new(&mut self.link).poll_read(&mut Context::from_waker(&self.waker), &mut buf);
            match (polled, buf.filled()) {
                (Poll::Ready(Ok(())), []) => return,
                (_, filled) => self.received.extend_from_slice(filled),
            }
        }
    }

    /// The peer reads, checks the framing and the rate of PINGs, and acknowledges the link's PINGs.
    fn run_peer(&mut self) {
        let unread = self.socket.state().outgoing[self.peer_read..].to_vec();
        let (frames, rest) = self.peer_parser.parse(&unread);
        self.peer_read += unread.len() - rest.len();
        let before = self.acknowledged.len();
        for frame in frames {
            if frame.kind == DATA {
                *self.peer_data.entry(frame.stream).or_default() += frame.payload.len() as u64;
            }
            if is_link_ping(&frame) {
                self.acknowledged.push(self.peer_data.clone());
                self.socket.send(&ping_ack(&frame.payload));
            }
        }
        let pings = self.acknowledged.len();
        assert!(pings <= before + 1, "two PINGs in flight");
        let limit = 1 + self.started.elapsed().as_millis() / 10;
        assert!(pings as u128 <= limit, "{pings} PINGs, with a limit of {limit}");
    }

    fn acks(&self, stream: u32) -> StreamAcks {
        let frames = self.received.strip_prefix(PREFACE).expect("the preface");
        let mut opened = parse(frames).0.into_iter().rev().find(|frame| frame.stream == stream).expect("a request");
        let (found, token) = take_literal(&mut opened).expect("its id");
        assert_eq!(found, stream);
        let mut headers = HeaderMap::new();
        headers.append(STREAM_ID_HEADER, format!("{found:08x}{token:016x}").parse().expect("a value"));
        self.link.connect_info().stream_acks(&headers).expect("tracked")
    }

    /// Asserts that the acknowledged bytes of each stream are those that the peer had read before a PING that it has
    /// acknowledged.
    pub(super) fn check(&self) {
        for (index, stream) in self.streams.iter().enumerate() {
            let Some(acks) = &stream.acks else { continue };
            let acked = *acks.acked().borrow();
            let mut known = self.acknowledged.iter().map(|data| data.get(&id(index)).copied().unwrap_or(0));
            assert!(acked == 0 || known.any(|bytes| bytes == acked), "stream {index}: {acked}");
        }
    }

    /// Removes all obstacles, runs until nothing changes, and compares what each side has read with what the other has
    /// written.
    pub(super) async fn finish(&mut self) {
        self.frozen = false;
        self.socket.state().full = false;
        for _ in 0..20 {
            self.run();
            tokio::time::advance(Duration::from_millis(5)).await;
            self.check();
        }
        assert_eq!(self.written, self.queue.len());
        let outgoing = self.socket.outgoing();
        let (frames, rest) = parse(&outgoing);
        assert!(rest.is_empty());
        let from_hyper = frames.into_iter().filter(|frame| !is_link_ping(frame));
        let written: Vec<u8> = from_hyper.flat_map(|frame| frame.bytes()).collect();
        assert!(written == self.queue, "the peer has read other bytes than hyper wrote");

        let (mut received, rest) = parse(self.received.strip_prefix(PREFACE).expect("the preface"));
        assert!(rest.is_empty());
        for (frame, (_, opens)) in received.iter_mut().zip(&self.sent) {
            assert_eq!(take_literal(frame).is_some(), *opens);
        }
        let received: Vec<_> = received.iter().map(Frame::bytes).collect();
        let sent: Vec<_> = self.sent.iter().map(|(bytes, _)| bytes.clone()).collect();
        assert!(received == sent, "hyper has read other bytes than the peer wrote");

        for (index, stream) in self.streams.iter().enumerate().filter(|(_, stream)| !stream.ended) {
            let acks = stream.acks.as_ref().expect("opened");
            let acked = *acks.acked().borrow();
            let last = stream.expected.iter().filter(|total| **total <= stream.queued).max().copied().unwrap_or(0);
            assert!(acked >= last, "stream {index}: {acked} acknowledged, {last} expected and written");
            assert!(acks.acked().has_changed().is_ok(), "stream {index} is open");
            let found = self.acknowledged.last().and_then(|data| data.get(&id(index))).copied().unwrap_or(0);
            assert_eq!(acked, found, "stream {index}: all that the peer has acknowledged");
        }
    }
}

fn is_link_ping(frame: &Frame) -> bool {
    frame.is_ping() && frame.payload != HYPER_PING
}

fn id(index: usize) -> u32 {
    2 * u32::try_from(index).expect("small") + 1
}
