//! What is true, and the ledger in it, with the real store between them as the driver has it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;

use super::{
    super::{
        super::{Action, Ledger, Lookup, Now, Options, Timer},
        bench::{BEGIN, elsewhere, model, name, no_model, transient, with_patch},
    },
    witness::Witness,
};
use crate::{
    delivery::{LookupError, MarkChange, MarkError, MarkPatch, StreamId},
    model::{Mark, Phase, PipelineName, SubscriptionName, Uid, Workflow},
    store::{Change, Scope, Store},
};

mod checks;

const NAMESPACES: [&str; 2] = ["north", "south"];
const SUBSCRIPTIONS: [&str; 2] = ["a", "b"];
const RUNS: u8 = 4;
const MAX_STREAMS: usize = 6;
const LOOKUPS: (usize, usize) = (2, 3);
const PATCHES: usize = 3;

/// How ML Metadata answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    Truth,
    Unavailable,
    NoContext,
    ForeignContext,
}

/// What becomes of a patch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Done,
    /// Applied, but nobody hears of it.
    DoneButLost,
    Lost,
    Refused,
    Conflict,
}

/// A Workflow as the API server holds it.
struct Object {
    workflow: Workflow,
    resource_version: u64,
}

struct Question {
    id: Lookup,
    workflow: Arc<Workflow>,
}

pub(super) struct World {
    ledger: Ledger,
    store: Store,
    now: Now,
    options: Options,
    api: BTreeMap<u8, Object>,
    last_version: u64,
    /// What the watch has not shown yet.
    coming: VecDeque<Change>,
    questions: Vec<Question>,
    patches: Vec<MarkPatch>,
    streams: Vec<StreamId>,
    next_stream: u64,
    next_uid: u128,
    witness: Witness,
}

/// Whether the run of this UID has put out a model.
fn has_model(uid: Uid) -> bool {
    !uid.as_bytes()[15].is_multiple_of(4)
}

impl World {
    pub(super) fn new(skip_labelled: bool) -> Self {
        let options = Options { lookups: LOOKUPS, patches: PATCHES, skip_labelled, ..Options::default() };
        Self {
            ledger: Ledger::new(options.clone(), 1),
            store: Store::default(),
            now: Now { instant: Instant::now(), unix: BEGIN },
            witness: Witness::new(options.confirm_after, skip_labelled),
            options,
            api: BTreeMap::new(),
            last_version: 0,
            coming: VecDeque::new(),
            questions: Vec::new(),
            patches: Vec::new(),
            streams: Vec::new(),
            next_stream: 0,
            next_uid: 0,
        }
    }

    // === the API server ===

    pub(super) fn succeed(&mut self, run: u8) {
        let run = run % RUNS;
        if !self.api.contains_key(&run) {
            self.next_uid += 1;
            let workflow = Workflow {
                namespace: NAMESPACES[usize::from(run) % NAMESPACES.len()].into(),
                name: format!("run-{run}").into(),
                uid: Uid::from(self.next_uid),
                created: BEGIN + i64::from(run),
                phase: Phase::Other,
                events_published: false,
                pipeline: PipelineName::Generated("penguin".into()),
                run_id: None,
                trace_id: None,
                marks: [].into(),
                resource_version: None,
            };
            self.api.insert(run, Object { workflow, resource_version: 0 });
        }
        self.change(run, |workflow| workflow.phase = Phase::Succeeded);
    }

    pub(super) fn restart(&mut self, run: u8) {
        self.change(run, |workflow| workflow.phase = Phase::Other);
    }

    pub(super) fn label(&mut self, run: u8) {
        self.change(run, |workflow| workflow.events_published = !workflow.events_published);
    }

    pub(super) fn mark(&mut self, run: u8, subscription: u8) {
        let subscriptions = vec![subscription_name(subscription)];
        self.change(run, |workflow| {
            if workflow.succeeded() {
                *workflow = with_patch(workflow, &MarkChange::Set(subscriptions));
            }
        });
    }

    pub(super) fn unmark(&mut self, run: u8, subscription: u8) {
        let name = subscription_name(subscription);
        let Some(object) = self.api.get(&(run % RUNS)) else { return };
        if object.workflow.is_marked_for(&name) {
            self.witness.unmarked_by_hand(object.workflow.uid, &name);
            let without = |mark: &Mark| mark.subscription != name;
            self.change(run, |workflow| {
                workflow.marks = workflow.marks.iter().filter(|mark| without(mark)).cloned().collect();
            });
        }
    }

    pub(super) fn delete(&mut self, run: u8) {
        if let Some(object) = self.api.remove(&(run % RUNS)) {
            self.coming.push_back(Change::Gone(Arc::new(object.workflow)));
        }
    }

