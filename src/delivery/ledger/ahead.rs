//! Lookups ahead: of runs that have not ended, so that the lookup of the run's end takes fewer round trips.
//!
//! Nothing depends on their answers, not even whether the run has models: see [`ArtifactLookup::look_ahead`]. So they are
//! few, and give way to everything else:
//!
//! - only for runs of namespaces with an attached stream;
//! - at most one for each of [`AGES`], until one is answered; one that ends within seconds costs none;
//! - then, as long as further tasks will record more, at most one for the changes of the Workflow within [`AFTER_CHANGE`],
//!   and [`MAX_ANSWERS`] in all: a run that waits for days costs no more than one that takes minutes. Argo changes a
//!   Workflow when a task begins or ends, and a task makes more calls itself;
//! - beside the places of other lookups, a few at a time, at a limited rate, one of a namespace, and namespaces take turns;
//! - for a limited number of runs, of which the namespace with the most gives way. Others are looked up as without this.
//!
//! [`ArtifactLookup::look_ahead`]: crate::delivery::ArtifactLookup::look_ahead

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Ledger,
    shares::Shares,
    timers::{Timer, Timers},
    types::{Action, Now},
};
use crate::{
    delivery::{KnownAhead, LookupError},
    model::{Phase, Uid, Workflow},
};

/// Ages of a run in seconds at which it is looked up. The first task of a run records it, once its image is there.
pub(super) const AGES: [i64; 3] = [15, 120, 600];
/// The time from a change of a Workflow until its run is looked up again: a task that has just begun records itself.
pub(super) const AFTER_CHANGE: Duration = Duration::from_secs(10);
/// Lookups of a run, from the first that was answered, after which it is not looked up again.
pub(super) const MAX_ANSWERS: u8 = 32;
/// Lookups in flight in all.
pub(super) const IN_FLIGHT: usize = 4;
/// The shortest interval between the beginnings of two lookups: after a restart, thousands of runs are due at once.
pub(super) const INTERVAL: Duration = Duration::from_millis(50);
/// Runs of a namespace.
pub(super) const MAX_RUNS_OF_NAMESPACE: usize = 256;
/// Runs of all namespaces: about 2 MiB.
pub(super) const MAX_RUNS: usize = 16_384;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LookupsAhead {
    namespaces: HashMap<Arc<str>, Namespace>,
    /// The numbers of runs.
    shares: Shares,
    /// The namespaces in which a lookup can begin.
    rotation: VecDeque<Arc<str>>,
    in_flight: usize,
    /// The time before which no lookup begins.
    not_before: Option<Instant>,
}

/// The runs of a namespace.
#[derive(Debug, Default)]
struct Namespace {
    runs: BTreeMap<Uid, State>,
    /// The runs in [`State::Queued`].
    queue: VecDeque<Uid>,
    is_in_flight: bool,
    is_in_rotation: bool,
}

/// The state of a run.
#[derive(Debug)]
enum State {
    /// Its timer runs.
    Young(Arc<Workflow>, Progress),
    /// It waits for its turn.
    Queued(Arc<Workflow>, Progress),
    InFlight {
        workflow: Arc<Workflow>,
        progress: Progress,
        /// The Workflow has changed meanwhile.
        changed: bool,
    },
    /// It is looked up again once its Workflow changes.
    Known(Progress),
    /// It is not looked up again before it ends.
    Done,
}

/// The lookups of a run so far.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The place in [`AGES`] of the last one, or of the next one if none was answered.
    place: usize,
    answers: u8,
}

impl LookupsAhead {
    /// Adds a run that has not ended, or replaces its record. `is_change`: its Workflow has changed.
    fn add(&mut self, workflow: &Arc<Workflow>, is_change: bool, now: Now, timers: &mut Timers) {
        let (name, uid) = (&workflow.namespace, workflow.uid);
        let state = self.namespaces.get_mut(name).and_then(|namespace| namespace.runs.get_mut(&uid));
        match state {
            Some(State::Young(record, _) | State::Queued(record, _)) => return record.clone_from(workflow),
            Some(State::InFlight { workflow: record, changed, .. }) => {
                record.clone_from(workflow);
                *changed |= is_change;
                return;
            }
            Some(state @ State::Known(_)) if is_change => return state.await_change(workflow.clone(), now, timers),
            Some(State::Known(_) | State::Done) => return,
            None => {}
        }
        if self.make_room(name, timers) {
            self.shares.add(name, 1);
            let runs = &mut self.namespaces.entry(name.clone()).or_default().runs;
            runs.insert(uid, State::Young(workflow.clone(), Progress::default()));
            timers.set(now.instant + time_until(AGES[0], workflow, now), Timer::LookAhead(name.clone(), uid));
        }
    }

