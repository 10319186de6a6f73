//! The adapter: a [`Link`] is the connection that hyper reads and writes, over the one that really is. It decides
//! nothing about HTTP/2; it moves octets, and PINGs at the moments that the other files allow.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::transport::server::Connected;

use super::account::{LinkInfo, Shared};
use super::frame::{HEAD, Head, kind};
use super::inbound::Inbound;
use super::ledger::{Due, PingPayload};
use super::outbound::Outbound;

/// At most so many octets are read at once. They pass through the stack, so an idle connection holds no buffer; what a
/// subscriber sends is small.
const READ: usize = 4 * 1024;

/// A PING on the wire.
const PING: usize = HEAD + size_of::<PingPayload>();

/// An accepted connection, followed as [the module](super) describes. Put it around whatever carries HTTP/2 in plain
/// text: a TCP stream, or the inside of a TLS stream.
///
/// Reads and writes must come from one task, as hyper's do, within a Tokio runtime with time enabled.
pub struct Link<IO> {
    io: IO,
    peer: Option<SocketAddr>,
    shared: Arc<Shared>,
    inbound: Inbound,
    outbound: Outbound,
    /// What came from the peer and did not fit into the reader's buffer, and how much of it has been read since.
    spill: Vec<u8>,
    spilled: usize,
    /// The PING that is being written, and how much of it is.
    ping: Option<([u8; PING], usize)>,
    /// Octets of a PING may still be in a buffer below.
    unflushed: bool,
    /// Wakes the task when the next PING may be begun.
    timer: Option<Pin<Box<Sleep>>>,
    /// The peer will send nothing more.
    ended: bool,
    /// Our side of the connection is being shut down.
    closing: bool,
}

impl<IO> Link<IO> {
    /// Wraps a connection of which no octet has been read or written yet.
    pub fn new(io: IO) -> Self {
        let token = rand::random();
        Self {
            io,
            peer: None,
            shared: Shared::new(token),
            inbound: Inbound::new(token),
            outbound: Outbound::default(),
            spill: Vec::new(),
            spilled: 0,
            ping: None,
            unflushed: false,
            timer: None,
            ended: false,
            closing: false,
        }
    }