    fn change(&mut self, run: u8, change: impl FnOnce(&mut Workflow)) {
        let Some(object) = self.api.get_mut(&(run % RUNS)) else { return };
        let before = object.workflow.clone();
        change(&mut object.workflow);
        object.workflow.resource_version = before.resource_version.clone();
        if object.workflow == before && object.resource_version > 0 {
            return;
        }
        self.last_version += 1;
        object.resource_version = self.last_version;
        let restarted = object.workflow.is_restarted();
        object.workflow.resource_version = restarted.then(|| self.last_version.to_string().into());
        self.coming.push_back(Change::Applied(Arc::new(object.workflow.clone())));
    }

    /// Applies a patch as the API server would.
    fn execute(&mut self, patch: &MarkPatch) -> Result<(), MarkError> {
        let found = self.api.iter().find(|(_, object)| object.workflow.uid == patch.uid);
        let (run, object) = found.ok_or(MarkError::Gone)?;
        if let MarkChange::Remove { resource_version, .. } = &patch.change
            && **resource_version != *object.resource_version.to_string()
        {
            return Err(MarkError::Conflict);
        }
        self.change(*run, |workflow| *workflow = with_patch(workflow, &patch.change));
        Ok(())
    }

    pub(super) fn patch(&mut self, patch: u8, fate: Fate) {
        let Some(at) = choose(self.patches.len(), patch) else { return };
        let patch = self.patches.remove(at);
        let result = match fate {
            Fate::Done => self.execute(&patch),
            Fate::DoneButLost => {
                self.execute(&patch).ok();
                transient()
            }
            Fate::Lost => transient(),
            Fate::Refused => Err(MarkError::Refused { status: 403, message: "forbidden".into() }),
            Fate::Conflict => Err(MarkError::Conflict),
        };
        self.ledger.patched(patch, result, self.now);
        self.settle();
    }

    // === the watch ===

    pub(super) fn watch(&mut self, events: usize) {
        for _ in 0..events {
            match self.coming.pop_front() {
                Some(Change::Applied(workflow)) => self.store.apply(Workflow::clone(&workflow)),
                Some(Change::Gone(workflow)) => {
                    self.store.delete(&workflow.namespace, &workflow.name, workflow.uid);
                }
                None => return,
            }
            self.read_journal();
        }
    }

    /// The watch breaks and lists anew: what lies between is never seen.
    pub(super) fn relist(&mut self) {
        self.coming.clear();
        let list = self.store.begin_list(Scope::All);
        self.api.values().for_each(|object| self.store.apply(object.workflow.clone()));
        self.store.finish_list(list);
        self.read_journal();
    }

    fn read_journal(&mut self) {
        let changes = self.store.changes().now_or_never().unwrap_or_default();
        self.changed(&changes);
        self.settle();
    }

