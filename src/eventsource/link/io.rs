//! The I/O of a link: [`Link`] is the connection that hyper reads and writes, on top of the accepted one. It moves
//! bytes, and sends PINGs when the tracker and the outbound direction allow it.

use std::{
    fmt, io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop,
    time::{Instant, Sleep, sleep_until},
};
use tonic::transport::server::Connected;

use super::{
    acks::{LinkInfo, Shared},
    frame::{FrameHeader, HEADER_LEN, kind},
    inbound::Inbound,
    outbound::Outbound,
    tracker::{PingDue, PingPayload, Usage, UsageObserver},
};

/// The most bytes of one read. The buffer is on the stack, so that an idle connection has none. What a subscriber sends
/// is small.
const MAX_READ: usize = 4 * 1024;
/// The most bytes of one read beyond the current frame: up to five requests.
const READ_AHEAD: usize = 64;
/// The share of a task's turn in Tokio (128 units) that a new stream uses up. hyper starts a task for each request of a
/// turn. Those tasks should run before more requests are read: a client can send thousands at once, on each of
/// thousands of connections.
const UNITS_PER_STREAM: u32 = 32;

/// The length of a PING on the wire.
const PING_LEN: usize = HEADER_LEN + size_of::<PingPayload>();

/// An accepted connection whose frames are followed as described in [the module](super). It wraps a plain-text HTTP/2
/// connection: a TCP stream, or the inside of a TLS stream.
///
/// Reads and writes must come from one task, as hyper's do, in a Tokio runtime with time enabled.
pub struct Link<IO> {
    io: IO,
    peer: Option<SocketAddr>,
    shared: Arc<Shared>,
    inbound: Inbound,
    outbound: Outbound,
    /// Bytes from the peer that did not fit into the reader's buffer.
    overflow: Vec<u8>,
    /// The bytes of `overflow` that were read since.
    overflow_read: usize,
    /// The PING that is being written, and how many bytes of it are.
    ping: Option<([u8; PING_LEN], usize)>,
    /// A PING may still be in a buffer of `io`.
    needs_flush: bool,
    /// Wakes the task when the next PING may be started.
    timer: Option<Pin<Box<Sleep>>>,
    /// The peer has closed its side of the connection.
    read_closed: bool,
    /// hyper is shutting down the server's side of the connection.
    shutting_down: bool,
}

impl<IO> Link<IO> {
    /// Wraps a connection of which nothing was read or written yet.
    pub fn new(io: IO) -> Self {
        let token = rand::random();
        Self {
            io,
            peer: None,
            shared: Shared::new(token),
            inbound: Inbound::new(token),
            outbound: Outbound::default(),
            overflow: Vec::new(),
            overflow_read: 0,
            ping: None,
            needs_flush: false,
            timer: None,
            read_closed: false,
            shutting_down: false,
        }
    }

    /// Sets the address for [`LinkInfo::peer_addr`].
    #[must_use]
    pub fn with_peer_addr(mut self, peer: SocketAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Sets a function that receives the connection's usage after each change.
    #[must_use]
    pub fn with_usage_observer(self, observer: impl Fn(Usage) + Send + Sync + 'static) -> Self {
        self.shared.tracker().observe(UsageObserver::new(observer));
        self
    }

    /// Closes the tracker on an error of the connection, without waiting for hyper to drop it.
    fn fail<T>(&self, error: io::Error) -> io::Result<T> {
        self.shared.tracker().close();
        Err(error)
    }

    /// Moves overflow into `buf`. Returns whether there was any.
    fn read_overflow(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let left = &self.overflow[self.overflow_read..];
        if left.is_empty() {
            return false;
        }
        let fits = left.len().min(buf.remaining());
        buf.put_slice(&left[..fits]);
        self.overflow_read += fits;
        if self.overflow_read == self.overflow.len() {
            (self.overflow, self.overflow_read) = (Vec::new(), 0);
        }
        true
    }

    /// Passes `bytes` from the peer (`None`: the end) through the inbound direction into `buf`.
    fn receive(&mut self, bytes: Option<&[u8]>, buf: &mut ReadBuf<'_>) {
        let Self { inbound, overflow, shared, .. } = self;
        let forward = |bytes: &[u8]| {
            // Bytes overflow only when the buffer is full, so their order is kept.
            let fits = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..fits]);
            overflow.extend_from_slice(&bytes[fits..]);
        };
        let mut tracker = shared.tracker();
        match bytes {
            Some(bytes) => inbound.advance(bytes, &mut tracker, forward),
            None => {
                tracker.close();
                inbound.finish(forward);
            }
        }
    }

    /// The most bytes of the next read.
    fn read_limit(&self) -> usize {
        let payload = self.inbound.payload_left().map(|left| usize::try_from(left).unwrap_or(MAX_READ));
        payload.map_or(MAX_READ, |left| left.clamp(READ_AHEAD, MAX_READ))
    }
}

