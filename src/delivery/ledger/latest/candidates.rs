//! The runs of one stream that compete to be the newest of their pipeline.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Lane, Recency, SentRuns};
use crate::{
    delivery::ledger::queues::{Run, State},
    model::{Subscription, Uid, Workflow},
};

/// The longest time for which a ready run waits for the lookups of newer ones: ML Metadata has answered, and after this
/// time the absence of a context is final.
pub(in crate::delivery::ledger) const MAX_WAIT: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug, Default)]
pub(in crate::delivery::ledger) struct Candidates {
    /// Runs that may turn out to have a model, by the name of their pipeline, as far as it is certain.
    open: HashMap<Option<Arc<str>>, BTreeSet<Recency>>,
    /// Runs that can be handed off, and since when.
    ready: HashMap<Lane, BTreeMap<Recency, Instant>>,
    held: HashMap<Lane, BTreeSet<Recency>>,
    /// Lanes some of whose held runs may be superseded.
    changed: BTreeSet<Lane>,
    /// The pipelines of all delivered runs that are newer than this one are known, or are looked up.
    named_from: Option<Recency>,
    /// The records are being read for delivered runs that are newer than this one.
    reading_from: Option<Recency>,
    /// The runs that the stream was sent, if it has no subscription that remembers them.
    pub(super) own_sent: SentRuns,
}

/// The reason for which a ready run is not sent now. Of several, the first needs attention first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::delivery::ledger) enum Wait {
    /// Newer runs than this one were delivered whose pipelines are not known.
    Names(Recency),
    /// The lookup of a newer one may find a model. It does not wait longer than this.
    Until(Instant),
    /// A newer one is sent first, or the names of newer ones are being looked up.
    Newer,
}

impl Candidates {
    /// Adds a run according to its state.
    pub(in crate::delivery::ledger) fn enter(&mut self, run: &Run) {
        let recency = Recency::of(&run.workflow);
        match &run.state {
            State::Queued | State::FirstLookup { .. } | State::RetriedLookup => {
                self.open.entry(certain_pipeline(&run.workflow)).or_default().insert(recency);
            }
            State::Ready { models, since, .. } => {
                if let Some(lane) = Lane::of(&run.workflow, &models.models) {
                    self.ready.entry(lane).or_default().insert(recency, *since);
                }
            }
            State::Held { lane } => {
                self.held.entry(lane.clone()).or_default().insert(recency);
            }
            State::WithoutContext | State::HandedOff { .. } | State::Excluded => {}
        }
    }

    /// Removes a run before its state changes.
    pub(in crate::delivery::ledger) fn leave(&mut self, run: &Run) {
        let recency = Recency::of(&run.workflow);
        match &run.state {
            State::Queued | State::FirstLookup { .. } | State::RetriedLookup => {
                let pipeline = certain_pipeline(&run.workflow);
                remove(&mut self.open, &pipeline, BTreeSet::is_empty, |runs| runs.remove(&recency));
            }
            State::Ready { models, .. } => {
                if let Some(lane) = Lane::of(&run.workflow, &models.models) {
                    remove(&mut self.ready, &lane, BTreeMap::is_empty, |runs| runs.remove(&recency).is_some());
                }
            }
            State::Held { lane } => {
                remove(&mut self.held, lane, BTreeSet::is_empty, |runs| runs.remove(&recency));
            }
            State::WithoutContext | State::HandedOff { .. } | State::Excluded => {}
        }
    }

    /// Returns whether a ready run may be sent. `newest_unnamed` is the newest delivered run whose pipeline is not known.
    pub(in crate::delivery::ledger) fn may_send(
        &self,
        lane: &Lane,
        run: Recency,
        newest_unnamed: Option<Recency>,
        now: Instant,
    ) -> Result<(), Wait> {
        let newest = lane.superseding().filter_map(|lane| Some(*self.ready.get(&lane)?.last_key_value()?.0)).max();
        if newest > Some(run) {
            return Err(Wait::Newer);
        }
        let open = [Some(lane.pipeline.clone()), None];
        let newest_open = open.iter().filter_map(|pipeline| self.open.get(pipeline)?.last()).max();
        if newest_open > Some(&run) {
            let since = self.ready.get(lane).and_then(|runs| runs.get(&run)).copied().unwrap_or(now);
            if now < since + MAX_WAIT {
                return Err(Wait::Until(since + MAX_WAIT));
            }
        }
        if newest_unnamed > Some(run) && self.named_from.is_none_or(|from| from > run) {
            return Err(if self.reading_from.is_some() { Wait::Newer } else { Wait::Names(run) });
        }
        Ok(())
    }

    /// The ready runs of a lane that are older than this one.
    pub(in crate::delivery::ledger) fn ready_before(&self, lane: &Lane, newest: Recency) -> Vec<Uid> {
        let runs = self.ready.get(lane).into_iter().flat_map(|runs| runs.range(..newest));
        runs.filter(|(recency, _)| recency.is_before(newest)).map(|(recency, _)| recency.uid).collect()
    }

    /// The number of pipelines that are remembered for the stream alone.
    pub(in crate::delivery::ledger) fn remembered(&self) -> usize {
        self.own_sent.len()
    }

    // === superseded runs ===

    /// Notes that some held runs of a lane may be superseded.
    pub(super) fn lane_changed(&mut self, lane: &Lane) {
        if self.held.contains_key(lane) {
            self.changed.insert(lane.clone());
        }
    }

    /// A lane some of whose held runs may be superseded.
    pub(super) fn changed_lane(&self) -> Option<Lane> {
        self.changed.first().cloned()
    }

    /// The next run of a lane that is older than the newest delivered one. Without one, the lane is done.
    pub(super) fn next_superseded(&mut self, lane: &Lane, delivered: Option<Recency>) -> Option<Uid> {
        let oldest = self.held.get(lane).and_then(BTreeSet::first);
        let oldest = oldest.filter(|oldest| delivered.is_some_and(|delivered| oldest.is_before(delivered)));
        if oldest.is_none() {
            self.changed.remove(lane);
        }
        oldest.map(|oldest| oldest.uid)
    }

    // === delivered runs without a name ===

    /// Begins to read the records for delivered runs that are newer than this one.
    pub(super) fn begin_reading(&mut self, run: Recency) {
        self.reading_from = Some(run);
    }

    /// Returns whether the pipeline of a delivered run has to be looked up, because a run waits for it.
    pub(super) fn needs_name(&mut self, delivered: Recency) -> bool {
        if self.reading_from.is_none() {
            self.named_from = None;
        }
        self.reading_from.is_some_and(|from| from < delivered)
    }

    /// Notes that all records were read.
    pub(in crate::delivery::ledger) fn end_reading(&mut self) {
        if let Some(from) = self.reading_from.take() {
            self.named_from = Some(from);
        }
    }
}

/// The name of a run's pipeline, if it is certain before a lookup.
fn certain_pipeline(workflow: &Workflow) -> Option<Arc<str>> {
    Subscription::certain_pipeline(workflow).cloned()
}

/// Removes something from a value of a map, and drops what is empty then.
fn remove<K: Eq + std::hash::Hash, V>(
    map: &mut HashMap<K, V>,
    key: &K,
    is_empty: impl Fn(&V) -> bool,
    remove: impl FnOnce(&mut V) -> bool,
) {
    let value = map.get_mut(key).expect("a run is in the place of its state");
    let removed = remove(value);
    debug_assert!(removed, "a run is in the place of its state");
    if is_empty(value) {
        map.remove(key);
    }
}