    /// Returns whether there is room for another run of a namespace. Takes it from the namespace with the most runs.
    fn make_room(&mut self, name: &Arc<str>, timers: &mut Timers) -> bool {
        if self.namespaces.get(name).is_some_and(|namespace| namespace.runs.len() >= MAX_RUNS_OF_NAMESPACE) {
            return false;
        }
        if self.shares.total() < MAX_RUNS {
            return true;
        }
        let largest = self.shares.largest(name).clone();
        let last = self.namespaces.get(&largest).and_then(|namespace| namespace.runs.keys().next_back().copied());
        match last.filter(|_| largest != *name) {
            Some(run) => {
                self.remove(&largest, run, timers);
                true
            }
            None => false,
        }
    }

    /// Removes a run that has ended, or whose Workflow was deleted.
    fn remove(&mut self, name: &Arc<str>, run: Uid, timers: &mut Timers) {
        let Some(namespace) = self.namespaces.get_mut(name) else { return };
        let Some(state) = namespace.runs.remove(&run) else { return };
        self.shares.remove(name, 1);
        match state {
            State::Young(..) => timers.cancel(&Timer::LookAhead(name.clone(), run)),
            State::Queued(..) => namespace.queue.retain(|queued| *queued != run),
            State::InFlight { .. } | State::Known(_) | State::Done => {}
        }
        self.schedule(name);
    }

    /// Removes the runs of a namespace whose lookups have not begun: it has no stream.
    pub(super) fn stop(&mut self, name: &Arc<str>, timers: &mut Timers) {
        self.remove_where(name, timers, |state| matches!(state, State::Young(..) | State::Queued(..)));
    }

    /// Removes all runs of a namespace.
    pub(super) fn forget(&mut self, name: &Arc<str>, timers: &mut Timers) {
        self.remove_where(name, timers, |_| true);
    }

    fn remove_where(&mut self, name: &Arc<str>, timers: &mut Timers, condition: impl Fn(&State) -> bool) {
        let Some(namespace) = self.namespaces.get(name) else { return };
        let removed: Vec<_> =
            namespace.runs.iter().filter(|(_, state)| condition(state)).map(|(run, _)| *run).collect();
        removed.into_iter().for_each(|run| self.remove(name, run, timers));
    }

    /// Queues a run whose timer has ended.
    pub(super) fn queue(&mut self, name: &Arc<str>, run: Uid) {
        let namespace = self.namespaces.get_mut(name).expect("the timer of a run ends with it");
        let state = namespace.runs.get_mut(&run).expect("the timer of a run ends with it");
        if let State::Young(workflow, progress) = state {
            *state = State::Queued(workflow.clone(), *progress);
            namespace.queue.push_back(run);
        }
        self.schedule(name);
    }

