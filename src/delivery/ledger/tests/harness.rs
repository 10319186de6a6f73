//! A ledger, with the driver, the store and time around it under the test's control.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::super::{Action, Ledger, LookupId, Now, Report, Timer};
use crate::{
    delivery::{CloseReason, LookupLimits, MarkError, MarkPatch, Options, StreamId},
    model::{ArtifactTypes, Subscription, Uid, Workflow},
    store::{Before, Change},
};

pub(super) use crate::delivery::fixtures::*;

/// A lookup in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: LookupId,
    pub(super) run: String,
    pub(super) types: Arc<ArtifactTypes>,
    pub(super) attempt: u32,
}

/// A hand-off.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) stream: StreamId,
    pub(super) run: String,
    pub(super) sequence: u64,
    pub(super) payload: String,
    pub(super) redelivery: bool,
}

pub(super) struct Harness {
    pub(super) ledger: Ledger,
    pub(super) now: Now,
    /// The records of the store.
    pub(super) store: BTreeMap<String, Arc<Workflow>>,
    /// Lookups in flight.
    pub(super) lookups: Vec<InFlight>,
    /// Lookups ahead in flight.
    pub(super) ahead: Vec<Arc<Workflow>>,
    /// Patches in flight.
    pub(super) patches: Vec<MarkPatch>,
    /// Every hand-off so far. [`Harness::events`] takes those of a stream.
    pub(super) handoffs: Vec<Event>,
    pub(super) reports: Vec<Report>,
    pub(super) closed: Vec<StreamId>,
    pub(super) close_reasons: Vec<CloseReason>,
    pub(super) unfollowed: Vec<String>,
    pub(super) forgotten: Vec<Uid>,
    /// Streams that read the records of their namespaces. [`Harness::perform_actions`] offers these.
    pub(super) reading: Vec<(StreamId, Arc<str>)>,
    last_sequence: BTreeMap<StreamId, u64>,
    last_stream: u64,
}

impl Harness {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with_lookups(per_namespace: usize, total: usize) -> Self {
        Self::with(Options { lookups: LookupLimits { per_namespace, total }, ..Options::default() })
    }

    pub(super) fn with(options: Options) -> Self {
        Self {
            ledger: Ledger::new(&options, 7),
            now: Now { instant: Instant::now(), unix: BEGIN },
            store: BTreeMap::new(),
            lookups: Vec::new(),
            ahead: Vec::new(),
            patches: Vec::new(),
            handoffs: Vec::new(),
            reports: Vec::new(),
            closed: Vec::new(),
            close_reasons: Vec::new(),
            unfollowed: Vec::new(),
            forgotten: Vec::new(),
            reading: Vec::new(),
            last_sequence: BTreeMap::new(),
            last_stream: 0,
        }
    }

    /// Performs the ledger's actions, in as many turns as it needs. To be called after each input that was given to it
    /// directly.
    pub(super) fn perform_actions(&mut self) {
        loop {
            self.perform_turn();
            let reading = std::mem::take(&mut self.reading);
            if reading.is_empty() && !self.ledger.has_more() {
                return;
            }
            for (stream, namespace) in reading {
                self.read(stream, &namespace);
            }
        }
    }

    /// Offers every record of a namespace to a stream, in as many turns as that takes.
    fn read(&mut self, stream: StreamId, namespace: &str) {
        let records = self.records(namespace);
        let mut rest = &records[..];
        while let Some(offered) = self.ledger.offer_records(stream, rest, true, self.now) {
            rest = &rest[offered..];
            self.perform_turn();
        }
    }

    pub(super) fn perform_turn(&mut self) {
        for action in self.ledger.poll_actions(self.now, &encode) {
            match action {
                Action::Lookup { id, workflow, types, attempt } => {
                    self.lookups.push(InFlight { id, run: workflow.name.to_string(), types, attempt });
                }
                Action::HandOff { stream, handoff, workflow, redelivery, .. } => {
                    self.last_sequence.insert(stream, handoff.sequence);
                    self.handoffs.push(Event {
                        stream,
                        run: workflow.name.to_string(),
                        sequence: handoff.sequence,
                        payload: String::from_utf8(handoff.payload.to_vec()).unwrap(),
                        redelivery,
                    });
                }
                Action::LookAhead(workflow) => self.ahead.push(workflow),
                Action::Patch { patch, .. } => self.patches.push(patch),
                Action::Forget(uid) => self.forgotten.push(uid),
                Action::Close(stream, reason) => {
                    self.closed.push(stream);
                    self.close_reasons.push(reason);
                }
                Action::Read { stream, namespace } => self.reading.push((stream, namespace)),
                Action::Unfollow(namespace) => self.unfollowed.push(namespace.to_string()),
                Action::Report(report) => self.reports.push(report),
            }
        }
    }

