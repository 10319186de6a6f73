//! An observer who knows the guarantees, sees what the ledger sees, and draws conclusions of its own: what counts as
//! delivered, and so what may go out and be marked. Shares no code with the ledger.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    delivery::{MarkChange, MarkPatch, StreamId},
    model::{Subscription, SubscriptionName, Uid, Workflow},
};

type Consumer = (Arc<str>, SubscriptionName);

/// A delivery that counts.
#[derive(Debug)]
struct Delivered {
    /// When that was so, in the order of events.
    since: u64,
    /// Through a stream of ours, or of another replica.
    ours: bool,
    mark_seen: bool,
}

struct Stream {
    consumer: Consumer,
    attached: u64,
    got: HashSet<Uid>,
    open: Vec<Open>,
}

struct Open {
    sequence: u64,
    uid: Uid,
    acknowledged: Option<Instant>,
    /// The run was restarted meanwhile.
    void: bool,
}

pub(super) struct Witness {
    confirm_after: Duration,
    skip_labelled: bool,
    clock: u64,
    streams: HashMap<StreamId, Stream>,
    delivered: HashMap<Consumer, HashMap<Uid, Delivered>>,
    unmarked: HashSet<(Uid, SubscriptionName)>,
    /// Deleted while an attached stream waited for it.
    departed: HashMap<(Consumer, Uid), Instant>,
    /// May be asked for again only after an hour.
    asked_seldom: HashSet<Uid>,
}

/// A deleted run is kept for an hour, and an unlucky one may be tried only every few minutes.
const SURELY_KEPT: Duration = Duration::from_secs(45 * 60);

impl Witness {
    pub(super) fn new(confirm_after: Duration, skip_labelled: bool) -> Self {
        Self {
            confirm_after,
            skip_labelled,
            clock: 0,
            streams: HashMap::new(),
            delivered: HashMap::new(),
            unmarked: HashSet::new(),
            departed: HashMap::new(),
            asked_seldom: HashSet::new(),
        }
    }

