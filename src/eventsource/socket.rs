//! Time limits of an accepted connection, its end by a limit of connections, and the gauge of open ones.
//!
//! HTTP/2 keepalive notices a peer that has vanished and ends its streams. Two kinds of connections would still stay open
//! for as long as the peer's kernel, or a proxy, answers for the peer:
//!
//! - a connection without an HTTP/2 preface, on which HTTP/2 and its keepalive have not started;
//! - a connection with pending writes, such as the GOAWAY after a failed keepalive: h2 flushes before it closes, and TCP
//!   has no time limit for a receiver that accepts nothing.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;
use tracing::info;

use super::{
    admission::ConnectionGuard,
    metrics::{CloseReason, StreamMetrics},
};

/// The time limit for the preface. A client sends it at once, before any byte of the server.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(20);
/// The length of the HTTP/2 preface. A TLS handshake begins with more bytes.
const PREFACE_LEN: usize = 24;

/// See the module.
pub(super) struct Socket<IO> {
    io: IO,
    peer: SocketAddr,
    /// The missing bytes of the preface, and their deadline.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    write_timeout: Duration,
    /// The deadline of the pending write.
    write_deadline: Option<Pin<Box<Sleep>>>,
    metrics: StreamMetrics,
    guard: ConnectionGuard,
    _open: OpenConnection,
}

impl<IO> Socket<IO> {
    /// Wraps a connection that was accepted from `peer`. It fails with `TimedOut` if its first bytes do not arrive in
    /// time, or if the peer accepts no byte of a write within `write_timeout`, and with `ConnectionAborted` if it has to
    /// make room for another.
    pub(super) fn new(
        io: IO,
        peer: SocketAddr,
        write_timeout: Duration,
        metrics: &StreamMetrics,
        guard: ConnectionGuard,
    ) -> Self {
        Self {
            io,
            peer,
            preface: Some((PREFACE_LEN, Box::pin(sleep(PREFACE_TIMEOUT)))),
            write_timeout,
            write_deadline: None,
            metrics: metrics.clone(),
            guard,
            _open: OpenConnection::new(&metrics.connections),
        }
    }

