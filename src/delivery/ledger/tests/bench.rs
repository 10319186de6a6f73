//! A ledger, and the world around it played by hand.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::super::{Action, Ledger, Lookup, Now, Options, Report, Timer};
use crate::{
    delivery::{MarkError, MarkPatch, StreamId},
    model::{ArtifactTypes, Subscription, Uid, Workflow},
};

pub(super) use crate::delivery::fixtures::*;

/// A lookup under way.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) id: Lookup,
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
    pub(super) again: bool,
}

pub(super) struct Bench {
    pub(super) ledger: Ledger,
    pub(super) now: Now,
    /// The records as the store would hold them.
    pub(super) store: BTreeMap<String, Arc<Workflow>>,
    /// Lookups under way.
    pub(super) asked: Vec<Question>,
    /// Patches under way.
    pub(super) patches: Vec<MarkPatch>,
    /// Every hand-off so far; [`Bench::events`] takes a stream's out.
    pub(super) handed: Vec<Event>,
    pub(super) reports: Vec<Report>,
    pub(super) closed: Vec<StreamId>,
    pub(super) unfollowed: Vec<String>,
    pub(super) forgotten: Vec<Uid>,
    reread: Vec<Arc<str>>,
    last_sequence: BTreeMap<StreamId, u64>,
    next_stream: u64,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with(options: Options) -> Self {
        Self {
            ledger: Ledger::new(options, 7),
            now: Now { instant: Instant::now(), unix: BEGIN },
            store: BTreeMap::new(),
            asked: Vec::new(),
            patches: Vec::new(),
            handed: Vec::new(),
            reports: Vec::new(),
            closed: Vec::new(),
            unfollowed: Vec::new(),
            forgotten: Vec::new(),
            reread: Vec::new(),
            last_sequence: BTreeMap::new(),
            next_stream: 0,
        }
    }

    /// Carries out what the ledger decided. To be called after each input that was given to it directly.
    pub(super) fn settle(&mut self) {
        for action in self.ledger.settle(self.now) {
            match action {
                Action::Lookup { id, workflow, types, attempt } => {
                    self.asked.push(Question { id, run: workflow.name.to_string(), types, attempt });
                }
                Action::HandOff { stream, handoff, workflow, again, .. } => {
                    self.last_sequence.insert(stream, handoff.sequence);
                    self.handed.push(Event {
                        stream,
                        run: workflow.name.to_string(),
                        sequence: handoff.sequence,
                        payload: String::from_utf8(handoff.payload.to_vec()).unwrap(),
                        again,
                    });
                }
                Action::Patch { patch, .. } => self.patches.push(patch),
                Action::Forget(uid) => self.forgotten.push(uid),
                Action::Close(stream) => self.closed.push(stream),
                Action::Reread(namespace) => self.reread.push(namespace),
                Action::Unfollow(namespace) => self.unfollowed.push(namespace.to_string()),
                Action::Report(report) => self.reports.push(report),
            }
        }
        while let Some(namespace) = self.reread.pop() {
            let records: Vec<_> = self.store.values().filter(|record| record.namespace == namespace).cloned().collect();
            self.ledger.reread(&records, self.now);
            self.settle();
        }
    }

    // === the store ===

    pub(super) fn apply(&mut self, workflow: Workflow) {
        let workflow = Arc::new(workflow);
        self.store.insert(workflow.name.to_string(), workflow.clone());
        self.ledger.applied(&workflow, self.now);
        self.settle();
    }

    /// Changes the record that is held.
    pub(super) fn change(&mut self, run: &str, change: impl FnOnce(&mut Workflow)) {
        let mut workflow = Workflow::clone(&self.store[run]);
        change(&mut workflow);
        self.apply(workflow);
    }

    pub(super) fn delete(&mut self, run: &str) {
        let workflow = self.store.remove(run).unwrap();
        self.ledger.gone(&workflow, self.now);
        self.settle();
    }

    // === streams ===

    pub(super) fn attach(&mut self, subscription: Subscription) -> StreamId {
        self.next_stream += 1;
        let id = StreamId(self.next_stream);
        let peer = format!("10.0.0.1:{}", self.next_stream).parse().unwrap();
        let records: Vec<_> =
            self.store.values().filter(|record| record.namespace == subscription.namespace).cloned().collect();
        self.ledger.attached(id, subscription, Some(peer), &records, self.now);
        self.settle();
        id
    }

