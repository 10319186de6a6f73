//! An observer that knows the guarantees and sees the ledger's inputs. It concludes on its own which runs are delivered,
//! and so which events and marks are allowed. It shares no code with the ledger.

mod latest;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use self::latest::NewestRuns;
use crate::{
    delivery::{MarkChange, MarkPatch, StreamId},
    model::{Subscription, SubscriptionName, Uid, Workflow},
};

/// A subscription of a namespace.
type Claimant = (Arc<str>, SubscriptionName);

/// A recorded delivery.
#[derive(Debug)]
struct Delivered {
    /// The step at which it was recorded.
    since: u64,
    /// It was made by this process, not by another replica.
    by_us: bool,
    mark_seen: bool,
}

struct Stream {
    claimant: Claimant,
    attached: u64,
    received: HashSet<Uid>,
    sent: Vec<Sent>,
}

struct Sent {
    sequence: u64,
    uid: Uid,
    acknowledged: Option<Instant>,
    /// The run was restarted since.
    cancelled: bool,
}

pub(super) struct Oracle {
    confirm_after: Duration,
    skip_labelled: bool,
    last_step: u64,
    streams: HashMap<StreamId, Stream>,
    delivered: HashMap<Claimant, HashMap<Uid, Delivered>>,
    /// Deliveries that the ledger has confirmed and may mark. Patches that fail are retried even if the namespace has had
    /// no stream for long, when all else about its deliveries is forgotten.
    confirmed: HashSet<(Claimant, Uid)>,
    unmarked: HashSet<(Uid, SubscriptionName)>,
    /// Runs whose Workflow was deleted or has left the selector, and the time of that.
    gone: HashMap<Uid, Instant>,
    /// The time of the end of the last stream of subscriptions without one.
    detached: HashMap<Claimant, Instant>,
    /// Runs deleted while they were pending for an attached stream.
    deleted: HashMap<(Claimant, Uid), Instant>,
    /// Runs whose next lookup may be due only after an hour.
    slowly_retried: HashSet<Uid>,
    newest: NewestRuns,
}

/// The time for which deliveries are remembered of a run that was deleted, and of a subscription without a stream.
const RETENTION: Duration = Duration::from_secs(3600);
/// The age up to which a deleted run is certainly delivered: it is kept for an hour, and may be quarantined.
const CERTAIN_RETENTION: Duration = Duration::from_secs(45 * 60);

impl Oracle {
    pub(super) fn new(confirm_after: Duration, skip_labelled: bool) -> Self {
        Self {
            confirm_after,
            skip_labelled,
            last_step: 0,
            streams: HashMap::new(),
            delivered: HashMap::new(),
            confirmed: HashSet::new(),
            unmarked: HashSet::new(),
            gone: HashMap::new(),
            detached: HashMap::new(),
            deleted: HashMap::new(),
            slowly_retried: HashSet::new(),
            newest: NewestRuns::default(),
        }
    }

    fn step(&mut self) -> u64 {
        self.last_step += 1;
        self.last_step
    }

    // === inputs of the ledger ===

    /// The store has shown this state of a Workflow.
    pub(super) fn applied(&mut self, workflow: &Workflow, now: Instant) {
        let (uid, step) = (workflow.uid, self.step());
        if let Some(since) = self.gone.remove(&uid) {
            self.deleted.retain(|(_, deleted), _| *deleted != uid);
            if now.saturating_duration_since(since) >= RETENTION {
                self.delivered.values_mut().for_each(|runs| runs.retain(|run, it| *run != uid || it.mark_seen));
                self.streams.values_mut().for_each(|stream| {
                    stream.received.remove(&uid);
                });
            }
        }
        if !workflow.succeeded() {
            self.delivered.values_mut().for_each(|runs| {
                runs.remove(&uid);
            });
            self.confirmed.retain(|(_, run)| *run != uid);
            for stream in self.streams.values_mut() {
                stream.received.remove(&uid);
                stream.sent.iter_mut().filter(|event| event.uid == uid).for_each(|event| event.cancelled = true);
            }
            return;
        }
        for mark in workflow.marks.iter() {
            let claimant = (workflow.namespace.clone(), mark.subscription.clone());
            self.newest.marked(&claimant, workflow);
            let new = Delivered { since: step, by_us: false, mark_seen: true };
            self.delivered.entry(claimant).or_default().entry(uid).or_insert(new).mark_seen = true;
        }
        for (claimant, runs) in &mut self.delivered {
            let marked = workflow.is_marked_for(&claimant.1);
            if claimant.0 == workflow.namespace
                && !marked
                && runs.get(&uid).is_some_and(|delivered| delivered.mark_seen)
            {
                runs.remove(&uid);
                self.confirmed.remove(&(claimant.clone(), uid));
                let streams = self.streams.values_mut().filter(|stream| stream.claimant == *claimant);
                streams.for_each(|stream| {
                    stream.received.remove(&uid);
                });
            }
        }
    }

