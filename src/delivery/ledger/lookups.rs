//! Questions for the models of runs: who waits for which, whose turn it is, and when to ask again.
//!
//! One question a run and set of types, however many streams wait. So many are under way a namespace at once, and
//! namespaces take turns, so that one whose questions hang does not hold up another. Within a namespace first
//! questions and repeated ones alternate. A question that waits to be repeated holds no place, and one whose answer takes
//! long gives its place back, as long as not too many in its namespace have done so.
//!
//! A question that failed outlives those who waited for it until it would have been asked again: a stream that breaks
//! and comes back every few seconds neither shortens its pauses nor has it asked more often.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::SmallRng};

use super::{Report, Timer, Timers};
use crate::{
    delivery::{LookupError, StreamId},
    model::{ArtifactTypes, RunModels, Uid, Workflow},
};

/// For how long the absence of a run's context may mean that it has only not been written yet.
const CONTEXT_EXPECTED: Duration = Duration::from_secs(120);
/// How often a run is asked for that ML Metadata does not seem to know.
const SELDOM: Duration = Duration::from_secs(3600);
/// The pauses between two attempts: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How long an answer may take before the question gives its place back.
pub(super) const SLOW: Duration = Duration::from_secs(1);
/// How many questions of a namespace may have given their places back: so many for each place that it has.
pub(super) const SLOW_FOR_EACH_PLACE: usize = 3;
/// With so many questions in hand none is kept for which nobody waits.
const KEPT_AT_MOST: usize = 10_000;

/// One question, through all its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::delivery) struct LookupId(u64);

#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) workflow: Arc<Workflow>,
    pub(super) types: Arc<ArtifactTypes>,
    pub(super) waiters: Vec<StreamId>,
    attempt: u32,
    /// When the run's context was missed for the first time. Failures before that prove nothing about it.
    missing_since: Option<Instant>,
    in_flight: bool,
    /// It is under way, and has given its place back.
    slow: bool,
    seldom: bool,
    /// What is under way is no longer what anybody wants to know.
    void: bool,
    /// The Workflow was deleted: who waits for the answer gets it, but it is not worth remembering.
    pub(super) gone: bool,
}

/// What an answer leads to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// There are models, or certainly none.
    Found { lookup: Lookup, models: Arc<RunModels> },
    /// It is asked again later.
    Failed { workflow: Arc<Workflow>, report: Report },
    /// Nobody waits for it any more.
    Nobody,
}

/// What a stream's wish to know leads to.
#[derive(Debug)]
pub(super) enum Asked {
    /// A new question, to be put under way.
    New(LookupId),
    /// An equal question is under way.
    Together,
    /// An equal question has failed, and it is not time yet to repeat it.
    Later,
}

/// Whose turn it is.
#[derive(Debug)]
pub(super) enum Turn {
    /// This lookup is asked again.
    Again(LookupId),
    /// This stream may have one more of its runs asked for.
    Stream(StreamId),
}

/// The lines in which a namespace's questions wait.
#[derive(Debug, Default)]
struct Lines {
    again: VecDeque<LookupId>,
    streams: VecDeque<StreamId>,
    /// The members of `streams`.
    in_line: HashSet<StreamId>,
    /// How many hold a place.
    in_flight: usize,
    /// How many are under way beside these, because they take long.
    slow: usize,
    again_next: bool,
    in_rotation: bool,
}

#[derive(Debug)]
pub(super) struct Lookups {
    per_namespace: usize,
    in_all: usize,
    in_flight: usize,
    lookups: HashMap<LookupId, Lookup>,
    by_run: HashMap<Uid, Vec<LookupId>>,
    namespaces: HashMap<Arc<str>, Lines>,
    rotation: VecDeque<Arc<str>>,
    next: u64,
}

impl Lookups {
    pub(super) fn new(per_namespace: usize, in_all: usize) -> Self {
        Self {
            per_namespace,
            in_all,
            in_flight: 0,
            lookups: HashMap::new(),
            by_run: HashMap::new(),
            namespaces: HashMap::new(),
            rotation: VecDeque::new(),
            next: 0,
        }
    }

    /// This stream has runs to ask for.
    pub(super) fn hungry(&mut self, namespace: &Arc<str>, stream: StreamId) {
        let lines = self.namespaces.entry(namespace.clone()).or_default();
        if lines.in_line.insert(stream) {
            lines.streams.push_back(stream);
        }
        self.enlist(namespace);
    }

    /// It is time to ask again, if there is still somebody who wants to know.
    pub(super) fn retry(&mut self, id: LookupId) {
        let Some(lookup) = self.lookups.get(&id) else { return };
        if lookup.waiters.is_empty() {
            self.remove(id);
            return;
        }
        let namespace = lookup.workflow.namespace.clone();
        self.namespaces.entry(namespace.clone()).or_default().again.push_back(id);
        self.enlist(&namespace);
    }

