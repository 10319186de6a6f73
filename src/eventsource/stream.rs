//! One subscriber's stream: events out, proofs of receipt back.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use prost::Message;
use tokio::{sync::watch, time::Instant};
use tonic::{Code, Status};
use tracing::info;

use super::{link::StreamAccount, proto};
use crate::{
    delivery::{AckSender, Attached, Handoff},
    failpoint::FailPoint,
    model::event,
    telemetry::{
        Traces,
        metrics::StreamMetrics,
        trace::{Attribute, FinishedSpan, Kind, SpanRef},
    },
};

/// The name of the method, for spans.
const METHOD: &str = "generic.Eventing/StartEventSource";
/// What gRPC puts before each message: a flag and the message's length.
const GRPC_PREFIX: u64 = 5;

/// A subscriber's stream, as tonic reads it. Dropped when the stream has ended, from whichever side.
pub(super) struct EventStream {
    handoffs: tokio::sync::mpsc::Receiver<Handoff>,
    open: Arc<Open>,
    account: Option<StreamAccount>,
    /// DATA octets of the stream up to the end of the last event.
    octets: u64,
    life: Life,
}

/// What the stream shares with the task that reads its account.
struct Open {
    acks: AckSender,
    /// The DATA octet at which a hand-off ends, and its number; in order.
    sent: Mutex<VecDeque<(u64, u64)>>,
}

impl EventStream {
    /// Begins to send what delivery hands over. Without an account (see [`super::link`]) nothing is ever confirmed.
    pub(super) fn new(attached: Attached, account: Option<StreamAccount>, life: Life) -> Self {
        let Attached { events, acks } = attached;
        let open = Arc::new(Open { acks, sent: Mutex::default() });
        if let Some(account) = &account {
            // Receipts come in while nobody reads the stream, so they have a task of their own.
            tokio::spawn(read_receipts(Arc::downgrade(&open), account.acknowledged()));
        }
        Self { handoffs: events, open, account, octets: 0, life }
    }
}

impl Stream for EventStream {
    type Item = Result<proto::Event, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        match this.handoffs.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(handoff)) => {
                let event = proto::Event { name: event::NAME.to_owned(), payload: handoff.payload.into() };
                this.octets += event.encoded_len() as u64 + GRPC_PREFIX;
                if let Some(account) = &this.account {
                    this.open.lock().push_back((this.octets, handoff.sequence));
                    account.expect(this.octets);
                }
                this.life.metrics.sent();
                FailPoint::AfterHandoff.pass();
                Poll::Ready(Some(Ok(event)))
            }
            // Delivery has let go of the stream: the server drains.
            Poll::Ready(None) => Poll::Ready(Some(Err(this.life.ends(shutting_down())))),
        }
    }
}

impl Open {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(u64, u64)>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last hand-off that ends within the first `octets` of the stream.
    fn proven(&self, octets: u64) -> Option<u64> {
        let mut sent = self.lock();
        let mut last = None;
        while sent.front().is_some_and(|(end, _)| *end <= octets)
            && let Some((_, sequence)) = sent.pop_front()
        {
            last = Some(sequence);
        }
        last
    }
}

/// Passes proofs of receipt on, until the stream or its account has ended.
async fn read_receipts(open: Weak<Open>, mut acknowledged: watch::Receiver<u64>) {
    while acknowledged.changed().await.is_ok() {
        let octets = *acknowledged.borrow_and_update();
        let Some(open) = open.upgrade() else { return };
        if let Some(sequence) = open.proven(octets) {
            FailPoint::Acknowledged.pass();
            open.acks.acknowledged(sequence);
        }
    }
}

/// The server is going away; its clients redial.
pub(super) fn shutting_down() -> Status {
    Status::unavailable("the server is shutting down")
}

/// Counts a stream from its beginning to its end, and logs its end. One that is dropped without a status was abandoned by
/// the other side.
pub(super) struct Life {
    pub(super) namespace: Arc<str>,
    pub(super) subscription: String,
    pub(super) metrics: StreamMetrics,
    traces: Traces,
    span: Option<SpanRef>,
    began: Instant,
    code: Code,
}

impl Life {
    pub(super) fn begin(namespace: Arc<str>, subscription: String, metrics: StreamMetrics, traces: Traces) -> Self {
        metrics.started();
        let span = traces.are_on().then(SpanRef::random);
        Self { namespace, subscription, metrics, traces, span, began: Instant::now(), code: Code::Cancelled }
    }

    /// The stream's own span. It is recorded when the stream ends; those of its events link to it.
    pub(super) fn span(&self) -> Option<SpanRef> {
        self.span
    }

    fn record(&self, lasted: Duration) {
        let Some(id) = self.span else { return };
        let mut span = call_span(id, self.code, lasted);
        span.attributes.extend([
            Attribute::new("modelupdate.namespace", self.namespace.to_string()),
            Attribute::new("modelupdate.subscription", self.subscription.clone()),
        ]);
        self.traces.record(span);
    }

    /// Notes the status with which our side ends the stream.
    pub(super) fn ends(&mut self, status: Status) -> Status {
        self.code = status.code();
        status
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let lasted = self.began.elapsed();
        self.metrics.handled(code_name(self.code), lasted.as_secs_f64());
        self.record(lasted);
        info!(
            namespace = %self.namespace, subscription = %self.subscription, code = code_name(self.code),
            lasted_s = lasted.as_secs(), "the stream has ended"
        );
    }
}

/// The span of a request that was refused before a stream began, in a trace of its own: whose it was, and the status.
pub(super) fn refusal_span(event_source: &str, code: Code, lasted: Duration) -> FinishedSpan {
    let mut span = call_span(SpanRef::random(), code, lasted);
    span.attributes.push(Attribute::new("modelupdate.event_source", event_source.to_owned()));
    span.fail("refused", status_name(code));
    span
}

fn call_span(id: SpanRef, code: Code, lasted: Duration) -> FinishedSpan {
    let mut span = FinishedSpan::now(id, None, METHOD);
    span.kind = Kind::Server;
    span.start = span.end.checked_sub(lasted).unwrap_or(span.end);
    span.attributes = vec![
        Attribute::new("rpc.system.name", "grpc"),
        Attribute::new("rpc.method", METHOD),
        Attribute::new("rpc.status_code", status_name(code)),
    ];
    span
}

/// The name of a status code, as gRPC's specification and OpenTelemetry write it.
fn status_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::Unavailable => "UNAVAILABLE",
        _ => "UNKNOWN",
    }
}

/// The name of a status code, as grpc-go and so most dashboards write it.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::InvalidArgument => "InvalidArgument",
        Code::PermissionDenied => "PermissionDenied",
        Code::Unauthenticated => "Unauthenticated",
        Code::Unavailable => "Unavailable",
        _ => "Unknown",
    }
}