    // === the store ===

    fn records(&self, namespace: &str) -> Vec<Arc<Workflow>> {
        self.store.values().filter(|record| *record.namespace == *namespace).cloned().collect()
    }

    pub(super) fn apply(&mut self, workflow: Workflow) {
        let workflow = Arc::new(workflow);
        let held = self.store.insert(workflow.name.to_string(), workflow.clone());
        let before = held.filter(|held| held.uid == workflow.uid).map(|held| Before::of(&held, &workflow));
        self.ledger.handle_change(&Change::Applied { workflow, before }, self.now);
        self.perform_actions();
    }

    /// Changes a record.
    pub(super) fn change(&mut self, run: &str, change: impl FnOnce(&mut Workflow)) {
        let mut workflow = Workflow::clone(&self.store[run]);
        change(&mut workflow);
        self.apply(workflow);
    }

    pub(super) fn delete(&mut self, run: &str) {
        let workflow = self.store.remove(run).unwrap();
        self.ledger.handle_change(&Change::Deleted(workflow), self.now);
        self.perform_actions();
    }

    // === streams ===

    pub(super) fn attach(&mut self, subscription: Subscription) -> StreamId {
        self.last_stream += 1;
        let id = StreamId(self.last_stream);
        let peer = format!("10.0.0.1:{}", self.last_stream).parse().unwrap();
        self.ledger.attach(id, subscription, Some(peer), self.now);
        self.perform_actions();
        id
    }

    pub(super) fn end(&mut self, stream: StreamId) {
        self.ledger.end(stream, self.now);
        self.perform_actions();
    }

    /// Takes the runs that were handed to a stream since the last call.
    pub(super) fn events(&mut self, stream: StreamId) -> Vec<String> {
        let of_stream = |event: &mut Event| event.stream == stream;
        self.handoffs.extract_if(.., of_stream).map(|event| event.run).collect()
    }

    /// Acknowledges every event so far.
    pub(super) fn acknowledge(&mut self, stream: StreamId) {
        let sequence = self.last_sequence.get(&stream).copied().unwrap_or_default();
        self.ledger.handle_ack(stream, sequence, self.now);
        self.perform_actions();
    }

    /// Acknowledges every event so far, and keeps the stream open for long enough.
    pub(super) fn confirm(&mut self, stream: StreamId) {
        self.acknowledge(stream);
        self.wait(Duration::from_secs(1));
    }

    // === lookups ===

    /// The runs whose lookups are in flight.
    pub(super) fn looked_up(&self) -> Vec<&str> {
        self.lookups.iter().map(|lookup| &*lookup.run).collect()
    }

    /// Answers one lookup of this run.
    pub(super) fn answer(&mut self, run: &str, answer: Answer) {
        let at = self.lookups.iter().position(|lookup| lookup.run == run);
        let lookup = self.lookups.remove(at.unwrap_or_else(|| panic!("no lookup of {run} is in flight")));
        self.ledger.handle_answer(lookup.id, answer, self.now);
        self.perform_actions();
    }

    /// Answers every lookup, and leaves the actions to the next turn.
    pub(super) fn answer_in_turn(&mut self, answer: &Answer) {
        for lookup in std::mem::take(&mut self.lookups) {
            self.ledger.handle_answer(lookup.id, answer.clone(), self.now);
        }
    }

    /// Answers every lookup, and those that follow at once.
    pub(super) fn answer_all(&mut self, answer: &Answer) {
        while let Some(lookup) = self.lookups.pop() {
            self.ledger.handle_answer(lookup.id, answer.clone(), self.now);
            self.perform_actions();
        }
    }

    // === patches ===

