//! The newest runs that a subscription was sent.

use std::collections::HashMap;

use super::{Lane, Recency};
use crate::model::Uid;

/// Lanes that are remembered. The one whose last run ended first makes room: an older run of it than that is unlikely.
const MAX_LANES: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::delivery::ledger) struct SentRuns {
    lanes: HashMap<Lane, Newest>,
    /// Runs that were handed off and whose delivery is neither certain nor ruled out.
    open: HashMap<Uid, (Lane, Recency)>,
    /// The newest run that was delivered and whose pipeline is not known.
    pub(in crate::delivery::ledger) newest_unnamed: Option<Recency>,
}

/// The newest runs of a lane.
#[derive(Clone, Copy, Debug)]
struct Newest {
    sent: Recency,
    delivered: Option<Recency>,
}

/// The rank of a run among those of its lane that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::delivery::ledger) enum Rank {
    /// No newer one was sent.
    Current,
    /// A newer one was sent, but its delivery is not certain.
    Held,
    /// A newer one was delivered.
    Superseded,
}

impl SentRuns {
    /// The number of lanes and runs that are remembered.
    pub(in crate::delivery::ledger) fn len(&self) -> usize {
        self.lanes.len() + self.open.len() + usize::from(self.newest_unnamed.is_some())
    }

    pub(in crate::delivery::ledger) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the rank of a run of this lane.
    pub(super) fn rank(&self, lane: &Lane, run: Recency) -> Rank {
        let is_before = |newest: Option<Recency>| newest.is_some_and(|newest| run.is_before(newest));
        if is_before(self.delivered_until(lane)) {
            Rank::Superseded
        } else if is_before(self.newest(lane)) {
            Rank::Held
        } else {
            Rank::Current
        }
    }

    /// The newest run that was sent and supersedes those of this lane.
    pub(super) fn newest(&self, lane: &Lane) -> Option<Recency> {
        lane.superseding().filter_map(|lane| self.lanes.get(&lane)).map(|newest| newest.sent).max()
    }

    /// The newest run that was delivered and supersedes those of this lane.
    pub(super) fn delivered_until(&self, lane: &Lane) -> Option<Recency> {
        lane.superseding().filter_map(|lane| self.lanes.get(&lane)?.delivered).max()
    }

    /// Records a hand-off.
    pub(super) fn handed_off(&mut self, lane: &Lane, run: Recency) {
        let newest = self.lane(lane, run);
        newest.sent = newest.sent.max(run);
        self.open.insert(run.uid, (lane.clone(), run));
    }

    /// Records that it is certain whether a run was delivered. Returns its lane, if more runs are superseded for certain then.
    pub(super) fn settle(&mut self, run: Uid) -> Option<Lane> {
        let (lane, run) = self.open.remove(&run)?;
        self.delivered(&lane, run).then_some(lane)
    }

    /// Records a delivery. Returns whether more runs are superseded for certain then.
    pub(super) fn delivered(&mut self, lane: &Lane, run: Recency) -> bool {
        let newest = self.lane(lane, run);
        newest.sent = newest.sent.max(run);
        let is_newer = newest.delivered < Some(run);
        newest.delivered = newest.delivered.max(Some(run));
        is_newer
    }

    fn lane(&mut self, lane: &Lane, run: Recency) -> &mut Newest {
        if self.lanes.len() >= MAX_LANES && !self.lanes.contains_key(lane) {
            let settled = self.lanes.iter().filter(|(_, newest)| newest.delivered == Some(newest.sent));
            let oldest = settled.min_by_key(|(_, newest)| newest.sent).map(|(lane, _)| lane.clone());
            oldest.and_then(|oldest| self.lanes.remove(&oldest));
        }
        self.lanes.entry(lane.clone()).or_insert(Newest { sent: run, delivered: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        delivery::fixtures::run,
        model::{RunOutcome, Workflow},
    };

    fn lane(pipeline: &str, outcome: RunOutcome) -> Lane {
        Lane { pipeline: pipeline.into(), outcome }
    }

    fn ended(name: &str, finished: i64) -> Recency {
        Recency::of(&Workflow { finished, ..run(name) })
    }

    #[test]
    fn a_run_is_held_until_the_newer_one_is_delivered() {
        use RunOutcome::{Failed, Succeeded};
        let mut sent = SentRuns::default();
        let (old, new) = (ended("old", 1), ended("new", 2));
        let penguin = |outcome| lane("penguin", outcome);
        let ranks = |sent: &SentRuns| [Succeeded, Failed].map(|outcome| sent.rank(&penguin(outcome), old));
        assert_eq!(ranks(&sent), [Rank::Current; 2]);
        sent.handed_off(&penguin(Failed), new);
        assert_eq!(ranks(&sent), [Rank::Current, Rank::Held], "a failure supersedes no model");
        assert_eq!(sent.settle(new.uid), Some(penguin(Failed)));
        assert_eq!(sent.settle(new.uid), None);
        assert_eq!(ranks(&sent), [Rank::Current, Rank::Superseded]);
        sent.handed_off(&penguin(Succeeded), new);
        assert_eq!(ranks(&sent), [Rank::Held, Rank::Superseded]);
        assert!(sent.delivered(&penguin(Succeeded), new) && !sent.delivered(&penguin(Succeeded), old));
        assert_eq!(ranks(&sent), [Rank::Superseded; 2]);
        assert_eq!(sent.rank(&penguin(Succeeded), new), Rank::Current, "it may be repeated");
        assert_eq!(sent.rank(&lane("iris", Succeeded), old), Rank::Current);
    }

    /// It is not known which of them has the newer model.
    #[test]
    fn runs_that_end_and_begin_in_the_same_second_are_equal() {
        let mut sent = SentRuns::default();
        let (first, second) = (ended("first", 1), ended("second", 1));
        let penguin = lane("penguin", RunOutcome::Succeeded);
        for run in [first, second] {
            sent.handed_off(&penguin, run);
            sent.settle(run.uid);
        }
        let created_before = Recency { created: first.created - 1, ..first };
        let ranks = [first, second, created_before].map(|run| sent.rank(&penguin, run));
        assert_eq!(ranks, [Rank::Current, Rank::Current, Rank::Superseded]);
    }

    #[test]
    fn a_limited_number_of_pipelines_is_remembered() {
        let mut sent = SentRuns::default();
        for n in 0..2 * i64::try_from(MAX_LANES).unwrap() {
            sent.delivered(&lane(&n.to_string(), RunOutcome::Succeeded), ended(&n.to_string(), n));
        }
        assert_eq!(sent.len(), MAX_LANES);
        let rank = |name: &str| sent.rank(&lane(name, RunOutcome::Succeeded), ended("old", 0));
        assert_eq!(rank("2000"), Rank::Superseded);
        assert_eq!(rank("1000"), Rank::Current, "the ones that were delivered first are forgotten");
    }
}
