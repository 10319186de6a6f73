//! A connection from which both directions are followed, for the fuzz target `link` and for a property test.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};
use tonic::transport::server::Connected;

use super::{
    Link,
    inbound::Inbound,
    outbound::Outbound,
    tracker::{AckTracker, PING_INTERVAL, PingDue, PingPayload},
};

/// The payload of every PING here.
pub const PING_PAYLOAD: PingPayload = *b"fuzzping";

/// A part of a connection.
#[derive(Clone, Debug)]
pub enum Part {
    /// The peer sends these bytes.
    FromPeer(Vec<u8>),
    /// hyper writes these bytes.
    FromServer(Vec<u8>),
    /// The handler of the stream expects an acknowledgement of this many bytes.
    Expect(u32, u64),
    /// A PING is sent if one is due. The peer may then acknowledge [`PING_PAYLOAD`].
    Ping,
}

/// The conclusions of the link from a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// The bytes for hyper.
    pub forwarded: Vec<u8>,
    /// After each part: the acknowledged bytes of the first streams, and whether a PING may be inserted.
    pub acknowledged: Vec<(Vec<Option<u64>>, bool)>,
}

/// Follows a connection whose bytes arrive in pieces of these sizes, in rotation. No sizes: each part is one piece.
pub fn follow(parts: &[Part], token: u64, sizes: &[usize]) -> Conclusion {
    let (mut inbound, mut outbound) = (Inbound::new(token), Outbound::default());
    let mut tracker = AckTracker::default();
    let (mut forwarded, mut acknowledged) = (Vec::new(), Vec::new());
    // Advances before each PING, so that the rate of PINGs delays none.
    let mut now = Instant::now();
    let mut sizes = sizes.iter().copied().map(|size| size.max(1)).cycle();
    for part in parts {
        match part {
            Part::FromPeer(bytes) => pieces(bytes, &mut sizes, |piece| {
                inbound.advance(piece, &mut tracker, |bytes| forwarded.extend_from_slice(bytes));
            }),
            Part::FromServer(bytes) => pieces(bytes, &mut sizes, |piece| outbound.advance(piece, &mut tracker)),
            Part::Expect(stream, total) => {
                tracker.watch(*stream);
                tracker.expect(*stream, *total);
            }
            Part::Ping => {
                now += PING_INTERVAL;
                if outbound.ping_allowed() && tracker.ping_due(now) == PingDue::Now {
                    tracker.ping_started(now, PING_PAYLOAD);
                    tracker.ping_written();
                }
            }
        }
        let acked = (0..8).map(|stream| tracker.watch(stream).map(|acked| *acked.borrow())).collect();
        acknowledged.push((acked, outbound.ping_allowed()));
    }
    inbound.finish(|bytes| forwarded.extend_from_slice(bytes));
    Conclusion { forwarded, acknowledged }
}

/// Passes `bytes` in pieces.
fn pieces(mut bytes: &[u8], sizes: &mut impl Iterator<Item = usize>, mut each: impl FnMut(&[u8])) {
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(sizes.next().unwrap_or(bytes.len()).min(bytes.len()));
        each(piece);
        bytes = rest;
    }
}

/// The bytes that are read on both ends of a [`Link`].
#[derive(Debug, PartialEq, Eq)]
pub struct Transferred {
    /// The peer's bytes, as hyper reads them.
    pub by_server: Vec<u8>,
    /// hyper's bytes, as the peer reads them.
    pub by_peer: Vec<u8>,
    /// The token of the link.
    pub token: u64,
}

/// Transfers bytes in both directions through a link over a transport that passes pieces of these sizes. Nothing is
/// expected, so the link sends no PING.
///
/// # Errors
/// An error of the link. The transport has none.
pub fn transfer(peer: &[u8], server: &[u8], sizes: &[usize]) -> io::Result<Transferred> {
    let sizes = sizes.iter().map(|size| (*size).max(1)).collect();
    let mut transport = Transport { unread: peer.to_vec(), written: Vec::new(), sizes, turn: 0 };
    let mut link = Link::new(&mut transport);
    let token = link.connect_info().shared.upgrade().map_or(0, |shared| shared.token);
    let mut cx = Context::from_waker(Waker::noop());
    let mut rest = server;
    while !rest.is_empty() {
        if let Poll::Ready(n) = Pin::new(&mut link).poll_write(&mut cx, rest) {
            rest = &rest[n?..];
        }
    }
    let mut by_server = Vec::new();
    loop {
        let mut bytes = [0; 100];
        let mut buf = ReadBuf::new(&mut bytes);
        if let Poll::Ready(result) = Pin::new(&mut link).poll_read(&mut cx, &mut buf) {
            result?;
            if buf.filled().is_empty() {
                return Ok(Transferred { by_server, by_peer: transport.written, token });
            }
            by_server.extend_from_slice(buf.filled());
        }
    }
}

/// A transport in memory.
struct Transport {
    unread: Vec<u8>,
    written: Vec<u8>,
    sizes: Vec<usize>,
    turn: usize,
}

impl Transport {
    fn next_size(&mut self, most: usize) -> usize {
        self.turn += 1;
        most.min(self.sizes.get(self.turn % self.sizes.len().max(1)).copied().unwrap_or(most))
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = self.next_size(buf.remaining());
        let size = size.min(self.unread.len());
        let rest = self.unread.split_off(size);
        let piece = std::mem::replace(&mut self.unread, rest);
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let size = self.next_size(buf.len());
        self.written.extend_from_slice(&buf[..size]);
        Poll::Ready(Ok(size))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
