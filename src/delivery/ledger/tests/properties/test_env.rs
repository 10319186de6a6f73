//! The true state, and the ledger in it, with the real store between them as in the driver.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;

use self::{
    held::{HeldBytes, ledger, models_of},
    patches::PatchInFlight,
};
use super::{
    super::{
        super::{Action, Ledger, LookupId, Now, Report, Timer},
        harness::{
            BEGIN, assert_empty, encode, model, name, no_model, refused, subscription_in, transient, with_patch,
        },
    },
    oracle::Oracle,
};
use crate::{
    delivery::{LookupError, LookupLimits, MarkChange, MarkError, MarkPatch, Options, PatchLimits, StreamId},
    model::{
        ArtifactTypes, Mark, Phase, PipelineName, RunOutcome, SkipReason, Subscription, SubscriptionName, Uid,
        Workflow, fixtures::succeeded,
    },
    store::{Change, Page, Scope, Store},
};

mod checks;
mod held;
mod patches;
mod watch;

const NAMESPACES: [&str; 2] = ["north", "south"];
const SUBSCRIPTIONS: [&str; 2] = ["a", "b"];
const RUNS: u8 = 4;
const MAX_STREAMS: usize = 6;
const LOOKUPS: LookupLimits = LookupLimits { per_namespace: 2, total: 3 };
const PATCHES: PatchLimits = PatchLimits { per_namespace: 2, total: 3 };

/// An answer of ML Metadata.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    Correct,
    Unavailable,
    NoContext,
    ForeignContext,
}

/// The outcome of a patch.
#[derive(Clone, Copy, Debug)]
pub(super) enum PatchOutcome {
    Applied,
    AppliedUnanswered,
    Lost,
    Refused,
    Conflict,
}

/// A Workflow of the API server.
struct Object {
    workflow: Workflow,
    resource_version: u64,
    /// Its annotations have no room for a mark.
    is_full: bool,
}

/// A change that the watch has not shown yet.
enum Unseen {
    Applied(Workflow),
    Deleted(Workflow),
}

/// A stream that is offered the records of its namespace behind this name.
struct Reader {
    stream: StreamId,
    namespace: Arc<str>,
    after: Option<Box<str>>,
}

struct InFlight {
    id: LookupId,
    workflow: Arc<Workflow>,
}

pub(super) struct TestEnv {
    ledger: Ledger,
    store: Store,
    now: Now,
    options: Options,
    api: BTreeMap<u8, Object>,
    /// Workflows that the selector does not match.
    away: BTreeMap<u8, Object>,
    last_version: u64,
    /// Changes that the watch has not shown yet.
    unseen: VecDeque<Unseen>,
    /// Records that are to be offered to streams.
    readers: VecDeque<Reader>,
    lookups: Vec<InFlight>,
    patches: Vec<PatchInFlight>,
    /// The namespaces whose patches hang.
    hanging: HashSet<&'static str>,
    held: HeldBytes,
    streams: Vec<StreamId>,
    subscriptions: HashMap<StreamId, Subscription>,
    /// The subscriptions of streams that have reached their age, whose clients reconnect.
    reconnecting: Vec<Subscription>,
    next_stream: u64,
    next_uid: u128,
    /// The subscription `b` has `latestOnly`, and all runs are of one pipeline, which their Workflows name.
    latest: bool,
    last_end: i64,
    oracle: Oracle,
}

/// Returns whether the run of this UID has a model.
fn has_model(uid: Uid) -> bool {
    !uid.as_bytes()[15].is_multiple_of(4)
}

