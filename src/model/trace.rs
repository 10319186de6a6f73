//! The identity of a run's trace. Every id follows from the Workflow, so that replicas, restarts and redeliveries
//! speak of the same trace without asking each other.

use std::fmt;

use super::{SubscriptionName, TraceId, Uid, Workflow};

/// A span's id: eight octets, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl SpanId {
    fn derived(parts: &[&[u8]]) -> Self {
        let hash = parts.iter().fold(FNV_OFFSET, |hash, part| fnv1a(fnv1a(hash, part), &[0xff]));
        Self(hash.max(1).to_be_bytes())
    }

    /// The eight octets of the id.
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a with 64 bits: ids have to be spread out and the same for ever, not secret.
fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The trace of a run: Argo's own where Argo traces, else the Workflow's UID without its dashes. `argo resubmit` copies
/// Argo's annotation; such a run joins the trace of the one that it repeats.
pub fn trace_id(workflow: &Workflow) -> Option<TraceId> {
    workflow.trace_id.or_else(|| TraceId::from_bytes(*workflow.uid.as_bytes()))
}

/// The span of the run itself, under which all others stand.
pub fn root_span_id(run: Uid) -> SpanId {
    SpanId::derived(&[b"run", run.as_bytes()])
}

/// The span of the (first) hand-off to a subscription: what a consumer of the event continues.
pub fn send_span_id(run: Uid, subscription: &SubscriptionName) -> SpanId {
    SpanId::derived(&[b"send", run.as_bytes(), subscription.as_str().as_bytes()])
}

/// The W3C `traceparent` that an event carries.
pub fn traceparent(workflow: &Workflow, subscription: &SubscriptionName, sampled: bool) -> Option<String> {
    let trace = trace_id(workflow)?;
    Some(format!("00-{trace}-{}-{:02x}", send_span_id(workflow.uid, subscription), u8::from(sampled)))
}
