//! One stream: which runs it is to get, and how far each has come.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    delivery::{Handoff, MAX_UNACKNOWLEDGED},
    model::{RunModels, Subscription, Uid, Workflow},
};

/// How many octets of payload may wait for their acknowledgement; one event always may.
const MAX_UNACKNOWLEDGED_OCTETS: usize = 4 * 1024 * 1024;
/// How many runs with an answer may wait to be handed off: enough to keep a fast reader busy.
const MAX_READY: usize = MAX_UNACKNOWLEDGED;
/// How often a stream may end on a run before the run has to go behind the others.
pub(super) const MAX_STRIKES: u32 = 3;

/// How long a run that was open at so many ends of its stream is not tried again. An event that kills its client must
/// not keep it from reading the others: not at once, and not every few seconds for ever.
pub(super) fn pause_after(strikes: u32) -> Duration {
    match strikes.checked_sub(MAX_STRIKES) {
        None => Duration::ZERO,
        Some(more) => Duration::from_secs(10 << more.min(8)),
    }
}

/// How far a run has come in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Its models are not known.
    Unasked,
    /// Its models have been asked for.
    Asked,
    /// Its models are known.
    Ready,
    /// It was handed off and is not confirmed.
    Open,
    /// It is nothing for this stream.
    Declined,
}

/// Oldest first; the UID makes two runs of one second distinct.
type Age = (i64, Uid);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) workflow: Arc<Workflow>,
    /// When the run was put before this stream.
    pub(super) offered: Instant,
    /// When it was handed off.
    pub(super) handed_off: Option<Instant>,
    /// Whether its delivery is on record already, through a sibling of this stream or another replica.
    pub(super) elsewhere: bool,
    found: Option<Arc<RunModels>>,
    sequence: u64,
}

#[derive(Debug)]
struct Unacknowledged {
    sequence: u64,
    uid: Uid,
    octets: usize,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) subscription: Subscription,
    pub(super) peer: Option<SocketAddr>,
    pub(super) runs: HashMap<Uid, Entry>,
    unasked: BTreeSet<Age>,
    ready: BTreeSet<Age>,
    /// Ready, too, but behind the others, because streams ended on them.
    struck: BTreeSet<Age>,
    unacknowledged: VecDeque<Unacknowledged>,
    octets: usize,
    /// Acknowledged, and from when on that counts.
    acknowledged: VecDeque<(Instant, u64, Uid)>,
    sequence: u64,
}

impl Stream {
    pub(super) fn new(subscription: Subscription, peer: Option<SocketAddr>) -> Self {
        Self {
            subscription,
            peer,
            runs: HashMap::new(),
            unasked: BTreeSet::new(),
            ready: BTreeSet::new(),
            struck: BTreeSet::new(),
            unacknowledged: VecDeque::new(),
            octets: 0,
            acknowledged: VecDeque::new(),
            sequence: 0,
        }
    }

    pub(super) fn insert(&mut self, workflow: Arc<Workflow>, now: Instant) {
        self.unasked.insert(age(&workflow));
        self.runs.insert(
            workflow.uid,
            Entry {
                place: Place::Unasked,
                workflow,
                offered: now,
                handed_off: None,
                elsewhere: false,
                found: None,
                sequence: 0,
            },
        );
    }

    /// The run is not to be sent. If it is under way already, its acknowledgement will mean nothing.
    pub(super) fn remove(&mut self, uid: Uid) {
        if let Some(entry) = self.runs.remove(&uid) {
            let age = age(&entry.workflow);
            self.unasked.remove(&age);
            self.ready.remove(&age);
            self.struck.remove(&age);
        }
    }

    /// The run is not to be sent, for a reason that would be found again: so it is remembered.
    pub(super) fn decline(&mut self, uid: Uid) {
        if let Some(entry) = self.runs.get_mut(&uid) {
            entry.place = Place::Declined;
            entry.found = None;
            let age = age(&entry.workflow);
            self.ready.remove(&age);
            self.struck.remove(&age);
        }
    }

    // === lookups ===

    /// Whether it is of use to ask for the models of another run now.
    pub(super) fn is_hungry(&self) -> bool {
        !self.unasked.is_empty() && self.ready.len() < MAX_READY
    }

    /// Takes the oldest run whose models nobody has asked for.
    pub(super) fn next_to_ask(&mut self) -> Option<Arc<Workflow>> {
        if !self.is_hungry() {
            return None;
        }
        let (_, uid) = self.unasked.pop_first()?;
        let entry = self.runs.get_mut(&uid)?;
        entry.place = Place::Asked;
        Some(entry.workflow.clone())
    }