    /// Says where the connection comes from, for [`LinkInfo::peer_addr`].
    #[must_use]
    pub fn with_peer_addr(mut self, peer: SocketAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Nothing more can be proven: closes the accounts without waiting for hyper to drop the connection.
    fn give_up<T>(&self, error: io::Error) -> io::Result<T> {
        self.shared.ledger().end();
        Err(error)
    }

    /// Gives the reader what did not fit before. Returns whether there was anything.
    fn read_spill(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let left = &self.spill[self.spilled..];
        if left.is_empty() {
            return false;
        }
        let fits = left.len().min(buf.remaining());
        buf.put_slice(&left[..fits]);
        self.spilled += fits;
        if self.spilled == self.spill.len() {
            (self.spill, self.spilled) = (Vec::new(), 0);
        }
        true
    }

    /// Has `bytes` (`None`: the end) from the peer followed, and gives the reader what it shall see of them.
    fn receive(&mut self, bytes: Option<&[u8]>, buf: &mut ReadBuf<'_>) {
        let Self { inbound, spill, shared, .. } = self;
        let pass = |bytes: &[u8]| {
            // Once something has spilled the buffer is full, so the order is kept.
            let fits = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..fits]);
            spill.extend_from_slice(&bytes[fits..]);
        };
        let mut ledger = shared.ledger();
        match bytes {
            Some(bytes) => inbound.advance(bytes, &mut ledger, pass),
            None => {
                ledger.end();
                inbound.finish(pass);
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> Link<IO> {
    /// Finishes a PING that is half written. Nothing else may be written before that.
    fn poll_finish_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((octets, written)) = &mut self.ping {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &octets[*written..])) {
                Ok(0) => return Poll::Ready(self.give_up(io::ErrorKind::WriteZero.into())),
                Ok(n) => *written += n,
                Err(error) => return Poll::Ready(self.give_up(error)),
            }
            self.unflushed = true;
            if *written == PING {
                self.ping = None;
                self.shared.ledger().ping_written();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Begins a PING if one is due and may be put in here; if one is due later, sees to it that the task is woken.
    fn begin_ping(&mut self, cx: &mut Context<'_>) {
        if self.closing || self.ping.is_some() || !self.outbound.ping_allowed() {
            return;
        }
        loop {
            let now = Instant::now();
            let mut ledger = self.shared.ledger();
            let at = match ledger.due(now) {
                Due::No => return,
                Due::Now => {
                    let payload = rand::random();
                    ledger.ping_begun(now, payload);
                    self.ping = Some((encode_ping(payload), 0));
                    return;
                }
                Due::At(at) => at,
            };
            drop(ledger);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }

    /// The link's own business, at any time that the task comes by. Pending: a PING is half written.
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_finish_ping(cx))?;
        self.begin_ping(cx);
        self.poll_finish_ping(cx)
    }

    /// Has the first `n` octets of `bufs`, which were accepted below, followed.
    fn written<'a>(&mut self, bufs: impl Iterator<Item = &'a [u8]>, mut n: usize) {
        let mut ledger = self.shared.ledger();
        for buf in bufs {
            let taken = buf.len().min(n);
            self.outbound.advance(&buf[..taken], &mut ledger);
            n -= taken;
            if n == 0 {
                return;
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Link<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Before anything is looked at, so that an account that comes to want something in between still wakes us.
        this.shared.task.register(cx.waker());
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            // Often nothing else is to be written when a PING is due: then this is its only chance.
            if let Poll::Ready(result) = this.poll_ping(cx) {
                result?;
                if this.unflushed
                    && let Poll::Ready(result) = Pin::new(&mut this.io).poll_flush(cx)
                {
                    result.or_else(|error| this.give_up(error))?;
                    this.unflushed = false;
                }
            }
            if this.read_spill(buf) || this.ended {
                return Poll::Ready(Ok(()));
            }
            let mut octets = [MaybeUninit::uninit(); READ];
            let limit = buf.remaining().min(READ);
            let mut read = ReadBuf::uninit(&mut octets[..limit]);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut read)).or_else(|error| this.give_up(error))?;
            let before = buf.filled().len();
            if read.filled().is_empty() {
                this.ended = true;
                this.receive(None, buf);
            } else {
                this.receive(Some(read.filled()), buf);
            }
            // Nothing for hyper in it (an acknowledgement of ours, half a head): that must not look like the end.
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Link<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_ping(cx))?;
        let n = match ready!(Pin::new(&mut this.io).poll_write(cx, buf)) {
            Ok(n) => n,
            Err(error) => return Poll::Ready(this.give_up(error)),
        };
        this.written(std::iter::once(buf), n);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_ping(cx))?;
        let n = match ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs)) {
            Ok(n) => n,
            Err(error) => return Poll::Ready(this.give_up(error)),
        };
        this.written(bufs.iter().map(|buf| &**buf), n);
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_ping(cx))?;
        ready!(Pin::new(&mut this.io).poll_flush(cx)).or_else(|error| this.give_up(error))?;
        this.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.closing = true;
        ready!(this.poll_finish_ping(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl<IO> Connected for Link<IO> {
    type ConnectInfo = LinkInfo;

    fn connect_info(&self) -> LinkInfo {
        LinkInfo { shared: Arc::downgrade(&self.shared), peer: self.peer }
    }
}

impl<IO: fmt::Debug> fmt::Debug for Link<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("io", &self.io).field("peer", &self.peer).finish_non_exhaustive()
    }
}

fn encode_ping(payload: PingPayload) -> [u8; PING] {
    let mut octets = [0; PING];
    let (head, body) = octets.split_at_mut(HEAD);
    head.copy_from_slice(Head::new(8, kind::PING, 0, 0).octets());
    body.copy_from_slice(&payload);
    octets
}