    fn step(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    // === what the ledger is told ===

    /// The store has shown this state of a Workflow.
    pub(super) fn applied(&mut self, workflow: &Workflow) {
        let (uid, step) = (workflow.uid, self.step());
        if !workflow.succeeded() {
            self.delivered.values_mut().for_each(|runs| {
                runs.remove(&uid);
            });
            for stream in self.streams.values_mut() {
                stream.got.remove(&uid);
                stream.open.iter_mut().filter(|open| open.uid == uid).for_each(|open| open.void = true);
            }
            return;
        }
        for mark in workflow.marks.iter().filter(|mark| mark.current) {
            let consumer = (workflow.namespace.clone(), mark.subscription.clone());
            let new = Delivered { since: step, ours: false, mark_seen: true };
            self.delivered.entry(consumer).or_default().entry(uid).or_insert(new).mark_seen = true;
        }
        for (consumer, runs) in &mut self.delivered {
            let marked = workflow.is_marked_for(&consumer.1);
            if consumer.0 == workflow.namespace
                && !marked
                && runs.get(&uid).is_some_and(|delivered| delivered.mark_seen)
            {
                runs.remove(&uid);
                let streams = self.streams.values_mut().filter(|stream| stream.consumer == *consumer);
                streams.for_each(|stream| {
                    stream.got.remove(&uid);
                });
            }
        }
    }

    /// A Workflow with a model was deleted.
    pub(super) fn gone(&mut self, workflow: &Workflow, now: Instant) {
        if !workflow.succeeded() || (self.skip_labelled && workflow.events_published) {
            return;
        }
        for stream in self.streams.values().filter(|stream| stream.consumer.0 == workflow.namespace) {
            if !self.delivered.get(&stream.consumer).is_some_and(|runs| runs.contains_key(&workflow.uid)) {
                self.departed.insert((stream.consumer.clone(), workflow.uid), now);
            }
        }
    }

    pub(super) fn asked_seldom(&mut self, uid: Uid) {
        self.asked_seldom.insert(uid);
    }

    /// From now on everybody does their part: what is kept now is delivered to those who are here.
    pub(super) fn becomes_calm(&mut self, now: Instant) {
        self.departed.retain(|(consumer, uid), since| {
            !self.asked_seldom.contains(uid)
                && now.saturating_duration_since(*since) < SURELY_KEPT
                && self.streams.values().any(|stream| stream.consumer == *consumer)
        });
    }

    pub(super) fn attached(&mut self, id: StreamId, subscription: &Subscription) {
        let consumer = (subscription.namespace.clone(), subscription.name.clone());
        let attached = self.step();
        self.streams.insert(id, Stream { consumer, attached, got: HashSet::new(), open: Vec::new() });
    }

    pub(super) fn ended(&mut self, id: StreamId) {
        self.streams.remove(&id);
    }

    /// The peer acknowledges so many events more. Returns up to which.
    pub(super) fn acknowledged(&mut self, id: StreamId, events: usize, now: Instant) -> Option<u64> {
        let open = &mut self.streams.get_mut(&id)?.open;
        let mut last = None;
        for open in open.iter_mut().filter(|open| open.acknowledged.is_none()).take(events) {
            open.acknowledged = Some(now);
            last = Some(open.sequence);
        }
        last
    }

    pub(super) fn time_passed(&mut self, now: Instant) {
        let step = self.step();
        for stream in self.streams.values_mut() {
            let due = |at: Instant| at + self.confirm_after <= now;
            for open in stream.open.extract_if(.., |open| open.acknowledged.is_some_and(due)) {
                if !open.void {
                    let new = Delivered { since: step, ours: true, mark_seen: false };
                    self.delivered.entry(stream.consumer.clone()).or_default().entry(open.uid).or_insert(new);
                }
            }
        }
    }

    pub(super) fn unmarked_by_hand(&mut self, uid: Uid, subscription: &SubscriptionName) {
        self.unmarked.insert((uid, subscription.clone()));
    }

    /// Everything that was remembered in memory is gone: now only marks count.
    pub(super) fn crashed(&mut self) {
        self.delivered.clear();
        self.streams.clear();
        self.departed.clear();
    }

    pub(super) fn unfollowed(&mut self, namespace: &str) {
        assert!(!self.streams.values().any(|stream| *stream.consumer.0 == *namespace), "somebody listens");
        self.delivered.retain(|consumer, _| *consumer.0 != *namespace);
        self.departed.retain(|(consumer, _), _| *consumer.0 != *namespace);
    }

    // === what the ledger does ===

    /// `record` is the Workflow as the store holds it, if it does.
    pub(super) fn handed_off(&mut self, id: StreamId, sequence: u64, workflow: &Workflow, record: Option<&Workflow>) {
        let uid = workflow.uid;
        let stream = self.streams.get_mut(&id).expect("a hand-off to a stream that has ended");
        assert_eq!(stream.consumer.0, workflow.namespace, "an event of another namespace");
        if let Some(record) = record {
            assert!(record.succeeded(), "an event of a run that has not succeeded");
            assert!(
                !(self.skip_labelled && record.events_published),
                "an event of a run that is labelled as delivered"
            );
        }
        if let Some(delivered) = self.delivered.get(&stream.consumer).and_then(|runs| runs.get(&uid)) {
            let waited_before = stream.attached < delivered.since;
            assert!(delivered.ours && waited_before, "an event that was delivered already: {delivered:?}");
        }
        assert!(stream.got.insert(uid), "a stream gets an event twice");
        let follows = stream.open.last().is_none_or(|last| last.sequence < sequence);
        assert!(follows, "the sequence does not grow");
        stream.open.push(Open { sequence, uid, acknowledged: None, void: false });
    }

    pub(super) fn patching(&self, patch: &MarkPatch) {
        let MarkChange::Set(names) = &patch.change else { return };
        assert!(!names.is_empty(), "an empty patch");
        for name in names {
            let runs = self.delivered.get(&(patch.namespace.clone(), name.clone()));
            let delivered = runs.and_then(|runs| runs.get(&patch.uid));
            assert!(delivered.is_some_and(|delivered| delivered.ours), "a mark for what nobody has confirmed");
        }
    }

    // === the end ===

    /// Deletion took nothing away from those who waited.
    pub(super) fn check_departed(&self) {
        for (consumer, uid) in self.departed.keys() {
            let delivered = self.delivered.get(consumer).is_some_and(|runs| runs.contains_key(uid));
            assert!(delivered, "{uid}, whose Workflow was deleted, was not delivered to {}", consumer.1);
        }
    }

    /// Each subscription that listens has got this run, and that is on record.
    pub(super) fn check_delivered(&self, workflow: &Workflow) {
        if !workflow.succeeded() || (self.skip_labelled && workflow.events_published) {
            return;
        }
        for stream in self.streams.values().filter(|stream| stream.consumer.0 == workflow.namespace) {
            let name = &stream.consumer.1;
            let delivered = self.delivered.get(&stream.consumer).and_then(|runs| runs.get(&workflow.uid));
            assert!(delivered.is_some(), "{} was not delivered to {name}", workflow.name);
            // A mark that was removed before its sight is the one that need not come back: see G2.
            let unmarked = self.unmarked.contains(&(workflow.uid, name.clone()));
            assert!(unmarked || workflow.is_marked_for(name), "{} is not marked for {name}", workflow.name);
        }
    }
}
