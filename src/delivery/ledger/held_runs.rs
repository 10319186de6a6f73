//! The runs that are held for streams. Each stream has an entry for each run that is pending for it, so the streams of a
//! namespace multiply its runs, and tenants decide both numbers. What is remembered for their subscriptions counts, too: the
//! deliveries without a mark, and the pipelines of `latestOnly`.
//!
//! The first stream of each namespace does not count and stays, so every namespace proceeds: its runs take little more than
//! their records. Where the others hold too many, the youngest stream of the namespace that holds most is closed.

use super::{
    Ledger,
    types::{Action, Now, Report},
};
use crate::{
    delivery::{CloseReason, StreamId},
    telemetry::Limit,
};

/// The runs of all streams but the first of each namespace: about 40 MiB.
pub(super) const MAX_RUNS: usize = 128 * 1024;
/// Confirmed deliveries that take as much as a run of a stream.
const CONFIRMED: usize = 8;
/// Pipelines of `latestOnly` that take as much.
const LANES: usize = 2;
/// The number of runs that streams are given between two checks.
const CHECK: usize = 5_000;

impl Ledger {
    /// Closes a stream, if there are too many runs. The next turn checks again.
    pub(super) fn limit_held_runs(&mut self, now: Now) {
        if self.given_runs < CHECK || self.draining {
            return;
        }
        let Some(id) = self.stream_beyond_limit() else {
            self.given_runs = 0;
            return;
        };
        let stream = self.registry.stream(id);
        let (subscription, runs) = (stream.subscription.clone(), stream.runs.len());
        self.report(Report::LimitHit(Limit::PendingRuns));
        self.report(Report::TooManyRuns { subscription, runs });
        self.end(id, now);
        self.actions.push(Action::Close(id, CloseReason::TooManyRuns));
    }

    fn stream_beyond_limit(&self) -> Option<StreamId> {
        let held = |streams: &[StreamId]| streams.iter().map(|id| self.held_by(*id)).sum::<usize>();
        let further = self.registry.namespaces.values().filter_map(|namespace| namespace.streams.get(1..));
        let by_held: Vec<_> = further.map(|streams| (held(streams), streams)).collect();
        let total: usize = by_held.iter().map(|(held, _)| held).sum();
        let (_, largest) = by_held.into_iter().filter(|_| total > MAX_RUNS).max_by_key(|(held, _)| *held)?;
        largest.iter().rev().find(|id| self.held_by(**id) > 0).copied()
    }

    /// The runs of a stream, and the memory of its subscription in the same unit.
    fn held_by(&self, id: StreamId) -> usize {
        let Some(stream) = self.registry.streams.get(&id) else { return 0 };
        let own = stream.queues.candidates.as_ref().map_or(0, |candidates| candidates.remembered());
        let shared = self.registry.state(&stream.subscription);
        let (confirmed, lanes) = shared.map_or((0, own), |state| (state.confirmed.len(), own + state.sent.len()));
        stream.runs.len() + confirmed / CONFIRMED + lanes / LANES
    }
}
