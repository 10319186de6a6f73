//! The ids of a run's trace. All ids are derived from the Workflow, so that replicas, restarts and redeliveries use the
//! same ids without communication.

use std::fmt;

use super::{SubscriptionName, TraceId, Uid, Workflow};

/// A span's id: eight bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl SpanId {
    fn derived(parts: &[&[u8]]) -> Self {
        let hash = parts.iter().fold(FNV_OFFSET, |hash, part| fnv1a(fnv1a(hash, part), &[0xff]));
        Self(hash.max(1).to_be_bytes())
    }

    /// The eight bytes of the id.
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a with 64 bits: ids have to be distinct and the same in every release, not secret.
fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Returns the trace of a run: Argo's own if Argo traces and it is accepted, else the Workflow's UID without its dashes.
/// `argo resubmit` copies Argo's annotation, so a resubmitted run is part of the original run's trace. A tenant can write
/// the annotation, too: the store accepts only ids that belong to no run of another namespace.
pub fn trace_id(workflow: &Workflow, is_accepted: impl FnOnce(TraceId) -> bool) -> Option<TraceId> {
    let argo = workflow.trace_id.as_deref().copied().filter(|id| is_accepted(*id));
    argo.or_else(|| TraceId::from_bytes(*workflow.uid.as_bytes()))
}

/// Returns the id of the run's span, the parent of all others.
pub fn root_span_id(run: Uid) -> SpanId {
    SpanId::derived(&[b"run", run.as_bytes()])
}

/// Returns the id of the span of the first hand-off to a subscription, the parent for consumers of the event.
pub fn send_span_id(run: Uid, subscription: &SubscriptionName) -> SpanId {
    SpanId::derived(&[b"send", run.as_bytes(), subscription.as_str().as_bytes()])
}

/// Returns the W3C `traceparent` of a run's event.
pub fn traceparent(trace: TraceId, run: Uid, subscription: &SubscriptionName, sampled: bool) -> String {
    format!("00-{trace}-{}-{:02x}", send_span_id(run, subscription), u8::from(sampled))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::{PipelineName, fixtures::succeeded};

    const UID: u128 = 0x0123_4567_89ab_4cde_8f01_2345_6789_abcd;
    const UID_AS_TRACE: &str = "0123456789ab4cde8f0123456789abcd";

    fn workflow(trace_id: Option<&str>) -> Workflow {
        let trace_id = trace_id.map(|id| TraceId::parse(id).unwrap().into());
        Workflow { uid: Uid::from(UID), trace_id, ..succeeded(PipelineName::Unknown) }
    }

    fn name(name: &str) -> SubscriptionName {
        SubscriptionName::new(name).unwrap()
    }

    #[test]
    fn the_trace_id_is_the_uid() {
        assert_eq!(trace_id(&workflow(None), |_| true).unwrap().to_string(), UID_AS_TRACE);
    }

    #[test]
    fn argos_trace_id_has_precedence_if_it_is_accepted() {
        let argo = "4bf92f3577b34da6a3ce929d0e0e4736";
        let run = workflow(Some(argo));
        assert_eq!(trace_id(&run, |id| id.to_string() == argo).unwrap().to_string(), argo);
        assert_eq!(trace_id(&run, |_| false).unwrap().to_string(), UID_AS_TRACE);
    }

    /// Replicas of different releases use the same ids.
    #[test]
    fn span_ids_never_change() {
        assert_eq!(root_span_id(Uid::from(UID)).to_string(), "c2dee65e198f0db2");
        assert_eq!(send_span_id(Uid::from(UID), &name("model-update")).to_string(), "cf73475d403a44f3");
    }

    #[test]
    fn span_ids_differ_by_run_and_subscription() {
        let ids: HashSet<_> = (1..500)
            .flat_map(|uid| {
                let uid = Uid::from(uid);
                [root_span_id(uid), send_span_id(uid, &name("a")), send_span_id(uid, &name("b"))]
            })
            .collect();
        assert_eq!(ids.len(), 499 * 3);
    }

    #[test]
    fn an_event_has_a_w3c_traceparent() {
        let (trace, run) = (TraceId::parse(UID_AS_TRACE).unwrap(), Uid::from(UID));
        let span = send_span_id(run, &name("a"));
        let traceparent = |sampled| traceparent(trace, run, &name("a"), sampled);
        assert_eq!(traceparent(false), format!("00-{UID_AS_TRACE}-{span}-00"));
        assert_eq!(traceparent(true), format!("00-{UID_AS_TRACE}-{span}-01"));
    }

    #[test]
    fn a_uid_of_zeros_has_no_trace() {
        let run = Workflow { uid: Uid::from(0), ..workflow(None) };
        assert_eq!(trace_id(&run, |_| true), None);
    }
}