impl TestEnv {
    pub(super) fn new(skip_labelled: bool, latest: bool, max_connection_age: Option<Duration>) -> Self {
        let options =
            Options { lookups: LOOKUPS, patches: PATCHES, skip_labelled, max_connection_age, ..Options::default() };
        Self {
            ledger: ledger(&options, 1),
            store: Store::default(),
            now: Now { instant: Instant::now(), unix: BEGIN },
            oracle: Oracle::new(options.confirm_after, skip_labelled),
            options,
            api: BTreeMap::new(),
            away: BTreeMap::new(),
            last_version: 0,
            unseen: VecDeque::new(),
            readers: VecDeque::new(),
            lookups: Vec::new(),
            patches: Vec::new(),
            hanging: HashSet::new(),
            held: HeldBytes::default(),
            streams: Vec::new(),
            subscriptions: HashMap::new(),
            reconnecting: Vec::new(),
            next_stream: 0,
            next_uid: 0,
            latest,
            last_end: BEGIN,
        }
    }

    // === the API server ===

    pub(super) fn succeed(&mut self, run: u8) {
        let run = run % RUNS;
        if self.away.contains_key(&run) {
            return;
        }
        if !self.api.contains_key(&run) {
            self.next_uid += 1;
            let pipeline = if self.latest { PipelineName::Spec } else { PipelineName::Generated };
            let workflow = Workflow {
                namespace: NAMESPACES[usize::from(run) % NAMESPACES.len()].into(),
                name: format!("run-{run}").into(),
                uid: Uid::from(self.next_uid),
                created: BEGIN + i64::from(run),
                phase: Phase::Active,
                ..succeeded(pipeline("penguin".into()))
            };
            self.api.insert(run, Object { workflow, resource_version: 0, is_full: false });
        }
        self.last_end += 1;
        let end = self.last_end;
        self.change(run, |workflow| {
            if !workflow.succeeded() {
                (workflow.phase, workflow.finished) = (Phase::Succeeded, end);
            }
        });
    }

    pub(super) fn restart(&mut self, run: u8) {
        self.change(run, |workflow| workflow.phase = Phase::Active);
    }

    pub(super) fn label(&mut self, run: u8) {
        self.change(run, |workflow| workflow.events_published = !workflow.events_published);
    }

    pub(super) fn mark(&mut self, run: u8, subscription: u8) {
        let mark = Mark { subscription: subscription_name(subscription), outcome: RunOutcome::Succeeded };
        self.change(run, |workflow| {
            if workflow.succeeded() {
                *workflow = with_patch(workflow, &MarkChange::Set(vec![mark]));
            }
        });
    }

    pub(super) fn unmark(&mut self, run: u8, subscription: u8) {
        let name = subscription_name(subscription);
        let Some(object) = self.api.get(&(run % RUNS)) else { return };
        if object.workflow.is_marked_for(&name) {
            self.oracle.unmarked_by_hand(object.workflow.uid, &name);
            let without = |mark: &Mark| mark.subscription != name;
            self.change(run, |workflow| {
                workflow.marks = workflow.marks.iter().filter(|mark| without(mark)).cloned().collect();
            });
        }
    }

    pub(super) fn delete(&mut self, run: u8) {
        if let Some(object) = self.api.remove(&(run % RUNS)) {
            self.unseen.push_back(Unseen::Deleted(object.workflow));
        }
    }

    fn change(&mut self, run: u8, change: impl FnOnce(&mut Workflow)) {
        let run = run % RUNS;
        let is_watched = self.api.contains_key(&run);
        let objects = if is_watched { &mut self.api } else { &mut self.away };
        let Some(object) = objects.get_mut(&run) else { return };
        let before = object.workflow.clone();
        change(&mut object.workflow);
        let unversioned = |workflow: &Workflow| Workflow { marks: workflow.marks.to_vec().into(), ..workflow.clone() };
        object.workflow = unversioned(&object.workflow);
        if object.workflow == unversioned(&before) && object.resource_version > 0 {
            object.workflow = before;
            return;
        }
        self.last_version += 1;
        object.resource_version = self.last_version;
        if object.workflow.is_restarted() {
            object.workflow.marks = object.workflow.marks.at_version(&self.last_version.to_string());
        }
        if is_watched {
            self.unseen.push_back(Unseen::Applied(object.workflow.clone()));
        }
    }

