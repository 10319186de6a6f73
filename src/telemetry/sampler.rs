//! The sampler: which traces are kept.

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};

/// Keeps the traces whose id lies below a bound.
///
/// Only the rightmost 56 bits of the id count: those that W3C Trace Context Level 2 calls random. The SDK's own sampler
/// compares the right half of the id. Most ids here are UUIDs, in which the first two bits of that half are fixed, so a
/// ratio up to one half would keep nothing, and one from three quarters everything. The SDK refers to
/// [opentelemetry-specification#1413](https://github.com/open-telemetry/opentelemetry-specification/issues/1413) for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampler {
    /// The bound, at most [`RANGE`].
    below: u64,
}

/// The number of values of a trace id's random part.
const RANGE: u64 = 1 << 56;

impl Sampler {
    pub(super) const ALL: Self = Self { below: RANGE };
    pub(super) const NONE: Self = Self { below: 0 };

    /// A sampler that keeps this part of all traces, from 0 to 1.
    pub(super) fn ratio(ratio: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "0 to 2^56"
        )]
        let below = (ratio.clamp(0.0, 1.0) * RANGE as f64) as u64;
        Self { below }
    }

    /// The trace is kept.
    pub(super) fn samples(self, trace: [u8; 16]) -> bool {
        let random = trace[9..].iter().fold(0, |value, byte| (value << 8) | u64::from(*byte));
        random < self.below
    }
}

impl ShouldSample for Sampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        _name: &str,
        _kind: &SpanKind,
        _attributes: &[KeyValue],
        _links: &[Link],
    ) -> SamplingResult {
        let parent = parent
            .map(|context| context.span().span_context().clone())
            .filter(opentelemetry::trace::SpanContext::is_valid);
        let keep = parent.map_or_else(|| self.samples(trace_id.to_bytes()), |parent| parent.is_sampled());
        SamplingResult {
            decision: if keep { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop },
            attributes: Vec::new(),
            trace_state: TraceState::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_keeps_that_part_of_uuids() {
        for ratio in [0.0, 0.1, 0.5, 0.9, 1.0] {
            let sampler = Sampler::ratio(ratio);
            let kept = (0..20_000)
                .filter(|_| {
                    let mut uuid = rand::random::<[u8; 16]>();
                    uuid[6] = (uuid[6] & 0x0f) | 0x40;
                    uuid[8] = (uuid[8] & 0x3f) | 0x80;
                    sampler.samples(uuid)
                })
                .count();
            let part = kept as f64 / 20_000.0;
            assert!((part - ratio).abs() < 0.02, "{ratio}: {part}");
        }
    }
}
