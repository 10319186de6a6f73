//! Handles by which the rest of the program reaches a connection that hyper owns.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures::task::AtomicWaker;
use http::HeaderMap;
use tokio::sync::watch;

use super::{stream_id, tracker::AckTracker};

/// The state that a [`Link`](super::Link) shares with its handles. Only the link holds it strongly: when hyper drops the
/// connection, the tracker is dropped and its receivers close.
#[derive(Debug)]
pub(super) struct Shared {
    tracker: Mutex<AckTracker>,
    /// Wakes the task that reads and writes the connection.
    pub(super) task: AtomicWaker,
    /// See [`stream_id`].
    pub(super) token: u64,
}

impl Shared {
    pub(super) fn new(token: u64) -> Arc<Self> {
        Arc::new(Self { tracker: Mutex::default(), task: AtomicWaker::new(), token })
    }

    /// Locks the tracker. It is consistent after every call, so a panic of another holder does not matter.
    pub(super) fn tracker(&self) -> MutexGuard<'_, AckTracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection of a request, from the request's extensions: the
/// [`ConnectInfo`](tonic::transport::server::Connected::ConnectInfo) of a [`Link`](super::Link).
///
/// It does not keep the connection open.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    pub(super) shared: Weak<Shared>,
    pub(super) peer: Option<SocketAddr>,
}

impl LinkInfo {
    /// The address of the peer, if the acceptor set it.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The acknowledgements of the stream that the request with these headers opened. Call it before the first message
    /// is given to the stream.
    ///
    /// `None` if nothing can be confirmed: the stream or the connection has ended, or the link could not append its
    /// header ([`STREAM_ID_HEADER`](super::STREAM_ID_HEADER)) to the request.
    pub fn stream_acks(&self, headers: &HeaderMap) -> Option<StreamAcks> {
        let shared = self.shared.upgrade()?;
        let stream = stream_id::find(headers, shared.token)?;
        let acked = shared.tracker().watch(stream)?;
        Some(StreamAcks { shared: self.shared.clone(), stream, acked })
    }
}

/// The acknowledgements of one stream: how many of the DATA bytes written on it the peer's HTTP/2 stack has read.
///
/// Bytes count from 0 at the start of the stream, as in HTTP/2 flow control. In an uncompressed gRPC stream each message
/// adds its encoded length and 5.
///
/// Cheap to clone. When the last clone and the last receiver are dropped, no PING is sent for this stream any more.
#[derive(Clone, Debug)]
pub struct StreamAcks {
    shared: Weak<Shared>,
    stream: u32,
    acked: watch::Receiver<u64>,
}

impl StreamAcks {
    /// The id of the stream on its connection.
    pub fn stream_id(&self) -> u32 {
        self.stream
    }

    /// Requests an acknowledgement of the first `total` DATA bytes of the stream, where `total` is typically the end of
    /// a message. Best called before the bytes are written: a PING then never precedes them. Totals must ascend. A
    /// smaller one is covered by its predecessor.
    ///
    /// At most 256 totals are kept. Beyond that, the newest replaces the one before it, and both are acknowledged
    /// together. Has no effect on a stream that has ended, which closes the receivers of [`acked`](Self::acked).
    pub fn expect(&self, total: u64) {
        let Some(shared) = self.shared.upgrade() else { return };
        let written = shared.tracker().expect(self.stream, total);
        if written {
            shared.task.wake();
        }
    }

    /// The number of acknowledged DATA bytes of this stream. It never decreases, and covers every byte before it.
    ///
    /// The receiver closes (`changed` returns an error) when no further byte can be acknowledged: either side reset the
    /// stream, the connection ended or violated HTTP/2, or the server ended the stream and every expected byte is
    /// acknowledged. The last value stays readable. The end of the peer's side of the stream closes nothing.
    pub fn acked(&self) -> watch::Receiver<u64> {
        self.acked.clone()
    }
}
