//! The delivery task's side of streams, played by a test of another module.

use tokio::sync::mpsc;

use super::{
    CloseReason, Deliveries, DeliveryStatus, Handoff, StatusReader, handle::StreamMessage, mailbox::EventSender,
    status::StatusPublisher,
};
use crate::model::Subscription;

/// Returns a reader of this status.
pub(crate) fn status(status: DeliveryStatus) -> StatusReader {
    let mut publisher = StatusPublisher::default();
    publisher.publish_now(status);
    publisher.reader()
}

/// Returns a reader whose task does not answer.
pub(crate) fn no_status() -> StatusReader {
    StatusPublisher::default().reader()
}

/// The inbox of the delivery task.
pub(crate) struct FakeDelivery(mpsc::UnboundedReceiver<StreamMessage>);

/// A stream that has attached.
pub(crate) struct FakeStream {
    pub(crate) subscription: Subscription,
    events: EventSender,
    sequence: u64,
}

impl FakeDelivery {
    pub(crate) fn new() -> (Deliveries, Self) {
        let (deliveries, inbox) = Deliveries::new();
        (deliveries, Self(inbox))
    }

    /// Waits for the next stream. Handles the messages before it.
    pub(crate) async fn attached(&mut self) -> FakeStream {
        loop {
            if let StreamMessage::Attached { subscription, events, .. } = self.next().await {
                return FakeStream { subscription, events, sequence: 0 };
            }
        }
    }

    /// Waits for the next end of a stream. Handles the messages before it.
    pub(crate) async fn ended(&mut self) {
        while !matches!(self.next().await, StreamMessage::Ended { .. }) {}
    }

    /// Waits for the next acknowledgement. Handles the messages before it.
    pub(crate) async fn acknowledged(&mut self) {
        while !matches!(self.next().await, StreamMessage::Acknowledged { .. }) {}
    }

    async fn next(&mut self) -> StreamMessage {
        self.0.recv().await.expect("a server")
    }
}

impl FakeStream {
    /// Hands an event off.
    pub(crate) fn send(&mut self, payload: &str) {
        self.sequence += 1;
        self.events.send(Handoff { sequence: self.sequence, payload: payload.as_bytes().to_vec().into() });
    }

    /// Ends the stream.
    pub(crate) fn close(self, reason: CloseReason) {
        self.events.close(reason);
    }
}