    /// Who may ask now. Namespaces take turns.
    pub(super) fn next_turn(&mut self) -> Option<Turn> {
        while self.in_flight < self.in_all {
            let namespace = self.rotation.pop_front()?;
            let Some(lines) = self.namespaces.get_mut(&namespace) else { continue };
            lines.in_rotation = false;
            if lines.in_flight >= self.per_namespace {
                continue;
            }
            lines.again_next = !lines.again_next;
            let stream = |lines: &mut Lines| {
                let stream = lines.streams.pop_front()?;
                lines.in_line.remove(&stream);
                Some(Turn::Stream(stream))
            };
            let again = |lines: &mut Lines| lines.again.pop_front().map(Turn::Again);
            let turn = if lines.again_next {
                again(lines).or_else(|| stream(lines))
            } else {
                stream(lines).or_else(|| again(lines))
            };
            self.enlist(&namespace);
            if turn.is_some() {
                return turn;
            }
        }
        None
    }

    /// A stream wants the models of a run, whose Workflow may be `gone`.
    pub(super) fn ask(
        &mut self,
        workflow: Arc<Workflow>,
        types: &Arc<ArtifactTypes>,
        by: StreamId,
        gone: bool,
    ) -> Asked {
        let same = self.by_run.get(&workflow.uid).into_iter().flatten().copied();
        for id in same {
            if let Some(lookup) = self.lookups.get_mut(&id).filter(|lookup| lookup.types == *types) {
                lookup.waiters.push(by);
                return if lookup.in_flight { Asked::Together } else { Asked::Later };
            }
        }
        self.next += 1;
        let id = LookupId(self.next);
        self.by_run.entry(workflow.uid).or_default().push(id);
        let lookup = Lookup {
            workflow,
            types: types.clone(),
            waiters: vec![by],
            attempt: 0,
            missing_since: None,
            in_flight: false,
            slow: false,
            seldom: false,
            void: false,
            gone,
        };
        self.lookups.insert(id, lookup);
        Asked::New(id)
    }

    /// Puts a question under way. Returns what is asked, and which attempt this is (from 1).
    pub(super) fn start(
        &mut self,
        id: LookupId,
        now: Instant,
        timers: &mut Timers,
    ) -> Option<(Arc<Workflow>, Arc<ArtifactTypes>, u32)> {
        let lookup = self.lookups.get_mut(&id)?;
        if lookup.waiters.is_empty() {
            self.remove(id);
            return None;
        }
        lookup.in_flight = true;
        lookup.slow = false;
        timers.set(now + SLOW, Timer::Slow(id));
        lookup.attempt = lookup.attempt.saturating_add(1);
        self.in_flight += 1;
        self.namespaces.entry(lookup.workflow.namespace.clone()).or_default().in_flight += 1;
        Some((lookup.workflow.clone(), lookup.types.clone(), lookup.attempt))
    }

    /// An answer takes long.
    pub(super) fn slow(&mut self, id: LookupId, now: Instant, timers: &mut Timers) {
        let Some(lookup) = self.lookups.get_mut(&id).filter(|lookup| lookup.in_flight && !lookup.slow) else { return };
        let namespace = lookup.workflow.namespace.clone();
        let Some(lines) = self.namespaces.get_mut(&namespace) else { return };
        if lines.slow >= SLOW_FOR_EACH_PLACE * self.per_namespace {
            timers.set(now + SLOW, Timer::Slow(id));
            return;
        }
        lookup.slow = true;
        lines.slow += 1;
        lines.in_flight -= 1;
        self.enlist(&namespace);
    }