    // === streams ===

    pub(super) fn attach(&mut self, namespace: u8, subscription: u8) {
        if self.streams.len() >= MAX_STREAMS {
            return;
        }
        let namespace = NAMESPACES[usize::from(namespace) % NAMESPACES.len()];
        let mut wanted = subscription_in(namespace, SUBSCRIPTIONS[usize::from(subscription) % SUBSCRIPTIONS.len()]);
        if subscription >= 4 {
            wanted.artifact_types = Arc::new(ArtifactTypes::named(["acme.Model"]));
        }
        wanted.latest_only = self.latest && wanted.name == name(SUBSCRIPTIONS[1]);
        self.attach_subscription(wanted);
    }

    fn attach_subscription(&mut self, wanted: Subscription) {
        self.next_stream += 1;
        let id = StreamId(self.next_stream);
        self.store.follow(&wanted.namespace);
        self.read_journal();
        self.oracle.forget_unseen(&wanted, &self.unwritten(&wanted), self.now.instant);
        self.oracle.attached(id, &wanted);
        self.subscriptions.insert(id, wanted.clone());
        self.ledger.attach(id, wanted, None, self.now);
        self.streams.push(id);
        self.perform_actions();
    }

    pub(super) fn end(&mut self, stream: u8) {
        if let Some(at) = choose(self.streams.len(), stream) {
            let id = self.streams.remove(at);
            self.oracle.ended(id, self.now.instant);
            self.held.ended(id);
            self.ledger.end(id, self.now);
            self.perform_actions();
        }
    }

    pub(super) fn acknowledge(&mut self, stream: u8, events: u8) {
        let Some(at) = choose(self.streams.len(), stream) else { return };
        let id = self.streams[at];
        if let Some(sequence) = self.oracle.acknowledged(id, events.into(), self.now.instant) {
            self.held.acknowledged(id, sequence, self.now.instant);
            self.ledger.handle_ack(id, sequence, self.now);
            self.perform_actions();
        }
    }

    fn acknowledge_all(&mut self) {
        for stream in 0..MAX_STREAMS {
            self.acknowledge(u8::try_from(stream).unwrap(), u8::MAX);
        }
    }

    // === ML Metadata ===

    pub(super) fn answer(&mut self, lookup: u8, reply: Reply) {
        let Some(at) = choose(self.lookups.len(), lookup) else { return };
        let InFlight { id, workflow } = self.lookups.remove(at);
        let answer = match reply {
            Reply::Correct if has_model(workflow.uid) => models_of(workflow.uid),
            Reply::Correct => no_model(),
            Reply::Unavailable => Err(LookupError::Failed { code: "unavailable", message: "down".into() }),
            Reply::NoContext => Err(LookupError::NoContext),
            Reply::ForeignContext => Err(LookupError::ForeignContext { namespace: "other".into() }),
        };
        if matches!(reply, Reply::NoContext | Reply::ForeignContext) {
            self.oracle.retries_slowly(workflow.uid);
        }
        self.ledger.handle_answer(id, answer, self.now);
        self.perform_actions();
    }

    // === time ===

    pub(super) fn wait(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        while let Some(at) = self.ledger.poll_timeout().filter(|at| *at <= end) {
            self.pass(at);
        }
        self.pass(end);
    }

    fn pass(&mut self, at: Instant) {
        self.now.instant = at.max(self.now.instant);
        self.oracle.time_passed(self.now.instant);
        self.ledger.handle_timeout(self.now);
        self.perform_actions();
    }

    pub(super) fn jump(&mut self, seconds: i64) {
        self.now.unix += seconds;
    }

