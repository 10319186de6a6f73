//! Which traces are kept.

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};

/// Which traces are kept: those whose id lies below a bound. Which bits of the id count is given by W3C Trace Context
/// Level 2: the rightmost 56 are random. Many ids here are UUIDs, whose leftmost bits of the right half are fixed: the SDK's own
/// sampler, which looks at 63 bits, keeps all of those or none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampler {
    /// Of 2^56.
    below: u64,
}

/// The number of values of the random part of a trace id.
const RANGE: u64 = 1 << 56;

impl Sampler {
    pub(super) const ALL: Self = Self { below: RANGE };
    pub(super) const NONE: Self = Self { below: 0 };

    /// Keeps this part of all traces, from 0 to 1.
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

    pub(super) fn samples(self, trace: [u8; 16]) -> bool {
        let random = trace[9..].iter().fold(0, |value, octet| (value << 8) | u64::from(*octet));
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
    fn a_ratio_keeps_that_part_of_uuids_too() {
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