    /// Begins the next lookup, if one may begin. Returns its run.
    pub(super) fn begin_next(&mut self, now: Instant, timers: &mut Timers) -> Option<Arc<Workflow>> {
        if self.in_flight >= IN_FLIGHT || self.rotation.is_empty() {
            return None;
        }
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            timers.set(at, Timer::LookAheadRate);
            return None;
        }
        loop {
            let name = self.rotation.pop_front()?;
            let Some(namespace) = self.namespaces.get_mut(&name) else { continue };
            namespace.is_in_rotation = false;
            if namespace.is_in_flight {
                continue;
            }
            let Some(run) = namespace.queue.pop_front() else { continue };
            let state = namespace.runs.get_mut(&run).expect("a queued run is kept");
            let State::Queued(workflow, progress) = state else {
                unreachable!("the queue has the runs that are queued")
            };
            let (workflow, progress) = (workflow.clone(), *progress);
            *state = State::InFlight { workflow: workflow.clone(), progress, changed: false };
            namespace.is_in_flight = true;
            self.in_flight += 1;
            self.not_before = Some(now + INTERVAL);
            return Some(workflow);
        }
    }

    /// Handles an answer. The run may have ended meanwhile.
    fn end(
        &mut self,
        workflow: &Arc<Workflow>,
        answer: &Result<KnownAhead, LookupError>,
        now: Now,
        timers: &mut Timers,
    ) {
        let (name, uid) = (&workflow.namespace, workflow.uid);
        self.in_flight -= 1;
        let namespace = self.namespaces.get_mut(name).expect("a namespace with a lookup in flight is kept");
        namespace.is_in_flight = false;
        if let Some(state) = namespace.runs.get_mut(&uid)
            && let State::InFlight { workflow, progress, changed } = std::mem::replace(state, State::Done)
        {
            let Progress { place, answers } = progress;
            let next = match answer {
                Err(LookupError::NoContext | LookupError::Failed { .. }) if answers == 0 => {
                    next_place(place, &workflow, now).map(|place| {
                        let at = now.instant + time_until(AGES[place], &workflow, now);
                        timers.set(at, Timer::LookAhead(name.clone(), uid));
                        State::Young(workflow.clone(), Progress { place, answers })
                    })
                }
                // Once a run was found, the next change has it looked up again.
                Ok(KnownAhead::SoFar) | Err(LookupError::NoContext | LookupError::Failed { .. }) => {
                    let answers = answers + 1;
                    (answers < MAX_ANSWERS).then_some(State::Known(Progress { place, answers }))
                }
                Ok(KnownAhead::All) | Err(LookupError::ForeignContext { .. } | LookupError::TooLarge) => None,
            };
            *state = next.unwrap_or(State::Done);
            if changed {
                state.await_change(workflow, now, timers);
            }
        }
        self.schedule(name);
    }

    /// Adds a namespace to the rotation, if a lookup can begin in it. Drops it if nothing is left of it.
    fn schedule(&mut self, name: &Arc<str>) {
        let Some(namespace) = self.namespaces.get_mut(name) else { return };
        if namespace.is_in_flight {
            return;
        }
        if namespace.runs.is_empty() {
            if namespace.is_in_rotation {
                self.rotation.retain(|other| other != name);
            }
            self.namespaces.remove(name);
        } else if !namespace.queue.is_empty() && !namespace.is_in_rotation {
            namespace.is_in_rotation = true;
            self.rotation.push_back(name.clone());
        }
    }

    /// Returns whether the timer of a run has a reason.
    #[cfg(test)]
    pub(super) fn is_young(&self, name: &str, run: Uid) -> bool {
        let state = self.namespaces.get(name).and_then(|namespace| namespace.runs.get(&run));
        matches!(state, Some(State::Young(..)))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shares.total()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.in_flight == 0 && self.shares.total() == 0
    }
}

impl State {
    /// Has a known run looked up again, because its Workflow has changed.
    fn await_change(&mut self, workflow: Arc<Workflow>, now: Now, timers: &mut Timers) {
        if let Self::Known(progress) = *self {
            timers.set(now.instant + AFTER_CHANGE, Timer::LookAhead(workflow.namespace.clone(), workflow.uid));
            *self = Self::Young(workflow, progress);
        }
    }
}

/// The age of a run in seconds. Clocks differ.
fn age(workflow: &Workflow, now: Now) -> i64 {
    now.unix.saturating_sub(workflow.created).max(0)
}

/// The place in [`AGES`] of the next lookup of a run.
fn next_place(last: usize, workflow: &Workflow, now: Now) -> Option<usize> {
    let age = age(workflow, now);
    (last + 1..AGES.len()).find(|place| AGES[*place] > age)
}

fn time_until(next: i64, workflow: &Workflow, now: Now) -> Duration {
    Duration::from_secs(next.saturating_sub(age(workflow, now)).try_into().unwrap_or_default())
}

impl Ledger {
    /// Has a run looked up ahead, if it has not ended and its namespace has a stream. `is_change`: its Workflow has changed.
    pub(super) fn look_ahead(&mut self, workflow: &Arc<Workflow>, is_change: bool, now: Now) {
        if workflow.phase == Phase::Active && self.streams_in(&workflow.namespace) > 0 {
            self.ahead.add(workflow, is_change, now, &mut self.timers);
        }
    }

    /// Handles the end of a run, or the deletion of its Workflow.
    pub(super) fn stop_looking_ahead(&mut self, workflow: &Workflow) {
        self.ahead.remove(&workflow.namespace, workflow.uid, &mut self.timers);
    }

    /// Begins the lookups ahead that may begin now.
    pub(super) fn begin_lookups_ahead(&mut self, now: Now) {
        while let Some(workflow) = self.ahead.begin_next(now.instant, &mut self.timers) {
            self.actions.push(Action::LookAhead(workflow));
        }
    }

    /// Handles the answer to [`Action::LookAhead`].
    pub(in crate::delivery) fn handle_answer_ahead(
        &mut self,
        workflow: &Arc<Workflow>,
        answer: &Result<KnownAhead, LookupError>,
        now: Now,
    ) {
        self.ahead.end(workflow, answer, now, &mut self.timers);
        if self.streams_in(&workflow.namespace) == 0 {
            self.ahead.stop(&workflow.namespace, &mut self.timers);
        }
    }
}