    /// Takes the only patch in flight.
    pub(super) fn patch(&mut self) -> MarkPatch {
        assert_eq!(self.patches.len(), 1, "{:?}", self.patches);
        self.patches.remove(0)
    }

    pub(super) fn answer_patch(&mut self, patch: MarkPatch, result: Result<(), MarkError>) {
        self.ledger.handle_patch(patch, result, self.now);
        self.perform_actions();
    }

    /// Applies every patch, answers it, and shows the outcome to the watch.
    pub(super) fn write_marks(&mut self) {
        while let Some(patch) = self.patches.pop() {
            let run = patch.name.to_string();
            let applied = self.store.get(&run).map(|workflow| with_patch(workflow, &patch.change));
            self.answer_patch(patch, Ok(()));
            if let Some(workflow) = applied {
                self.apply(workflow);
            }
        }
    }

    // === time ===

    /// Advances both clocks, with every timer on the way.
    pub(super) fn wait(&mut self, duration: Duration) {
        let (begin, end) = (self.now, self.now.instant + duration);
        loop {
            let next = self.ledger.poll_timeout().filter(|at| *at <= end);
            self.now.instant = next.unwrap_or(end).max(self.now.instant);
            let passed = (self.now.instant - begin.instant).as_secs();
            self.now.unix = begin.unix + i64::try_from(passed).unwrap();
            self.ledger.handle_timeout(self.now);
            self.perform_actions();
            if next.is_none() {
                return;
            }
        }
    }

    /// Moves the wall clock, without any other input.
    pub(super) fn move_clock(&mut self, seconds: i64) {
        self.now.unix += seconds;
        self.ledger.handle_timeout(self.now);
        self.perform_actions();
    }

    /// Attaches the subscription `a` of a namespace, and lets it confirm these new runs there. Time passes until then.
    pub(super) fn confirm_runs(&mut self, namespace: &str, names: impl IntoIterator<Item = String>) -> StreamId {
        let stream = self.acknowledge_runs(namespace, names);
        self.wait(Duration::from_secs(1));
        stream
    }

    /// The same up to the acknowledgement, without time.
    pub(super) fn acknowledge_runs(&mut self, namespace: &str, names: impl IntoIterator<Item = String>) -> StreamId {
        let stream = self.attach(subscription_in(namespace, "a"));
        for name in names {
            self.apply(Workflow { namespace: namespace.into(), ..run(&name) });
        }
        while self.ledger.registry.stream(stream).runs.values().any(|run| !run.is_handed_off()) {
            self.answer_all(&model());
            self.acknowledge(stream);
        }
        self.acknowledge(stream);
        stream
    }

    /// The number of patches in flight in a namespace.
    pub(super) fn patches_in(&self, namespace: &str) -> usize {
        self.patches.iter().filter(|patch| *patch.namespace == *namespace).count()
    }

    // === assertions ===

    /// The number of reports of this kind so far.
    pub(super) fn reported(&self, kind: impl Fn(&Report) -> bool) -> usize {
        self.reports.iter().filter(|report| kind(report)).count()
    }

    pub(super) fn has_timer(&self, timer: impl Fn(&Timer) -> bool) -> bool {
        self.ledger.timers.running().any(timer)
    }

    /// Asserts that the ledger remembers nothing and waits for nothing.
    pub(super) fn assert_empty(&self) {
        assert_empty(&self.ledger);
    }
}

/// Asserts that a ledger remembers nothing and waits for nothing.
pub(super) fn assert_empty(ledger: &Ledger) {
    assert_eq!(ledger.timers.running().collect::<Vec<_>>(), Vec::<&Timer>::new());
    assert!(ledger.registry.namespaces.is_empty() && ledger.registry.streams.is_empty(), "{ledger:#?}");
    assert!(ledger.lookups.is_empty(), "{:#?}", ledger.lookups);
    assert!(ledger.ahead.is_empty(), "{:#?}", ledger.ahead);
    assert!(ledger.dirty.is_empty());
    assert_eq!((ledger.flow.unacknowledged.total(), ledger.flow.ready.total()), (0, 0));
    assert!(ledger.registry.idle.is_empty(), "{:?}", ledger.registry.idle);
    ledger.marks.assert_empty();
    ledger.deleted.assert_empty();
}
