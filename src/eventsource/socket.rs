//! An accepted connection at its lowest: counted for as long as it is open, and given up when its peer says nothing at
//! all, or takes nothing any more.
//!
//! A peer that has vanished is noticed by HTTP/2's keepalive, which ends its streams. That leaves two kinds of connections
//! that nothing would ever end where the peer's kernel, or a proxy, still answers for it:
//!
//! - one on which HTTP/2 has not even begun, because its preface does not come;
//! - one with something left to write, if only the GOAWAY that keepalive has brought about: h2 flushes before it closes,
//!   and TCP waits for a full receiver for ever.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;
use tracing::info;

use crate::telemetry::metrics::{StreamMetrics, streams::ReasonLabel};

/// How long a peer may take for its first octets. A client sends them at once, before it knows whether anybody listens.
const GREETING: Duration = Duration::from_secs(20);
/// So many octets are what an HTTP/2 client sends first (under TLS, its handshake begins with more).
const GREETING_OCTETS: usize = 24;

/// See the module.
pub(super) struct Socket<IO> {
    io: IO,
    peer: SocketAddr,
    /// How many of its first octets have not come yet, and until when they may.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    /// How long a write may wait.
    patience: Duration,
    /// Runs for as long as there is something to be written and nothing of it is taken.
    stalled: Option<Pin<Box<Sleep>>>,
    given_up: Family<ReasonLabel, Counter>,
    _open: Counted,
}

impl<IO> Socket<IO> {
    /// A connection that was accepted from `peer`. It ends when nothing of what is to be written was taken for as long as
    /// `patience`, or when its first octets do not come.
    pub(super) fn new(io: IO, peer: SocketAddr, patience: Duration, metrics: &StreamMetrics) -> Self {
        Self {
            io,
            peer,
            greeting: Some((GREETING_OCTETS, Box::pin(sleep(GREETING)))),
            patience,
            stalled: None,
            given_up: metrics.connections_given_up.clone(),
            _open: Counted::new(&metrics.connections),
        }
    }

    fn give_up<T>(&self, reason: &'static str, waited: Duration) -> Poll<io::Result<T>> {
        self.given_up.get_or_create(&ReasonLabel { reason }).inc();
        info!(peer = %self.peer, reason, "a connection is given up after {} s", waited.as_secs());
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ends the connection where a write has waited for too long.
    fn patiently<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        if stalled.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.stalled = None;
        self.give_up("stalled", patience)
    }
}

struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
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
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        let Some((missing, deadline)) = &mut this.greeting else { return read };
        *missing = missing.saturating_sub(buf.filled().len() - before);
        if *missing == 0 {
            this.greeting = None;
        } else if read.is_pending() && deadline.as_mut().poll(cx).is_ready() {
            this.greeting = None;
            return this.give_up("silent", GREETING);
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Socket<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.io).poll_write(cx, buf);
        self.patiently(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.patiently(cx, write)
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

    const PATIENCE: Duration = Duration::from_secs(50);

    fn metrics() -> StreamMetrics {
        StreamMetrics::new(&mut Registry::default())
    }

    /// A socket, and its peer's end, which takes 16 octets unread.
    fn connected(metrics: &StreamMetrics) -> (Socket<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(16);
        (Socket::new(ours, SocketAddr::from(([192, 0, 2, 1], 1)), PATIENCE, metrics), theirs)
    }

    fn given_up(metrics: &StreamMetrics, reason: &'static str) -> u64 {
        metrics.connections_given_up.get_or_create(&ReasonLabel { reason }).get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_nothing_of_it_was_taken_for_as_long_as_its_patience() {
        let metrics = metrics();
        let (mut socket, _theirs) = connected(&metrics);
        socket.write_all(&[0; 16]).await.expect("taken");
        let full = Instant::now();
        let error = socket.write_all(&[0; 1]).await.expect_err("nothing is taken");
        assert_eq!((error.kind(), full.elapsed().as_secs()), (io::ErrorKind::TimedOut, 50));
        assert_eq!(given_up(&metrics, "stalled"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_keeps_its_connection_and_so_does_one_to_whom_nothing_is_to_be_written() {
        let (mut socket, mut theirs) = connected(&metrics());
        let writer = tokio::spawn(async move {
            socket.write_all(&[0; 20]).await.expect("taken");
            sleep(PATIENCE * 3).await;
            socket.write_all(&[0; 16]).await.expect("taken");
        });
        for _ in 0..20 {
            sleep(PATIENCE - Duration::from_secs(1)).await;
            theirs.read_u8().await.expect("an octet");
        }
        timeout(PATIENCE, writer).await.expect("all was taken").expect("no error");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_say_all_that_comes_first_is_given_up_however_slowly_it_says_it() {
        let metrics = metrics();
        let (mut socket, mut theirs) = connected(&metrics);
        let began = Instant::now();
        let dawdles = tokio::spawn(async move {
            for _ in 0..GREETING_OCTETS - 1 {
                theirs.write_u8(0).await.expect("taken");
                sleep(Duration::from_millis(10)).await;
            }
            std::future::pending::<()>().await;
        });
        let error = socket.read_exact(&mut [0; GREETING_OCTETS]).await.expect_err("it never comes");
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 20));
        assert_eq!(given_up(&metrics, "silent"), 1);
        dawdles.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_said_it_may_be_silent_for_ever() {
        let (mut socket, mut theirs) = connected(&metrics());
        tokio::spawn(async move {
            theirs.write_all(&[0; GREETING_OCTETS]).await.expect("taken");
            sleep(GREETING * 100).await;
            theirs.write_u8(1).await.expect("taken");
        });
        socket.read_exact(&mut [0; GREETING_OCTETS]).await.expect("it came");
        assert_eq!(socket.read_u8().await.expect("it came"), 1);
    }

    #[tokio::test]
    async fn a_connection_counts_until_it_is_dropped() {
        let metrics = metrics();
        let (socket, _theirs) = connected(&metrics);
        assert_eq!(metrics.connections.get(), 1);
        drop(socket);
        assert_eq!(metrics.connections.get(), 0);
    }
}