    fn changed(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Applied(workflow) => {
                    self.witness.applied(workflow);
                    self.ledger.applied(workflow, self.now);
                }
                Change::Gone(workflow) => {
                    if has_model(workflow.uid) {
                        self.witness.gone(workflow, self.now.instant);
                    }
                    self.ledger.gone(workflow, self.now);
                }
            }
        }
    }

    // === streams ===

    pub(super) fn attach(&mut self, namespace: u8, subscription: u8) {
        if self.streams.len() >= MAX_STREAMS {
            return;
        }
        self.next_stream += 1;
        let id = StreamId(self.next_stream);
        let namespace = NAMESPACES[usize::from(namespace) % NAMESPACES.len()];
        let wanted = elsewhere(namespace, SUBSCRIPTIONS[usize::from(subscription) % SUBSCRIPTIONS.len()]);
        let (changes, records) = self.store.follow(&wanted.namespace);
        self.changed(&changes);
        records.iter().for_each(|record| self.witness.applied(record));
        self.witness.attached(id, &wanted);
        self.ledger.attached(id, wanted, None, &records, self.now);
        self.streams.push(id);
        self.settle();
    }

    pub(super) fn end(&mut self, stream: u8) {
        if let Some(at) = choose(self.streams.len(), stream) {
            let id = self.streams.remove(at);
            self.witness.ended(id);
            self.ledger.ended(id, self.now);
            self.settle();
        }
    }

    pub(super) fn acknowledge(&mut self, stream: u8, events: u8) {
        let Some(at) = choose(self.streams.len(), stream) else { return };
        let id = self.streams[at];
        if let Some(sequence) = self.witness.acknowledged(id, events.into(), self.now.instant) {
            self.ledger.acknowledged(id, sequence, self.now);
            self.settle();
        }
    }

    // === ML Metadata ===

    pub(super) fn answer(&mut self, question: u8, reply: Reply) {
        let Some(at) = choose(self.questions.len(), question) else { return };
        let Question { id, workflow } = self.questions.remove(at);
        let answer = match reply {
            Reply::Truth if has_model(workflow.uid) => model(),
            Reply::Truth => no_model(),
            Reply::Unavailable => Err(LookupError::Failed { code: "unavailable", message: "down".into() }),
            Reply::NoContext => Err(LookupError::NoContext),
            Reply::ForeignContext => Err(LookupError::ForeignContext { namespace: "other".into() }),
        };
        if matches!(reply, Reply::NoContext | Reply::ForeignContext) {
            self.witness.asked_seldom(workflow.uid);
        }
        self.ledger.answered(id, answer, self.now);
        self.settle();
    }

    // === time ===

    pub(super) fn wait(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        while let Some(at) = self.ledger.next_deadline().filter(|at| *at <= end) {
            self.pass(at);
        }
        self.pass(end);
    }

    fn pass(&mut self, at: Instant) {
        self.now.instant = at.max(self.now.instant);
        self.witness.time_passed(self.now.instant);
        self.ledger.tick(self.now);
        self.settle();
    }

    pub(super) fn jump(&mut self, seconds: i64) {
        self.now.unix += seconds;
    }

    /// The process dies and starts anew. Some of the patches under way may still have been applied.
    pub(super) fn crash(&mut self) {
        let under_way = std::mem::take(&mut self.patches);
        for patch in under_way.iter().step_by(2) {
            self.execute(patch).ok();
        }
        self.ledger = Ledger::new(self.options.clone(), 2);
        self.store = Store::default();
        self.questions.clear();
        self.streams.clear();
        self.witness.crashed();
        self.relist();
    }

    fn settle(&mut self) {
        for action in self.ledger.settle(self.now) {
            match action {
                Action::Lookup { id, workflow, .. } => self.questions.push(Question { id, workflow }),
                Action::Patch { patch, .. } => {
                    self.witness.patching(&patch);
                    self.patches.push(patch);
                }
                Action::HandOff { stream, handoff, workflow, .. } => {
                    assert!(has_model(workflow.uid), "an event without a model");
                    let record = self.store.get(&workflow.namespace, &workflow.name);
                    let record = record.filter(|record| record.uid == workflow.uid);
                    self.witness.handed_off(stream, handoff.sequence, &workflow, record.as_deref());
                }
                Action::Unfollow(namespace) => {
                    self.witness.unfollowed(&namespace);
                    self.store.unfollow(&namespace);
                }
                Action::Forget(_) | Action::Report(_) => {}
                Action::Reread(namespace) => panic!("{namespace} is read again though nobody has a limit of age"),
                Action::Close(stream) => panic!("{stream:?} was closed though nobody drains"),
            }
        }
    }

    /// For a moment everybody but the API server's patches does their part.
    pub(super) fn go_smoothly(&mut self) {
        self.watch(usize::MAX);
        while !self.questions.is_empty() {
            self.answer(0, Reply::Truth);
        }
        for stream in 0..MAX_STREAMS {
            self.acknowledge(u8::try_from(stream).unwrap(), u8::MAX);
        }
    }

    // === what must hold ===

    /// Good weather: every neighbour does its part at once.
    pub(super) fn calm(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        self.witness.becomes_calm(self.now.instant);
        loop {
            self.watch(usize::MAX);
            for stream in 0..MAX_STREAMS {
                self.acknowledge(u8::try_from(stream).unwrap(), u8::MAX);
            }
            if !self.questions.is_empty() {
                self.answer(0, Reply::Truth);
            } else if !self.patches.is_empty() {
                self.patch(0, Fate::Done);
            } else if self.coming.is_empty() {
                match self.ledger.next_deadline().filter(|at| *at <= end) {
                    Some(at) => self.pass(at),
                    None => break,
                }
            }
            self.check_bounds();
        }
        self.wait(end.saturating_duration_since(self.now.instant));
    }

    /// Every stream ends, every Workflow is deleted, and time passes.
    pub(super) fn close(&mut self) {
        while !self.streams.is_empty() {
            self.end(0);
        }
        (0..RUNS).for_each(|run| self.delete(run));
        self.calm(Duration::from_secs(3 * 3600));
    }
}

fn choose(of: usize, number: u8) -> Option<usize> {
    (of > 0).then(|| usize::from(number) % of)
}

fn subscription_name(number: u8) -> SubscriptionName {
    name(SUBSCRIPTIONS[usize::from(number) % SUBSCRIPTIONS.len()])
}
