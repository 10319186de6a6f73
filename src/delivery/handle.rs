//! The side of delivery that a stream sees.

use std::{fmt, net::SocketAddr};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{model::Subscription, telemetry::trace::SpanRef};

/// One stream, for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// How many hand-offs of a stream may wait for their acknowledgement.
pub const MAX_UNACKNOWLEDGED: usize = 256;

/// An event on its way to a stream.
#[derive(Clone, Debug)]
pub struct Handoff {
    /// Its place among the stream's events, from 1.
    pub sequence: u64,
    /// What to send.
    pub payload: Bytes,
}

/// What streams tell the delivery task. At most one attach and one end a stream, and at most one acknowledgement for
/// each of its [`MAX_UNACKNOWLEDGED`] open hand-offs, so the channel that carries these needs no bound of its own.
pub(super) enum FromStream {
    Attached {
        id: StreamId,
        subscription: Subscription,
        peer: Option<SocketAddr>,
        span: Option<SpanRef>,
        events: mpsc::Sender<Handoff>,
    },
    Acknowledged {
        id: StreamId,
        sequence: u64,
    },
    Ended {
        id: StreamId,
    },
}

/// Where streams attach. Cheap to clone.
#[derive(Clone)]
pub struct Deliveries {
    to_driver: mpsc::UnboundedSender<FromStream>,
    next: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries").finish_non_exhaustive()
    }
}

impl Deliveries {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<FromStream>) {
        let (to_driver, from_streams) = mpsc::unbounded_channel();
        (Self { to_driver, next: Default::default() }, from_streams)
    }

    /// Attaches a stream: from now on the subscription's runs come out of [`Attached::events`]. `span` is the stream's own
    /// span, which those of its events link to.
    pub fn attach(&self, subscription: Subscription, peer: Option<SocketAddr>, span: Option<SpanRef>) -> Attached {
        let id = StreamId(self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let (events_tx, events) = mpsc::channel(MAX_UNACKNOWLEDGED);
        self.send(FromStream::Attached { id, subscription, peer, span, events: events_tx });
        Attached { events, acks: AckSender { id, deliveries: self.clone() } }
    }

    fn send(&self, message: FromStream) {
        // After the delivery task has ended (a shutdown) there is nobody left who could care.
        self.to_driver.send(message).ok();
    }
}

/// A stream's end of a subscription.
#[derive(Debug)]
pub struct Attached {
    /// What to send, oldest runs first. Its end means: the server ends this stream.
    pub events: mpsc::Receiver<Handoff>,
    /// Where receipts go. **Dropping it ends the stream**: what is not confirmed by then is given back.
    pub acks: AckSender,
}

/// Takes a stream's receipts; ends the stream when it is dropped.
#[derive(Debug)]
pub struct AckSender {
    id: StreamId,
    deliveries: Deliveries,
}

impl AckSender {
    /// The peer has proved that it read every event up to this one.
    pub fn acknowledged(&self, sequence: u64) {
        self.deliveries.send(FromStream::Acknowledged { id: self.id, sequence });
    }

    /// The stream's number, for logs.
    pub fn id(&self) -> StreamId {
        self.id
    }
}

impl Drop for AckSender {
    fn drop(&mut self) {
        self.deliveries.send(FromStream::Ended { id: self.id });
    }
}