    /// The runs whose models have been asked for.
    pub(super) fn asked(&self) -> impl Iterator<Item = Uid> {
        self.runs.iter().filter(|(_, entry)| entry.place == Place::Asked).map(|(uid, _)| *uid)
    }

    /// The models of a run are known.
    pub(super) fn found(&mut self, uid: Uid, models: &Arc<RunModels>, strikes: u32) {
        let Some(entry) = self.runs.get_mut(&uid).filter(|entry| entry.place == Place::Asked) else { return };
        entry.place = Place::Ready;
        entry.found = Some(models.clone());
        let line = if strikes < MAX_STRIKES { &mut self.ready } else { &mut self.struck };
        line.insert(age(&entry.workflow));
    }

    // === hand-offs ===

    /// Whether another hand-off may wait for its acknowledgement.
    pub(super) fn has_room(&self) -> bool {
        self.unacknowledged.len() < MAX_UNACKNOWLEDGED
            && (self.octets < MAX_UNACKNOWLEDGED_OCTETS || self.unacknowledged.is_empty())
    }

    /// Whether a hand-off of this stream is not confirmed.
    pub(super) fn has_open(&self) -> bool {
        !self.unacknowledged.is_empty() || !self.acknowledged.is_empty()
    }

    /// The oldest run that is ready.
    pub(super) fn next_ready(&self) -> Option<(Arc<Workflow>, Arc<RunModels>)> {
        self.ready_run(self.ready.first()?.1)
    }

    /// The runs behind the others: to be handed off one at a time, and only if nothing else is open, so that it shows
    /// which one of them ends its stream.
    pub(super) fn struck(&self) -> impl Iterator<Item = Uid> {
        self.struck.iter().map(|(_, uid)| *uid)
    }

    pub(super) fn ready_run(&self, uid: Uid) -> Option<(Arc<Workflow>, Arc<RunModels>)> {
        let entry = self.runs.get(&uid)?;
        Some((entry.workflow.clone(), entry.found.clone()?))
    }

    /// Notes a hand-off. Returns it, and how long the run has waited for it.
    pub(super) fn hand_off(&mut self, uid: Uid, payload: Vec<u8>, now: Instant) -> Option<(Handoff, Duration)> {
        let entry = self.runs.get_mut(&uid)?;
        self.sequence += 1;
        entry.place = Place::Open;
        entry.found = None;
        entry.sequence = self.sequence;
        entry.handed_off = Some(now);
        let age = age(&entry.workflow);
        self.ready.remove(&age);
        self.struck.remove(&age);
        self.octets += payload.len();
        self.unacknowledged.push_back(Unacknowledged { sequence: self.sequence, uid, octets: payload.len() });
        let waited = now.saturating_duration_since(entry.offered);
        Some((Handoff { sequence: self.sequence, payload: Bytes::from(payload) }, waited))
    }

    /// Everything up to this hand-off was read; from `due` on that counts. Returns whether nothing was due before.
    pub(super) fn acknowledged(&mut self, sequence: u64, due: Instant) -> bool {
        let first = self.acknowledged.is_empty();
        while self.unacknowledged.front().is_some_and(|open| open.sequence <= sequence)
            && let Some(open) = self.unacknowledged.pop_front()
        {
            self.octets -= open.octets;
            self.acknowledged.push_back((due, open.sequence, open.uid));
        }
        first && !self.acknowledged.is_empty()
    }

    /// Takes what is confirmed by now. Also returns when there will be more.
    pub(super) fn take_confirmed(&mut self, now: Instant) -> (Vec<Entry>, Option<Instant>) {
        let mut confirmed = Vec::new();
        while self.acknowledged.front().is_some_and(|(due, ..)| *due <= now)
            && let Some((_, sequence, uid)) = self.acknowledged.pop_front()
        {
            // The run may have been restarted meanwhile, and even be on its way again.
            if self.runs.get(&uid).is_some_and(|entry| entry.place == Place::Open && entry.sequence == sequence) {
                confirmed.extend(self.runs.remove(&uid));
            }
        }
        (confirmed, self.acknowledged.front().map(|(due, ..)| *due))
    }

    /// The runs that were handed off and whose delivery is not on record.
    pub(super) fn open_runs(&self) -> Vec<Uid> {
        let open = self.runs.iter().filter(|(_, entry)| entry.place == Place::Open && !entry.elsewhere);
        open.map(|(uid, _)| *uid).collect()
    }
}

fn age(workflow: &Workflow) -> Age {
    (workflow.created, workflow.uid)
}
