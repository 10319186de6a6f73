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
    /// Runs that were handed off and whose fate is not certain.
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

/// How a run stands against those that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::delivery::ledger) enum Standing {
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

    /// Returns how a run of this lane stands.
    pub(super) fn standing(&self, lane: &Lane, run: Recency) -> Standing {
        if self.delivered_until(lane) > Some(run) {
            Standing::Superseded
        } else if self.newest(lane) > Some(run) {
            Standing::Held
        } else {
            Standing::Current
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

    /// Records that the fate of a run is certain. Returns its lane, if more runs are superseded for certain then.
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
        if self.lanes.len() >= MAX_LANES
            && !self.lanes.contains_key(lane)
            && let Some(oldest) = self.lanes.iter().min_by_key(|(_, newest)| newest.sent).map(|(lane, _)| lane.clone())
        {
            self.lanes.remove(&oldest);
        }
        self.lanes.entry(lane.clone()).or_insert(Newest { sent: run, delivered: None })
    }
}