    /// A Workflow was deleted, or has left the selector. A stream that attaches may learn of its marks only now.
    pub(super) fn gone(&mut self, workflow: &Workflow, now: Instant) {
        self.gone.insert(workflow.uid, now);
        for mark in workflow.marks.iter().filter(|_| workflow.succeeded()) {
            self.newest.marked(&(workflow.namespace.clone(), mark.subscription.clone()), workflow);
        }
    }

    /// The same for one with a model.
    pub(super) fn deleted(&mut self, workflow: &Workflow, now: Instant) {
        if !workflow.succeeded() || (self.skip_labelled && workflow.events_published) {
            return;
        }
        for stream in self.streams.values().filter(|stream| stream.claimant.0 == workflow.namespace) {
            let delivered = self.delivered.get(&stream.claimant).is_some_and(|runs| runs.contains_key(&workflow.uid));
            if !delivered && !workflow.is_marked_for(&stream.claimant.1) {
                self.deleted.insert((stream.claimant.clone(), workflow.uid), now);
            }
        }
    }

    pub(super) fn retries_slowly(&mut self, uid: Uid) {
        self.slowly_retried.insert(uid);
    }

    /// No more faults follow: every deleted run that is kept now will be delivered to the attached streams.
    pub(super) fn faults_end(&mut self, now: Instant) {
        self.deleted.retain(|(claimant, uid), since| {
            !self.slowly_retried.contains(uid)
                && now.saturating_duration_since(*since) < CERTAIN_RETENTION
                && self.streams.values().any(|stream| stream.claimant == *claimant)
        });
    }

    pub(super) fn attached(&mut self, id: StreamId, subscription: &Subscription) {
        let claimant = (subscription.namespace.clone(), subscription.name.clone());
        let attached = self.step();
        self.detached.remove(&claimant);
        if subscription.latest_only {
            self.newest.attached(id, &claimant);
        }
        self.streams.insert(id, Stream { claimant, attached, received: HashSet::new(), sent: Vec::new() });
    }

    pub(super) fn ended(&mut self, id: StreamId, now: Instant) {
        let Some(Stream { claimant, .. }) = self.streams.remove(&id) else { return };
        self.newest.ended(id);
        if self.streams.values().all(|stream| stream.claimant != claimant) {
            self.detached.insert(claimant, now);
        }
    }

    /// Forgets the deliveries of a subscription that has had no stream for long, if their marks were not seen:
    /// they were written, or the Workflow is gone. `unwritten` has the runs that are there without a mark.
    pub(super) fn forget_unseen(&mut self, subscription: &Subscription, unwritten: &HashSet<Uid>, now: Instant) {
        let claimant = (subscription.namespace.clone(), subscription.name.clone());
        let since = self.detached.get(&claimant);
        if since.is_some_and(|since| now.saturating_duration_since(*since) >= RETENTION) {
            self.newest.forget(|forgotten| *forgotten == claimant);
            let runs = self.delivered.entry(claimant).or_default();
            runs.retain(|run, delivered| delivered.mark_seen || unwritten.contains(run));
        }
    }

    /// The peer acknowledges this number of further events. Returns the last one.
    pub(super) fn acknowledged(&mut self, id: StreamId, events: usize, now: Instant) -> Option<u64> {
        let sent = &mut self.streams.get_mut(&id)?.sent;
        let mut last = None;
        for event in sent.iter_mut().filter(|event| event.acknowledged.is_none()).take(events) {
            event.acknowledged = Some(now);
            last = Some(event.sequence);
        }
        last
    }

    pub(super) fn time_passed(&mut self, now: Instant) {
        let step = self.step();
        let mut confirmed = Vec::new();
        for stream in self.streams.values_mut() {
            let due = |at: Instant| at + self.confirm_after <= now;
            for event in stream.sent.extract_if(.., |event| event.acknowledged.is_some_and(due)) {
                if !event.cancelled {
                    confirmed.push((stream.claimant.clone(), event.uid));
                }
            }
        }
        confirmed.into_iter().for_each(|(claimant, uid)| self.confirm(claimant, uid, step));
    }

