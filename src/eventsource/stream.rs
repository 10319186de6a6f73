//! The stream of one subscriber: events to it, acknowledgements from it, and the record of its end.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use prost::Message;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tonic::{Code, Status};
use tracing::info;

use super::{
    admission::ConnectionHandle, link::StreamAcks, metrics::StreamMetrics, permission::Permission, proto, status,
};
use crate::{
    delivery::{AckSender, Attached, CloseReason, EventReceiver},
    failpoint::FailPoint,
    model::{Subscription, SubscriptionName, event},
    telemetry::{
        Traces, grpc,
        trace::{Attribute, FinishedSpan, Kind, SpanRef},
    },
};

/// The name of the method in spans.
const METHOD: &str = "generic.Eventing/StartEventSource";
/// The length of gRPC's prefix of a message: a flag and the message's length.
const GRPC_PREFIX: u64 = 5;

/// The time in which a stream that delivery has closed can still end with its status.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A subscriber's stream, as tonic polls it. tonic drops it when either side has ended the stream.
pub(super) struct EventStream {
    handoffs: EventReceiver,
    pending: Arc<PendingAcks>,
    acks: Option<StreamAcks>,
    /// The DATA bytes of the stream up to the end of the last event.
    bytes: u64,
    permission: Permission,
    guard: StreamGuard,
}

/// The hand-offs that are not acknowledged yet, shared by the stream and the task that forwards acknowledgements. When
/// the stream drops it, delivery is notified that the stream has ended.
struct PendingAcks {
    delivery: AckSender,
    /// In order.
    handoffs: Mutex<VecDeque<PendingAck>>,
}

struct PendingAck {
    /// The DATA bytes of the stream up to the end of the event.
    end: u64,
    sequence: u64,
}

impl EventStream {
    /// Starts sending the events that delivery hands off. Without `acks` (see [`super::link`]) none of them is confirmed.
    pub(super) fn new(
        attached: Attached,
        acks: Option<StreamAcks>,
        connection: Option<ConnectionHandle>,
        permission: Permission,
        guard: StreamGuard,
    ) -> Self {
        let Attached { events: mut handoffs, acks: delivery } = attached;
        let pending = Arc::new(PendingAcks { delivery, handoffs: Mutex::default() });
        if let Some(acks) = &acks {
            // A task of its own, because acknowledgements arrive while the stream is not polled.
            tokio::spawn(forward_acks(Arc::downgrade(&pending), acks.acked()));
        }
        if let Some(connection) = connection {
            let pending = Arc::downgrade(&pending);
            handoffs.on_close(move |reason| {
                if reason != CloseReason::ShuttingDown {
                    tokio::spawn(close_unread(pending, connection));
                }
            });
        }
        Self { handoffs, pending, acks, bytes: 0, permission, guard }
    }
}

impl Stream for EventStream {
    type Item = Result<proto::Event, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Poll::Ready(status) = this.permission.poll_withdrawn(cx) {
            return Poll::Ready(Some(Err(this.guard.end(status))));
        }
        match this.handoffs.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(handoff)) => {
                let event = proto::Event { name: event::NAME.to_owned(), payload: handoff.payload.into() };
                this.bytes += event.encoded_len() as u64 + GRPC_PREFIX;
                if let Some(acks) = &this.acks {
                    this.pending.lock().push_back(PendingAck { end: this.bytes, sequence: handoff.sequence });
                    acks.expect(this.bytes);
                }
                this.guard.metrics.message_sent();
                FailPoint::AfterHandoff.pass();
                Poll::Ready(Some(Ok(event)))
            }
            Poll::Ready(None) => {
                // Without a reason, the delivery task has ended.
                let reason = this.handoffs.close_reason().unwrap_or(CloseReason::ShuttingDown);
                Poll::Ready(Some(Err(this.guard.end(status::closed(reason)))))
            }
        }
    }
}

