//! One stream: which runs it is to get, and how far each has come.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::tables::Strikes;
use crate::{
    delivery::{Handoff, MAX_UNACKNOWLEDGED},
    model::{RunModels, Subscription, Uid, Workflow},
};

/// How many octets of payload may wait for their acknowledgement; one event always may.
const MAX_UNACKNOWLEDGED_OCTETS: usize = 4 * 1024 * 1024;
/// How many runs with an answer may wait to be handed off: enough to keep a fast reader busy.
const MAX_READY: usize = MAX_UNACKNOWLEDGED;
/// How long a run that is ready waits for an older one whose models have just been asked for, so that runs come in order
/// where nothing fails.
const IN_ORDER: Duration = Duration::from_millis(500);
/// How often a stream may end on a run before the run has to go behind the others.
pub(super) const MAX_STRIKES: u32 = 3;

/// For how long a run that waits behind the others lets them go first while they keep coming.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a run that was open at so many ends of its stream is not tried again. An event that kills its client must
/// not keep it from reading the others: not at once, and not every few seconds for ever. Nor must an event that was
/// only there when its client died of something else wait for long: five minutes at most.
pub(super) fn pause_after(strikes: u32) -> Duration {
    match strikes.checked_sub(MAX_STRIKES) {
        None => Duration::ZERO,
        Some(more) => Duration::from_secs(10 << more.min(5)),
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

/// What can be handed off next.
#[derive(Debug)]
pub(super) enum Next {
    Run(Arc<Workflow>, Arc<RunModels>),
    NotBefore(Instant),
    Nothing,
}

/// Oldest first; the UID makes two runs of one second distinct.
type Age = (i64, Uid);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) workflow: Arc<Workflow>,
    /// Since when the subscription waits for the run, as far as that is known.
    pub(super) offered: Instant,
    /// When it was handed off.
    pub(super) handed_off: Option<Instant>,
    /// Whether its delivery is on record already, through a sibling of this stream or another replica.
    pub(super) elsewhere: bool,
    found: Option<Arc<RunModels>>,
    /// Where streams have ended on it: when it may be tried again.
    not_before: Option<Instant>,
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
    pub(super) subscription: Arc<Subscription>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) runs: HashMap<Uid, Entry>,
    unasked: BTreeSet<Age>,
    /// Asked for the first time, and until when younger runs wait for the answer.
    in_question: BTreeMap<Age, Instant>,
    ready: BTreeSet<Age>,
    /// Ready, too, but behind the others, because streams ended on them. By when they may be tried again.
    struck: BTreeSet<(Instant, Age)>,
    /// When the last of those was handed off.
    last_struck: Option<Instant>,
    unacknowledged: VecDeque<Unacknowledged>,
    octets: usize,
    /// Acknowledged, and from when on that counts.
    acknowledged: VecDeque<(Instant, u64, Uid)>,
    sequence: u64,
}

impl Stream {
    pub(super) fn new(subscription: Arc<Subscription>, peer: Option<SocketAddr>) -> Self {
        Self {
            subscription,
            peer,
            runs: HashMap::new(),
            unasked: BTreeSet::new(),
            in_question: BTreeMap::new(),
            ready: BTreeSet::new(),
            struck: BTreeSet::new(),
            last_struck: None,
            unacknowledged: VecDeque::new(),
            octets: 0,
            acknowledged: VecDeque::new(),
            sequence: 0,
        }
    }

    pub(super) fn insert(&mut self, workflow: Arc<Workflow>, offered: Instant) {
        self.unasked.insert(age(&workflow));
        self.runs.insert(
            workflow.uid,
            Entry {
                place: Place::Unasked,
                workflow,
                offered,
                handed_off: None,
                elsewhere: false,
                found: None,
                not_before: None,
                sequence: 0,
            },
        );
    }

    /// The run is not to be sent. If it is under way already, its acknowledgement will mean nothing. Returns how far it
    /// had come.
    pub(super) fn remove(&mut self, uid: Uid) -> Option<Place> {
        let entry = self.runs.remove(&uid)?;
        self.unline(&entry.workflow, entry.not_before);
        Some(entry.place)
    }

    /// Takes a run out of the line in which it waits.
    fn unline(&mut self, workflow: &Workflow, not_before: Option<Instant>) {
        let age = age(workflow);
        self.unasked.remove(&age);
        self.in_question.remove(&age);
        self.ready.remove(&age);
        if let Some(at) = not_before {
            self.struck.remove(&(at, age));
        }
    }

    /// The run is not to be sent, for a reason that would be found again: so it is remembered.
    pub(super) fn decline(&mut self, uid: Uid) {
        if let Some(entry) = self.runs.get_mut(&uid) {
            entry.place = Place::Declined;
            entry.found = None;
            let (workflow, not_before) = (entry.workflow.clone(), entry.not_before.take());
            self.unline(&workflow, not_before);
        }
    }

    // === lookups ===

