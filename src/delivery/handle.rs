//! The interface of delivery for a stream.

use std::{
    any::Any,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::mailbox::{EventReceiver, EventSender, mailbox};
use crate::{model::Subscription, telemetry::trace::SpanRef};

/// A stream's number, unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// The number of a stream's events that may be unacknowledged.
pub const MAX_UNACKNOWLEDGED: usize = 256;

/// The reason for which delivery ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The server is shutting down.
    ShuttingDown,
    /// The subscriber has not read what it was sent for a minute, while there was no room for the events of others.
    NotReading,
    /// The streams of its namespace hold too many pending runs.
    TooManyRuns,
    /// The stream has reached its maximum age, and nothing was open for it.
    MaxConnectionAge,
}

impl CloseReason {
    /// Every reason.
    pub(super) const ALL: [Self; 4] = [Self::ShuttingDown, Self::NotReading, Self::TooManyRuns, Self::MaxConnectionAge];

    /// The reason's name in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ShuttingDown => "shutting_down",
            Self::NotReading => "not_reading",
            Self::TooManyRuns => "too_many_runs",
            Self::MaxConnectionAge => "max_connection_age",
        }
    }
}

/// An event for a stream.
#[derive(Clone, Debug)]
pub struct Handoff {
    /// The number of the event in the stream, from 1.
    pub sequence: u64,
    /// The payload to send.
    pub payload: Bytes,
}

/// A value that is dropped at the end of a stream, see [`AckSender::hold`].
pub(super) type Held = Option<Box<dyn Any + Send + Sync>>;

/// A message from a stream to the delivery task. Each stream sends one `Attached`, one `Ended`, and at most one
/// `Acknowledged` for each of its [`MAX_UNACKNOWLEDGED`] events, so their channel needs no bound.
pub(super) enum StreamMessage {
    Attached {
        id: StreamId,
        subscription: Subscription,
        peer: Option<SocketAddr>,
        span: Option<SpanRef>,
        events: EventSender,
    },
    Acknowledged {
        id: StreamId,
        sequence: u64,
    },
    Ended {
        id: StreamId,
        /// Dropped with this message.
        held: Held,
    },
}

/// The handle through which streams attach. Cheap to clone.
#[derive(Clone)]
pub struct Deliveries {
    to_driver: mpsc::UnboundedSender<StreamMessage>,
    next_id: Arc<AtomicU64>,
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries").finish_non_exhaustive()
    }
}

impl Deliveries {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<StreamMessage>) {
        let (to_driver, from_streams) = mpsc::unbounded_channel();
        (Self { to_driver, next_id: Arc::default() }, from_streams)
    }

    /// Attaches a stream. From now on, [`Attached::events`] receives the subscription's events. `span` is the stream's own
    /// span, to which the spans of its events link.
    pub fn attach(&self, subscription: Subscription, peer: Option<SocketAddr>, span: Option<SpanRef>) -> Attached {
        let id = StreamId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let (to_stream, events) = mailbox();
        self.send(StreamMessage::Attached { id, subscription, peer, span, events: to_stream });
        Attached { events, acks: AckSender { id, deliveries: self.clone(), held: None } }
    }

    fn send(&self, message: StreamMessage) {
        // Fails only after the delivery task has ended, in a shutdown: then the message has no effect.
        self.to_driver.send(message).ok();
    }
}

/// A stream's side of its subscription.
#[derive(Debug)]
pub struct Attached {
    /// The events to send, oldest runs first. Its end means that the server ends the stream. A stream whose subscriber does
    /// not read is not polled, so it does not reach that end, and holds its events. So after [`CloseReason::NotReading`]
    /// ([`EventReceiver::on_close`]) the connection has to be dropped.
    pub events: EventReceiver,
    /// The way back. **Dropping it ends the stream**: unconfirmed events are redelivered.
    pub acks: AckSender,
}

/// Sends a stream's acknowledgements. Ends the stream when it is dropped.
#[derive(Debug)]
pub struct AckSender {
    id: StreamId,
    deliveries: Deliveries,
    held: Held,
}

impl AckSender {
    /// Acknowledges every event up to this one: the peer has read them.
    pub fn acknowledged(&self, sequence: u64) {
        self.deliveries.send(StreamMessage::Acknowledged { id: self.id, sequence });
    }

    /// Holds a value until the delivery task has handled the end of the stream. A limit of streams that is held like this
    /// bounds the messages of streams that have ended, too.
    pub fn hold(&mut self, value: impl Send + Sync + 'static) {
        self.held = Some(Box::new(value));
    }

    /// The stream's number, for logs.
    pub fn id(&self) -> StreamId {
        self.id
    }
}

impl Drop for AckSender {
    fn drop(&mut self) {
        self.deliveries.send(StreamMessage::Ended { id: self.id, held: self.held.take() });
    }
}
