//! The runs of a stream: the state of each, and the queues that follow from the states.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use super::{
    budget::Reservation,
    latest::{Candidates, Lane},
    quarantine::Quarantine,
    types::Age,
};
use crate::model::{RunModels, Workflow};

/// The state of a run in a stream.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Its models have not been looked up.
    Queued,
    /// Its first lookup is in flight. Younger runs wait for it until this time.
    FirstLookup { until: Instant },
    /// Its lookup has failed and will be retried.
    RetriedLookup,
    /// The source of models does not know the run: its lookup is retried rarely.
    WithoutContext,
    /// Its event can be handed off: in quarantine as a probe, at this time.
    Ready { models: ReadyModels, since: Instant, probe_at: Option<Instant> },
    /// Its event was handed off and is not confirmed.
    HandedOff { sequence: u64, at: Instant },
    /// With `latestOnly`, a newer run was handed off: this one is superseded once the delivery of that one is certain.
    Held { lane: Lane },
    /// It is not sent, because it has no valid event.
    Excluded,
}

/// The models of a ready run, and the bytes that they take.
#[derive(Clone, Debug)]
pub(super) struct ReadyModels {
    pub(super) models: Arc<RunModels>,
    pub(super) bytes: usize,
    /// Shared by the streams that hold the same models. `None` for few bytes for which there was no room.
    pub(super) _space: Option<Arc<Reservation>>,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) age: Age,
    /// The latest record.
    pub(super) workflow: Arc<Workflow>,
    pub(super) state: State,
    /// The time since which the run is pending for the subscription, as far as known.
    pub(super) pending_since: Instant,
    /// Its delivery is already recorded, through another stream of the subscription or another replica.
    pub(super) already_delivered: bool,
    /// It was delivered before and is not sent: only its pipeline's name is looked up, for `latestOnly`.
    pub(super) is_name_only: bool,
}

impl Run {
    pub(super) fn is_handed_off(&self) -> bool {
        matches!(self.state, State::HandedOff { .. })
    }

    pub(super) fn is_excluded(&self) -> bool {
        matches!(self.state, State::Excluded)
    }

    pub(super) fn awaits_lookup(&self) -> bool {
        matches!(self.state, State::FirstLookup { .. } | State::RetriedLookup | State::WithoutContext)
    }

    /// Returns whether the run counts as pending. Runs without a context are counted on their own.
    pub(super) fn is_pending(&self) -> bool {
        !self.is_name_only && !matches!(self.state, State::Excluded | State::WithoutContext)
    }
}

/// The runs that wait for something, in the order of their age, and the numbers of runs.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) queued: BTreeSet<Age>,
    /// Runs whose first lookup is in flight, and the time until which younger runs wait for it.
    pub(super) first_lookups: BTreeMap<Age, Instant>,
    pub(super) ready: BTreeSet<Age>,
    pub(super) ready_bytes: usize,
    /// The bytes of the models that were found last: what the next ones may take.
    pub(super) last_bytes: usize,
    pub(super) quarantine: Quarantine,
    /// Models were found that the stream may not hold: no lookups begin until it holds less.
    pub(super) is_saturated: bool,
    /// With `latestOnly`, the runs that compete.
    pub(super) candidates: Option<Box<Candidates>>,
    /// The numbers of pending runs by the time since which they are.
    pub(super) pending: BTreeMap<Instant, usize>,
    pub(super) pending_runs: usize,
    pub(super) without_context: usize,
}

impl Queues {
    /// Adds a run according to its state.
    pub(super) fn enter(&mut self, run: &Run) {
        match &run.state {
            State::Queued => {
                self.queued.insert(run.age);
            }
            State::FirstLookup { until } => {
                self.first_lookups.insert(run.age, *until);
            }
            State::WithoutContext => self.without_context += 1,
            State::Ready { models, probe_at: None, .. } => {
                self.ready.insert(run.age);
                self.ready_bytes += models.bytes;
            }
            State::Ready { probe_at: Some(at), .. } => self.quarantine.insert(*at, run.age),
            State::RetriedLookup | State::HandedOff { .. } | State::Held { .. } | State::Excluded => {}
        }
        if run.is_pending() {
            *self.pending.entry(run.pending_since).or_default() += 1;
            self.pending_runs += 1;
        }
        if let Some(candidates) = &mut self.candidates {
            candidates.enter(run);
        }
    }

    /// Removes a run before its state changes.
    pub(super) fn leave(&mut self, run: &Run) {
        match &run.state {
            State::Queued => {
                self.queued.remove(&run.age);
                release_set(&mut self.queued);
            }
            State::FirstLookup { .. } => {
                self.first_lookups.remove(&run.age);
                release_map(&mut self.first_lookups);
            }
            State::WithoutContext => self.without_context -= 1,
            State::Ready { models, probe_at: None, .. } => {
                self.ready.remove(&run.age);
                release_set(&mut self.ready);
                self.ready_bytes -= models.bytes;
                self.is_saturated = false;
            }
            State::Ready { probe_at: Some(at), .. } => {
                self.quarantine.remove(*at, run.age);
                self.is_saturated = false;
            }
            State::RetriedLookup | State::HandedOff { .. } | State::Held { .. } | State::Excluded => {}
        }
        if run.is_pending() {
            let same_time = self.pending.get_mut(&run.pending_since).expect("a pending run is counted");
            *same_time -= 1;
            if *same_time == 0 {
                self.pending.remove(&run.pending_since);
                release_map(&mut self.pending);
            }
            self.pending_runs -= 1;
        }
        if let Some(candidates) = &mut self.candidates {
            candidates.leave(run);
        }
    }
}

/// Frees the memory of an empty map, of several hundred bytes: most streams are idle nearly all the time.
fn release_map<K, V>(map: &mut BTreeMap<K, V>) {
    if map.is_empty() {
        *map = BTreeMap::new();
    }
}

/// As [`release_map`].
fn release_set<T>(set: &mut BTreeSet<T>) {
    if set.is_empty() {
        *set = BTreeSet::new();
    }
}
