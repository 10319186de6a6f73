//! An accepted connection at its lowest: counted for as long as it is open, and ended when its peer takes nothing any
//! more.
//!
//! A peer that has vanished, or that no longer reads, is noticed by HTTP/2's keepalive, which ends its streams. That
//! alone does not end the connection: it first wants to write what it still has, a GOAWAY at least, and where the peer's
//! kernel takes nothing but says that it is there, TCP would let it wait for ever.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;
use tracing::info;

/// See the module.
pub(super) struct Socket<IO> {
    io: IO,
    peer: SocketAddr,
    patience: Duration,
    /// Runs for as long as there is something to be written and nothing of it is taken.
    stalled: Option<Pin<Box<Sleep>>>,
    _open: Counted,
}

impl<IO> Socket<IO> {
    /// A connection that was accepted from `peer`, counts in `open`, and ends when nothing of what is to be written was
    /// taken for as long as `patience`.
    pub(super) fn new(io: IO, peer: SocketAddr, patience: Duration, open: &Gauge) -> Self {
        Self { io, peer, patience, stalled: None, _open: Counted::new(open) }
    }

    /// Ends the connection where a write has waited for too long.
    fn patiently<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let patience = self.patience;
        ready!(self.stalled.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        self.stalled = None;
        info!(
            peer = %self.peer,
            "ends a connection of which nothing was taken for {} s", self.patience.as_secs()
        );
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
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
        Pin::new(&mut self.io).poll_read(cx, buf)
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
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::{Instant, timeout},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(50);

    /// A socket, and its peer's end, which takes 16 octets unread.
    fn connected(open: &Gauge) -> (Socket<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(16);
        (Socket::new(ours, SocketAddr::from(([192, 0, 2, 1], 1)), PATIENCE, open), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_nothing_of_it_was_taken_for_as_long_as_its_patience() {
        let (mut socket, _theirs) = connected(&Gauge::default());
        socket.write_all(&[0; 16]).await.expect("taken");
        let full = Instant::now();
        let error = socket.write_all(&[0; 1]).await.expect_err("nothing is taken");
        assert_eq!((error.kind(), full.elapsed().as_secs()), (io::ErrorKind::TimedOut, 50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_keeps_its_connection_and_so_does_one_to_whom_nothing_is_to_be_written() {
        let (mut socket, mut theirs) = connected(&Gauge::default());
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

    #[tokio::test]
    async fn a_connection_counts_until_it_is_dropped() {
        let open = Gauge::default();
        let (socket, _theirs) = connected(&open);
        assert_eq!(open.get(), 1);
        drop(socket);
        assert_eq!(open.get(), 0);
    }
}