    /// Fails if the connection has to make room for another.
    fn check_open(&self, cx: &Context<'_>) -> io::Result<()> {
        match self.guard.poll_closed(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn timed_out<T>(&self, reason: CloseReason, limit: Duration) -> Poll<io::Result<T>> {
        self.metrics.connection_closed(reason);
        info!(peer = %self.peer, reason = reason.name(), limit_s = limit.as_secs(), "closed connection");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Applies the time limit to the result of a write.
    fn poll_with_timeout<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.write_deadline = None;
            return write;
        }
        let limit = self.write_timeout;
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
        if deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.write_deadline = None;
        self.timed_out(CloseReason::Stalled, limit)
    }
}

/// Counts an open connection until it is dropped.
struct OpenConnection(Gauge);

impl OpenConnection {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl<IO> Connected for Socket<IO> {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl<IO: AsyncRead + Unpin> AsyncRead for Socket<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check_open(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        let Some((missing, deadline)) = &mut this.preface else { return read };
        *missing = missing.saturating_sub(buf.filled().len() - before);
        if *missing == 0 {
            this.preface = None;
        } else if read.is_pending() && deadline.as_mut().poll(cx).is_ready() {
            this.preface = None;
            return this.timed_out(CloseReason::Silent, PREFACE_TIMEOUT);
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Socket<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_open(cx)?;
        let write = Pin::new(&mut self.io).poll_write(cx, buf);
        self.poll_with_timeout(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_open(cx)?;
        let write = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.poll_with_timeout(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::{Instant, timeout},
    };

    use super::*;
    use crate::{
        eventsource::{admission::Admission, options::Limits},
        telemetry::LimitHits,
    };

    const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 1);
    const WRITE_TIMEOUT: Duration = Duration::from_secs(50);

    fn metrics() -> StreamMetrics {
        StreamMetrics::new(&mut Registry::default())
    }

    /// A socket and the peer's end, whose buffer has 16 bytes.
    fn connected(metrics: &StreamMetrics) -> (Socket<DuplexStream>, DuplexStream) {
        let (server, peer) = duplex(16);
        let guard = Admission::new(Limits::default(), LimitHits::default()).connect(PEER).expect("few connections");
        (Socket::new(server, PEER, WRITE_TIMEOUT, metrics, guard), peer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_the_peer_accepts_nothing_in_time() {
        let metrics = metrics();
        let (mut socket, _peer) = connected(&metrics);
        socket.write_all(&[0; 16]).await.expect("accepted");
        let full = Instant::now();
        let error = socket.write_all(&[0; 1]).await.expect_err("nothing is accepted");
        assert_eq!((error.kind(), full.elapsed().as_secs()), (io::ErrorKind::TimedOut, 50));
        assert_eq!(metrics.closed(CloseReason::Stalled).get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn neither_a_slow_reader_nor_an_idle_one_is_disconnected() {
        let (mut socket, mut peer) = connected(&metrics());
        let writer = tokio::spawn(async move {
            socket.write_all(&[0; 20]).await.expect("accepted");
            sleep(WRITE_TIMEOUT * 3).await;
            socket.write_all(&[0; 16]).await.expect("accepted");
        });
        for _ in 0..20 {
            sleep(WRITE_TIMEOUT - Duration::from_secs(1)).await;
            peer.read_u8().await.expect("a byte");
        }
        timeout(WRITE_TIMEOUT, writer).await.expect("all was accepted").expect("no error");
    }

    #[tokio::test(start_paused = true)]
    async fn an_incomplete_preface_ends_the_connection_despite_slow_bytes() {
        let metrics = metrics();
        let (mut socket, mut peer) = connected(&metrics);
        let started = Instant::now();
        let slow_peer = tokio::spawn(async move {
            for _ in 0..PREFACE_LEN - 1 {
                peer.write_u8(0).await.expect("accepted");
                sleep(Duration::from_millis(10)).await;
            }
            std::future::pending::<()>().await;
        });
        let error = socket.read_exact(&mut [0; PREFACE_LEN]).await.expect_err("incomplete");
        assert_eq!((error.kind(), started.elapsed().as_secs()), (io::ErrorKind::TimedOut, 20));
        assert_eq!(metrics.closed(CloseReason::Silent).get(), 1);
        slow_peer.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_may_be_silent_after_its_preface() {
        let (mut socket, mut peer) = connected(&metrics());
        tokio::spawn(async move {
            peer.write_all(&[0; PREFACE_LEN]).await.expect("accepted");
            sleep(PREFACE_TIMEOUT * 100).await;
            peer.write_u8(1).await.expect("accepted");
        });
        socket.read_exact(&mut [0; PREFACE_LEN]).await.expect("the preface");
        assert_eq!(socket.read_u8().await.expect("a byte"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_makes_room_fails_while_it_reads_or_writes() {
        let limits = Limits { streams: 1, streams_per_peer: 1, ..Limits::default() };
        let admission = Admission::new(limits, LimitHits::default());
        let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let mut peers = Vec::new();
        let mut connect = |port| {
            let (server, peer) = duplex(16);
            peers.push(peer);
            let guard = admission.connect(address(port)).expect("room");
            Socket::new(server, address(port), WRITE_TIMEOUT, &metrics(), guard)
        };
        let (mut reading, mut writing) = (connect(1), connect(2));
        writing.write_all(&[0; 16]).await.expect("accepted");
        let reading = tokio::spawn(async move { reading.read_u8().await });
        let writing = tokio::spawn(async move { writing.write_all(&[0; 1]).await });
        sleep(Duration::from_secs(1)).await;
        let _others: Vec<_> = (3..67).map(&mut connect).collect();
        for result in [reading.await.expect("no panic").map(drop), writing.await.expect("no panic")] {
            assert_eq!(result.expect_err("closed").kind(), io::ErrorKind::ConnectionAborted);
        }
    }

    #[tokio::test]
    async fn a_connection_counts_until_it_is_dropped() {
        let metrics = metrics();
        let (socket, _peer) = connected(&metrics);
        assert_eq!(metrics.connections.get(), 1);
        drop(socket);
        assert_eq!(metrics.connections.get(), 0);
    }
}