impl PendingAcks {
    fn lock(&self) -> MutexGuard<'_, VecDeque<PendingAck>> {
        self.handoffs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the hand-offs within the first `bytes` of the stream. Returns the sequence number of the last one.
    fn take_acked(&self, bytes: u64) -> Option<u64> {
        let mut handoffs = self.lock();
        let acked = handoffs.partition_point(|handoff| handoff.end <= bytes);
        let last = handoffs.drain(..acked).next_back().map(|handoff| handoff.sequence);
        if handoffs.is_empty() {
            *handoffs = VecDeque::new();
        }
        last
    }
}

/// Forwards acknowledgements to delivery until the stream has ended or no more acknowledgements can arrive.
async fn forward_acks(pending: Weak<PendingAcks>, mut acked: watch::Receiver<u64>) {
    while acked.changed().await.is_ok() {
        let bytes = *acked.borrow_and_update();
        let Some(pending) = pending.upgrade() else { return };
        if let Some(sequence) = pending.take_acked(bytes) {
            FailPoint::Acknowledged.pass();
            pending.delivery.acknowledged(sequence);
        }
    }
}

/// Closes the connection of a stream that delivery has closed and that has not ended. A stream whose subscriber does not
/// read is not polled, so it cannot end with a status, and its events stay in the buffers of the connection: memory that
/// delivery no longer counts.
async fn close_unread(pending: Weak<PendingAcks>, connection: ConnectionHandle) {
    sleep(END_TIMEOUT).await;
    if pending.strong_count() > 0 {
        connection.close("its peer does not read the end of a stream");
    }
}

/// Records a stream from its start to its end in metrics, log and traces. A guard that is dropped without a status means
/// that the client has left.
pub(super) struct StreamGuard {
    namespace: Arc<str>,
    subscription: SubscriptionName,
    metrics: StreamMetrics,
    traces: Traces,
    span: Option<SpanRef>,
    started: Instant,
    code: Code,
}

impl StreamGuard {
    pub(super) fn new(subscription: &Subscription, metrics: StreamMetrics, traces: Traces) -> Self {
        metrics.call_started();
        Self {
            namespace: subscription.namespace.clone(),
            subscription: subscription.name.clone(),
            metrics,
            span: traces.are_on().then(SpanRef::random),
            traces,
            started: Instant::now(),
            code: Code::Cancelled,
        }
    }

    /// The span of the stream, to which the spans of its events link. It is recorded when the stream ends.
    pub(super) fn span(&self) -> Option<SpanRef> {
        self.span
    }

    /// Records the status with which the server ends the stream.
    pub(super) fn end(&mut self, status: Status) -> Status {
        self.code = status.code();
        status
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        self.metrics.call_ended(self.code, duration);
        if let Some(id) = self.span {
            let mut span = call_span(id, self.code, duration);
            span.attributes.extend([
                Attribute::new("modelupdate.namespace", self.namespace.to_string()),
                Attribute::new("modelupdate.subscription", self.subscription.to_string()),
            ]);
            self.traces.record(span);
        }
        info!(
            namespace = %self.namespace, subscription = %self.subscription, code = grpc::names(self.code).go,
            duration_s = duration.as_secs(), "stream ended"
        );
    }
}

/// The span of a refused request, in a trace of its own.
pub(super) fn refusal_span(event_source: Option<&str>, code: Code, duration: Duration) -> FinishedSpan {
    let mut span = call_span(SpanRef::random(), code, duration);
    if let Some(name) = event_source {
        span.attributes.push(Attribute::new("modelupdate.event_source", name.to_owned()));
    }
    span.fail("refused", grpc::names(code).spec);
    span
}

fn call_span(id: SpanRef, code: Code, duration: Duration) -> FinishedSpan {
    let mut span = FinishedSpan::now(id, None, METHOD);
    span.kind = Kind::Server;
    span.start = span.end.checked_sub(duration).unwrap_or(span.end);
    span.attributes = vec![
        Attribute::new("rpc.system.name", "grpc"),
        Attribute::new("rpc.method", METHOD),
        Attribute::new("rpc.status_code", grpc::names(code).spec),
    ];
    span
}