    /// Records a delivery by the ledger, unless it is known from a mark.
    fn confirm(&mut self, claimant: Claimant, uid: Uid, step: u64) {
        let new = Delivered { since: step, by_us: true, mark_seen: false };
        if self.delivered.entry(claimant.clone()).or_default().entry(uid).or_insert(new).by_us {
            self.confirmed.insert((claimant, uid));
        }
    }

    pub(super) fn unmarked_by_hand(&mut self, uid: Uid, subscription: &SubscriptionName) {
        self.unmarked.insert((uid, subscription.clone()));
    }

    /// The memory is lost: only marks count from now on.
    pub(super) fn crashed(&mut self) {
        self.delivered.clear();
        self.confirmed.clear();
        self.streams.clear();
        self.deleted.clear();
        self.gone.clear();
        self.detached.clear();
        self.newest = NewestRuns::default();
    }

    pub(super) fn unfollowed(&mut self, namespace: &str) {
        assert!(!self.streams.values().any(|stream| *stream.claimant.0 == *namespace), "a stream is attached");
        self.delivered.retain(|claimant, _| *claimant.0 != *namespace);
        self.newest.forget(|claimant| *claimant.0 == *namespace);
        self.deleted.retain(|(claimant, _), _| *claimant.0 != *namespace);
    }

    // === actions of the ledger ===

    /// Checks a hand-off. `record` is the Workflow in the store.
    pub(super) fn handed_off(&mut self, id: StreamId, sequence: u64, workflow: &Workflow, record: Option<&Workflow>) {
        let uid = workflow.uid;
        let stream = self.streams.get_mut(&id).expect("a hand-off to a stream that has ended");
        assert_eq!(stream.claimant.0, workflow.namespace, "an event of another namespace");
        if let Some(record) = record {
            assert!(record.succeeded(), "an event of a run that has not succeeded");
            assert!(
                !(self.skip_labelled && record.events_published),
                "an event of a run that is labelled as delivered"
            );
        }
        if let Some(delivered) = self.delivered.get(&stream.claimant).and_then(|runs| runs.get(&uid)) {
            let attached_before = stream.attached < delivered.since;
            assert!(delivered.by_us && attached_before, "an event that was delivered already: {delivered:?}");
        }
        assert!(stream.received.insert(uid), "a stream received an event twice");
        let grows = stream.sent.last().is_none_or(|last| last.sequence < sequence);
        assert!(grows, "the sequence does not grow");
        stream.sent.push(Sent { sequence, uid, acknowledged: None, cancelled: false });
        self.newest.handed_off(id, workflow);
    }

    pub(super) fn patching(&self, patch: &MarkPatch) {
        let MarkChange::Set(marks) = &patch.change else { return };
        assert!(!marks.is_empty(), "an empty patch");
        for mark in marks {
            let claimant = (patch.namespace.clone(), mark.subscription.clone());
            assert!(self.confirmed.contains(&(claimant, patch.uid)), "a mark for an unconfirmed run");
        }
    }

    /// The client of a stream moves to another replica, which knows of deliveries only from marks.
    pub(super) fn check_movable(&self, id: StreamId, record: &Workflow) {
        let stream = &self.streams[&id];
        assert!(stream.sent.is_empty(), "an event is not confirmed");
        let delivered = self.delivered.get(&stream.claimant).and_then(|runs| runs.get(&record.uid));
        if stream.claimant.0 == record.namespace && record.succeeded() && delivered.is_some() {
            assert!(record.is_marked_for(&stream.claimant.1), "the mark of {} was not seen", record.name);
        }
    }

    // === the end ===

    /// Every run deleted while it was pending was delivered.
    pub(super) fn check_deleted(&self) {
        for (claimant, uid) in self.deleted.keys() {
            let delivered = self.delivered.get(claimant).is_some_and(|runs| runs.contains_key(uid));
            assert!(delivered, "{uid}, whose Workflow was deleted, was not delivered to {}", claimant.1);
        }
    }

    /// The run was delivered to every subscription with a stream, and marked.
    pub(super) fn check_delivered(&self, workflow: &Workflow) {
        if !workflow.succeeded() || (self.skip_labelled && workflow.events_published) {
            return;
        }
        for stream in self.streams.values().filter(|stream| stream.claimant.0 == workflow.namespace) {
            let name = &stream.claimant.1;
            let delivered = self.delivered.get(&stream.claimant).and_then(|runs| runs.get(&workflow.uid));
            assert!(delivered.is_some(), "{} was not delivered to {name}", workflow.name);
            // A mark that was removed before it was seen need not be written again: see G2.
            let unmarked = self.unmarked.contains(&(workflow.uid, name.clone()));
            assert!(unmarked || workflow.is_marked_for(name), "{} is not marked for {name}", workflow.name);
        }
    }
}