    pub(super) fn end(&mut self, stream: StreamId) {
        self.ledger.ended(stream, self.now);
        self.settle();
    }

    /// The runs that were handed to a stream since the last call.
    pub(super) fn events(&mut self, stream: StreamId) -> Vec<String> {
        let of_stream = |event: &mut Event| event.stream == stream;
        self.handed.extract_if(.., of_stream).map(|event| event.run).collect()
    }

    /// The peer proves that it has read everything so far.
    pub(super) fn acknowledge(&mut self, stream: StreamId) {
        let sequence = self.last_sequence.get(&stream).copied().unwrap_or_default();
        self.ledger.acknowledged(stream, sequence, self.now);
        self.settle();
    }

    /// The peer proves it, and the stream stays open for long enough.
    pub(super) fn confirm(&mut self, stream: StreamId) {
        self.acknowledge(stream);
        self.wait(Duration::from_secs(1));
    }

    // === lookups ===

    /// The runs whose models are being asked for.
    pub(super) fn questions(&self) -> Vec<&str> {
        self.asked.iter().map(|question| &*question.run).collect()
    }

    /// Answers one question about this run.
    pub(super) fn answer(&mut self, run: &str, answer: Answer) {
        let at = self.asked.iter().position(|question| question.run == run);
        let question = self.asked.remove(at.unwrap_or_else(|| panic!("{run} is not being asked for")));
        self.ledger.answered(question.id, answer, self.now);
        self.settle();
    }

    /// Answers every question, and those that follow at once.
    pub(super) fn answer_all(&mut self, answer: &Answer) {
        while let Some(question) = self.asked.pop() {
            self.ledger.answered(question.id, answer.clone(), self.now);
            self.settle();
        }
    }

    // === patches ===

    /// Takes out the one patch under way.
    pub(super) fn patch(&mut self) -> MarkPatch {
        assert_eq!(self.patches.len(), 1, "{:?}", self.patches);
        self.patches.remove(0)
    }

    pub(super) fn patched(&mut self, patch: MarkPatch, result: Result<(), MarkError>) {
        self.ledger.patched(patch, result, self.now);
        self.settle();
    }

    /// The API server applies every patch, says so, and the watch shows the outcome.
    pub(super) fn write_marks(&mut self) {
        while let Some(patch) = self.patches.pop() {
            let run = patch.name.to_string();
            let applied = self.store.get(&run).map(|workflow| with_patch(workflow, &patch.change));
            self.patched(patch, Ok(()));
            if let Some(workflow) = applied {
                self.apply(workflow);
            }
        }
    }

    // === time ===

    /// Lets time pass, on both clocks, with every timer on the way.
    pub(super) fn wait(&mut self, duration: Duration) {
        let (begin, end) = (self.now, self.now.instant + duration);
        loop {
            let next = self.ledger.next_deadline().filter(|at| *at <= end);
            self.now.instant = next.unwrap_or(end).max(self.now.instant);
            let passed = (self.now.instant - begin.instant).as_secs();
            self.now.unix = begin.unix + i64::try_from(passed).unwrap();
            self.ledger.tick(self.now);
            self.settle();
            if next.is_none() {
                return;
            }
        }
    }

    /// The wall clock is set, and nothing else happens.
    pub(super) fn set_clock(&mut self, by: i64) {
        self.now.unix += by;
        self.ledger.tick(self.now);
        self.settle();
    }

    /// How many of the reports so far are of this kind.
    pub(super) fn reported(&self, kind: impl Fn(&Report) -> bool) -> usize {
        self.reports.iter().filter(|report| kind(report)).count()
    }
}

/// Nothing is remembered, nothing is awaited.
pub(super) fn assert_empty(bench: &Bench) {
    let ledger = &bench.ledger;
    assert_eq!(ledger.timers.running().collect::<Vec<_>>(), Vec::<&Timer>::new());
    assert!(ledger.namespaces.is_empty() && ledger.streams.is_empty(), "{ledger:#?}");
    assert!(ledger.lookups.is_empty(), "{:#?}", ledger.lookups);
    assert_eq!((ledger.marks.len(), ledger.departed.len()), (0, 0));
}