    /// An answer has come.
    pub(super) fn answered(
        &mut self,
        id: LookupId,
        answer: Result<Arc<RunModels>, LookupError>,
        now: Instant,
        timers: &mut Timers,
        jitter: &mut SmallRng,
    ) -> Outcome {
        let Some(lookup) = self.lookups.get_mut(&id).filter(|lookup| lookup.in_flight) else { return Outcome::Nobody };
        lookup.in_flight = false;
        timers.stop(&Timer::Slow(id));
        let namespace = lookup.workflow.namespace.clone();
        self.in_flight -= 1;
        if let Some(lines) = self.namespaces.get_mut(&namespace) {
            *(if lookup.slow { &mut lines.slow } else { &mut lines.in_flight }) -= 1;
        }
        self.enlist(&namespace);
        match answer {
            Ok(models) => match self.remove(id) {
                Some(lookup) if !lookup.void => Outcome::Found { lookup, models },
                _ => Outcome::Nobody,
            },
            Err(_) if !self.is_worth_keeping(id) => {
                self.remove(id);
                Outcome::Nobody
            }
            Err(error) => {
                let Some(lookup) = self.lookups.get_mut(&id) else { return Outcome::Nobody };
                let seldom = match error {
                    LookupError::NoContext => {
                        let since = *lookup.missing_since.get_or_insert(now);
                        now.saturating_duration_since(since) >= CONTEXT_EXPECTED
                    }
                    LookupError::ForeignContext { .. } => true,
                    LookupError::Failed { .. } => false,
                };
                let given_up = seldom && !std::mem::replace(&mut lookup.seldom, seldom);
                let pause = if seldom { SELDOM } else { backoff(BACKOFF, lookup.attempt) };
                let retry_in = jitter.random_range(pause / 2..=pause);
                let report = Report::LookupFailed {
                    workflow: lookup.workflow.clone(),
                    error,
                    attempt: lookup.attempt,
                    retry_in,
                    given_up,
                };
                timers.set(now + retry_in, Timer::Lookup(id));
                Outcome::Failed { workflow: lookup.workflow.clone(), report }
            }
        }
    }

    /// This stream no longer waits for this run.
    pub(super) fn abandon(&mut self, run: Uid, by: StreamId, timers: &mut Timers) {
        for id in self.by_run.get(&run).cloned().unwrap_or_default() {
            let Some(lookup) = self.lookups.get_mut(&id) else { continue };
            lookup.waiters.retain(|waiter| *waiter != by);
            if !lookup.in_flight && !self.is_worth_keeping(id) {
                self.discard(id, timers);
            }
        }
    }

    /// The Workflow is gone: only those that wait already still want to know.
    pub(super) fn gone(&mut self, run: Uid, timers: &mut Timers) {
        for id in self.by_run.get(&run).cloned().unwrap_or_default() {
            let Some(lookup) = self.lookups.get_mut(&id) else { continue };
            lookup.gone = true;
            if lookup.waiters.is_empty() {
                self.discard(id, timers);
            }
        }
    }

    /// The run was restarted: what is under way about it is no longer true. Returns whether anything was.
    pub(super) fn forget(&mut self, run: Uid, timers: &mut Timers) -> bool {
        let same = self.by_run.get(&run).cloned().unwrap_or_default();
        same.iter().for_each(|id| self.discard(*id, timers));
        !same.is_empty()
    }

    /// Takes a question out, so that a later one for the same run does not join it. One that is under way stays until
    /// its answer comes, which then means nothing.
    fn discard(&mut self, id: LookupId, timers: &mut Timers) {
        timers.stop(&Timer::Lookup(id));
        match self.lookups.get_mut(&id) {
            Some(lookup) if lookup.in_flight => {
                lookup.void = true;
                lookup.waiters.clear();
                self.unlist(id);
            }
            _ => {
                self.remove(id);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn contains(&self, id: LookupId) -> bool {
        self.lookups.contains_key(&id)
    }

    /// Whether no question is left, nor anything that was set up for one.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lookups.is_empty() && self.by_run.is_empty() && self.namespaces.is_empty()
    }

    fn is_worth_keeping(&self, id: LookupId) -> bool {
        self.lookups
            .get(&id)
            .is_some_and(|lookup| !lookup.void && (!lookup.waiters.is_empty() || self.lookups.len() <= KEPT_AT_MOST))
    }

    fn remove(&mut self, id: LookupId) -> Option<Lookup> {
        self.unlist(id);
        self.lookups.remove(&id)
    }

    fn unlist(&mut self, id: LookupId) {
        let Some(uid) = self.lookups.get(&id).map(|lookup| lookup.workflow.uid) else { return };
        if let Some(same) = self.by_run.get_mut(&uid) {
            same.retain(|other| *other != id);
            if same.is_empty() {
                self.by_run.remove(&uid);
            }
        }
    }

    fn enlist(&mut self, namespace: &Arc<str>) {
        let Some(lines) = self.namespaces.get_mut(namespace) else { return };
        let waits = !lines.again.is_empty() || !lines.streams.is_empty();
        if waits && lines.in_flight < self.per_namespace && !lines.in_rotation {
            lines.in_rotation = true;
            self.rotation.push_back(namespace.clone());
        } else if !waits && lines.in_flight + lines.slow == 0 {
            self.namespaces.remove(namespace);
        }
    }
}

/// The pause after so many attempts (from 1): doubled each time, up to the longest.
pub(super) fn backoff((first, longest): (Duration, Duration), attempt: u32) -> Duration {
    first.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(longest)
}