    /// Whether it is of use to ask for the models of another run now.
    pub(super) fn is_hungry(&self) -> bool {
        !self.unasked.is_empty() && self.ready.len() < MAX_READY
    }

    /// Takes the oldest run whose models nobody has asked for.
    pub(super) fn next_to_ask(&mut self, now: Instant) -> Option<Arc<Workflow>> {
        if !self.is_hungry() {
            return None;
        }
        let (created, uid) = self.unasked.pop_first()?;
        let entry = self.runs.get_mut(&uid)?;
        entry.place = Place::Asked;
        self.in_question.insert((created, uid), now + IN_ORDER);
        Some(entry.workflow.clone())
    }

    /// The question for a run's models has failed: nobody waits for its answer. Returns whether anybody did.
    pub(super) fn question_failed(&mut self, workflow: &Workflow) -> bool {
        self.in_question.remove(&age(workflow)).is_some()
    }

    /// The runs whose models have been asked for.
    pub(super) fn asked(&self) -> impl Iterator<Item = Uid> {
        self.runs.iter().filter(|(_, entry)| entry.place == Place::Asked).map(|(uid, _)| *uid)
    }

    /// The models of a run are known.
    pub(super) fn found(&mut self, uid: Uid, models: &Arc<RunModels>, strikes: Option<Strikes>) {
        let Some(entry) = self.runs.get_mut(&uid).filter(|entry| entry.place == Place::Asked) else { return };
        entry.place = Place::Ready;
        entry.found = Some(models.clone());
        let age = age(&entry.workflow);
        self.in_question.remove(&age);
        match strikes.filter(|strikes| strikes.count >= MAX_STRIKES) {
            None => self.ready.insert(age),
            Some(strikes) => {
                entry.not_before = Some(strikes.not_before);
                self.struck.insert((strikes.not_before, age))
            }
        };
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

    /// The run that is to be handed off next: the oldest that is ready (after a short wait for older ones that may be
    /// ready in a moment), and where there is none, one of those on which streams have ended. These go one at a time,
    /// and only if nothing else is open, so that it shows which one of them ends its stream; now and then one goes
    /// although others are ready, or it might wait for ever.
    pub(super) fn next_ready(&self, now: Instant) -> Next {
        let struck = self.struck.first();
        let overdue =
            struck.is_some_and(|(due, _)| now >= self.last_struck.map_or(*due, |last| last.max(*due)) + PATIENCE);
        let uid = match (self.ready.first(), struck) {
            (Some(age), _) if !overdue => {
                let older = self.in_question.range(..age).map(|(_, until)| *until);
                if let Some(until) = older.filter(|until| *until > now).min() {
                    return Next::NotBefore(until);
                }
                age.1
            }
            (_, Some((due, (_, uid)))) if !self.has_open() => {
                if *due > now {
                    return Next::NotBefore(*due);
                }
                *uid
            }
            _ => return Next::Nothing,
        };
        let run = self.runs.get(&uid).and_then(|entry| Some((entry.workflow.clone(), entry.found.clone()?)));
        run.map_or(Next::Nothing, |(workflow, models)| Next::Run(workflow, models))
    }

    /// Notes a hand-off. Returns it, and how long the run has waited for it.
    pub(super) fn hand_off(&mut self, uid: Uid, payload: Vec<u8>, now: Instant) -> Option<(Handoff, Duration)> {
        let entry = self.runs.get_mut(&uid)?;
        self.sequence += 1;
        entry.place = Place::Open;
        entry.found = None;
        entry.sequence = self.sequence;
        entry.handed_off = Some(now);
        let waited = now.saturating_duration_since(entry.offered);
        let (workflow, not_before) = (entry.workflow.clone(), entry.not_before.take());
        self.unline(&workflow, not_before);
        if not_before.is_some() {
            self.last_struck = Some(now);
        }
        self.octets += payload.len();
        self.unacknowledged.push_back(Unacknowledged { sequence: self.sequence, uid, octets: payload.len() });
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
        self.shrink();
        (confirmed, self.acknowledged.front().map(|(due, ..)| *due))
    }

    /// The runs that were handed off and whose delivery is not on record, and since when they are waited for.
    pub(super) fn open_runs(&self) -> Vec<(Arc<Workflow>, Instant)> {
        let open = self.runs.iter().filter(|(_, entry)| entry.place == Place::Open && !entry.elsewhere);
        open.map(|(_, entry)| (entry.workflow.clone(), entry.offered)).collect()
    }

    /// Gives the memory of a long catch-up back.
    fn shrink(&mut self) {
        if self.runs.capacity() > 4 * self.runs.len().max(MAX_UNACKNOWLEDGED) {
            self.runs.shrink_to(2 * self.runs.len());
        }
        if self.acknowledged.capacity() > 4 * self.acknowledged.len().max(MAX_UNACKNOWLEDGED) {
            self.acknowledged.shrink_to(2 * self.acknowledged.len());
        }
    }
}

fn age(workflow: &Workflow) -> Age {
    (workflow.created, workflow.uid)
}