impl<IO: AsyncWrite + Unpin> Link<IO> {
    /// Writes the rest of a partially written PING. Nothing else may be written before that.
    fn poll_finish_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((bytes, written)) = &mut self.ping {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &bytes[*written..])) {
                Ok(0) => return Poll::Ready(self.fail(io::ErrorKind::WriteZero.into())),
                Ok(n) => *written += n,
                Err(error) => return Poll::Ready(self.fail(error)),
            }
            self.needs_flush = true;
            if *written == PING_LEN {
                self.ping = None;
                self.shared.tracker().ping_written();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Starts a PING if one is due and may be inserted here. If one is due later, registers a wake-up of the task.
    fn start_ping(&mut self, cx: &mut Context<'_>) {
        if self.shutting_down || self.ping.is_some() || !self.outbound.ping_allowed() {
            return;
        }
        loop {
            let now = Instant::now();
            let mut tracker = self.shared.tracker();
            let at = match tracker.ping_due(now) {
                PingDue::No => return,
                PingDue::Now => {
                    let payload = rand::random();
                    tracker.ping_started(now, payload);
                    self.ping = Some((encode_ping(payload), 0));
                    return;
                }
                PingDue::At(at) => at,
            };
            drop(tracker);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }

    /// Writes PINGs. Called at every poll of the connection. Pending: a PING is partially written.
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_finish_ping(cx))?;
        self.start_ping(cx);
        self.poll_finish_ping(cx)
    }

    /// Passes the first `n` bytes of `bufs`, which `io` has accepted, to the outbound direction.
    fn written<'a>(&mut self, bufs: impl Iterator<Item = &'a [u8]>, mut n: usize) {
        let mut tracker = self.shared.tracker();
        for buf in bufs {
            let accepted = buf.len().min(n);
            self.outbound.advance(&buf[..accepted], &mut tracker);
            n -= accepted;
            if n == 0 {
                return;
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Link<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Before the state is read, so that an `expect` in between still wakes the task.
        this.shared.task.register(cx.waker());
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            // If hyper has nothing to write when a PING is due, it is sent from here.
            if let Poll::Ready(result) = this.poll_ping(cx) {
                result?;
                if this.needs_flush
                    && let Poll::Ready(result) = Pin::new(&mut this.io).poll_flush(cx)
                {
                    result.or_else(|error| this.fail(error))?;
                    this.needs_flush = false;
                }
            }
            if this.read_overflow(buf) || this.read_closed {
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [MaybeUninit::uninit(); MAX_READ];
            let limit = buf.remaining().min(this.read_limit());
            let mut read = ReadBuf::uninit(&mut bytes[..limit]);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut read)).or_else(|error| this.fail(error))?;
            let before = buf.filled().len();
            if read.filled().is_empty() {
                this.read_closed = true;
                this.receive(None, buf);
            } else {
                this.receive(Some(read.filled()), buf);
                use_up(cx, UNITS_PER_STREAM * this.shared.tracker().take_opened());
            }
            // Zero bytes would look like the end of the connection, so read on if there were none for hyper (an
            // acknowledgement of the link, a partial header).
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
        let n = ready!(Pin::new(&mut this.io).poll_write(cx, buf)).or_else(|error| this.fail(error))?;
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
        let n = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs)).or_else(|error| this.fail(error))?;
        this.written(bufs.iter().map(|buf| &**buf), n);
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_ping(cx))?;
        ready!(Pin::new(&mut this.io).poll_flush(cx)).or_else(|error| this.fail(error))?;
        this.needs_flush = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.shutting_down = true;
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

impl<IO> Connected for Box<Link<IO>> {
    type ConnectInfo = LinkInfo;

    fn connect_info(&self) -> LinkInfo {
        self.as_ref().connect_info()
    }
}

impl<IO: fmt::Debug> fmt::Debug for Link<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("io", &self.io).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Uses up units of the task's turn. Without any left, sockets return `Pending`, and the task is polled again after
/// others.
fn use_up(cx: &mut Context<'_>, units: u32) {
    for _ in 0..units {
        if !coop::has_budget_remaining() {
            return;
        }
        if let Poll::Ready(unit) = coop::poll_proceed(cx) {
            unit.made_progress();
        }
    }
}

fn encode_ping(payload: PingPayload) -> [u8; PING_LEN] {
    let mut bytes = [0; PING_LEN];
    let (header, body) = bytes.split_at_mut(HEADER_LEN);
    header.copy_from_slice(FrameHeader::new(8, kind::PING, 0, 0).bytes());
    body.copy_from_slice(&payload);
    bytes
}