    /// The process is killed and restarted. Some of the patches in flight are still applied.
    pub(super) fn crash(&mut self) {
        let in_flight = std::mem::take(&mut self.patches);
        for patch in in_flight.iter().step_by(2) {
            self.execute(&patch.patch).ok();
        }
        self.ledger = ledger(&self.options, 2);
        self.held = HeldBytes::default();
        self.store = Store::default();
        self.lookups.clear();
        self.readers.clear();
        self.streams.clear();
        self.oracle.crashed();
        self.relist();
    }

    fn perform_actions(&mut self) {
        self.perform_turn();
        while self.ledger.has_more() {
            self.perform_turn();
        }
        while let Some(subscription) = self.reconnecting.pop() {
            self.attach_subscription(subscription);
        }
    }

    fn perform_turn(&mut self) {
        for action in self.ledger.poll_actions(self.now, &encode) {
            match action {
                Action::Lookup { id, workflow, .. } => self.lookups.push(InFlight { id, workflow }),
                Action::LookAhead(workflow) => {
                    self.ledger.handle_answer_ahead(&workflow, &Err(LookupError::NoContext), self.now);
                }
                Action::Patch { patch, .. } => {
                    self.oracle.patching(&patch);
                    self.patches.push(PatchInFlight { patch, begun: self.now.instant });
                }
                Action::HandOff { stream, handoff, workflow, .. } => {
                    assert!(has_model(workflow.uid), "an event without a model");
                    let record = self.store.get(&workflow.namespace, &workflow.name);
                    let record = record.filter(|record| record.uid == workflow.uid);
                    self.oracle.handed_off(stream, handoff.sequence, &workflow, record.as_deref());
                    self.held.handed_off(stream, &handoff, self.now.instant);
                }
                Action::Unfollow(namespace) => {
                    self.oracle.unfollowed(&namespace);
                    self.store.unfollow(&namespace);
                }
                Action::Report(Report::Skipped { subscription, workflow, reason: SkipReason::Superseded }) => {
                    self.oracle.superseded(&subscription, &workflow);
                }
                Action::Forget(_) | Action::Report(_) => {}
                Action::Read { stream, namespace } => {
                    self.readers.push_back(Reader { stream, namespace, after: None });
                }
                Action::Close(stream, reason) => self.closed(stream, reason),
            }
        }
    }

    /// Shows every change, answers every lookup, and acknowledges every event.
    pub(super) fn progress(&mut self) {
        self.watch(usize::MAX);
        self.read_all();
        while !self.lookups.is_empty() {
            self.answer(0, Reply::Correct);
        }
        self.acknowledge_all();
    }

    /// Lets time pass in which every peer answers at once.
    pub(super) fn run_without_faults(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        self.hanging.clear();
        self.oracle.faults_end(self.now.instant);
        loop {
            self.watch(usize::MAX);
            self.read_all();
            self.acknowledge_all();
            if !self.lookups.is_empty() {
                self.answer(0, Reply::Correct);
            } else if !self.patches.is_empty() {
                self.patch(0, PatchOutcome::Applied);
            } else if self.unseen.is_empty() {
                match self.ledger.poll_timeout().filter(|at| *at <= end) {
                    Some(at) => self.pass(at),
                    None => break,
                }
            }
            self.check_bounds();
        }
        self.wait(end.saturating_duration_since(self.now.instant));
    }

    /// Ends every stream, deletes every Workflow, and lets time pass.
    pub(super) fn close(&mut self) {
        while !self.streams.is_empty() {
            self.end(0);
        }
        (0..RUNS).for_each(|run| self.delete(run));
        self.away.clear();
        self.run_without_faults(Duration::from_secs(3 * 3600));
    }
}

fn choose(of: usize, number: u8) -> Option<usize> {
    (of > 0).then(|| usize::from(number) % of)
}

fn subscription_name(number: u8) -> SubscriptionName {
    name(SUBSCRIPTIONS[usize::from(number) % SUBSCRIPTIONS.len()])
}
