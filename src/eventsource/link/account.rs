//! The handles by which the rest of the program reaches a connection that hyper owns.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::task::AtomicWaker;
use http::HeaderMap;
use tokio::sync::watch;

use super::ledger::Ledger;
use super::stream_id;

/// What a [`Link`](super::Link) and its handles have in common. The link alone holds it strongly: when hyper drops the
/// connection the accounts go with it, and their receivers close.
#[derive(Debug)]
pub(super) struct Shared {
    ledger: Mutex<Ledger>,
    /// Wakes the task that reads and writes the connection.
    pub(super) task: AtomicWaker,
    /// See [`stream_id`].
    pub(super) token: u64,
}

impl Shared {
    pub(super) fn new(token: u64) -> Arc<Self> {
        Arc::new(Self { ledger: Mutex::default(), task: AtomicWaker::new(), token })
    }

    /// The ledger is sound after every single step, so a panic elsewhere while it was locked does not spoil it.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request's extensions say of the connection that it came by: the
/// [`ConnectInfo`](tonic::transport::server::Connected::ConnectInfo) of a [`Link`](super::Link).
///
/// Holding one does not keep the connection open.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    pub(super) shared: Weak<Shared>,
    pub(super) peer: Option<SocketAddr>,
}

impl LinkInfo {
    /// The address at the other end, where the acceptor knew it.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The account of the stream that the request with these headers opened.
    ///
    /// `None` where there is none, and so nothing can be confirmed: the stream or the connection has ended, or the link
    /// could not add its header ([`STREAM_ID_HEADER`](super::STREAM_ID_HEADER)) to the request. Ask before the first
    /// message is handed to the stream.
    pub fn account(&self, headers: &HeaderMap) -> Option<StreamAccount> {
        let shared = self.shared.upgrade()?;
        let stream = stream_id::find(headers, shared.token)?;
        let acknowledged = shared.ledger().watch(stream)?;
        Some(StreamAccount { shared: self.shared.clone(), stream, acknowledged })
    }
}

/// The account of one stream: how many of the DATA octets that we wrote on it are proven to have been read by the
/// peer's HTTP/2 stack.
///
/// Octets are counted from 0 at the start of the stream, as HTTP/2 counts them for flow control: for an uncompressed
/// gRPC stream each message adds its encoded length and 5.
///
/// Cheap to clone; when the last clone and the last receiver are gone, nothing of this stream is wanted any more and no
/// PING is sent for it.
#[derive(Clone, Debug)]
pub struct StreamAccount {
    shared: Weak<Shared>,
    stream: u32,
    acknowledged: watch::Receiver<u64>,
}

impl StreamAccount {
    /// The id of the stream on its connection, for logs.
    pub fn stream_id(&self) -> u32 {
        self.stream
    }

    /// Asks for proof that the first `total` DATA octets of the stream were read, typically that a message which ends
    /// with octet `total` was. May be called before or after the octets are written; before is better, since then no
    /// PING comes too early. Totals must ascend: one that does not exceed its predecessor is covered by that.
    ///
    /// At most 256 totals are kept; beyond that the newest one takes the place of the one before it, whose
    /// octets are then proven together with its own. On a stream that has ended it does nothing: the receiver of
    /// [`acknowledged`](Self::acknowledged) tells.
    pub fn expect(&self, total: u64) {
        let Some(shared) = self.shared.upgrade() else { return };
        let written = shared.ledger().expect(self.stream, total);
        if written {
            shared.task.wake();
        }
    }

    /// The number of DATA octets of this stream that are proven to have been read. It only grows, and every octet up to
    /// it is proven.
    ///
    /// The receiver closes (`changed` returns an error) when nothing more will ever be proven: either side reset the
    /// stream, the connection ended or stopped being HTTP/2, or our side ended the stream and all that was expected is
    /// proven. The last value remains readable. A peer that merely ends *its* side closes nothing.
    pub fn acknowledged(&self) -> watch::Receiver<u64> {
        self.acknowledged.clone()
    }
}
