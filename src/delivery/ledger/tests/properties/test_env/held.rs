//! The bytes that are held for streams: large payloads, and subscribers that do not read.

use super::*;
use crate::delivery::{
    CloseReason, Handoff,
    fixtures::{Answer, model_at},
    ledger::{
        budget::SMALL,
        flow::{Flow, MAX_SILENCE},
        next::Next,
    },
};

/// Limits that two large events of a namespace reach.
const UNACKNOWLEDGED: usize = 48 * 1024;
const READY: usize = 40 * 1024;
/// The length of a location that makes an event large.
const LARGE: usize = 20 * 1024;

/// A ledger with those limits.
pub(super) fn ledger(options: &Options, seed: u64) -> Ledger {
    let mut ledger = Ledger::new(options, seed);
    ledger.flow = Flow::with_limits(UNACKNOWLEDGED, READY);
    ledger
}

/// The models of a run that has some: every other one has large ones.
pub(super) fn models_of(uid: Uid) -> Answer {
    if uid.as_bytes()[15].is_multiple_of(2) { model_at("x".repeat(LARGE).into()) } else { model() }
}

/// The bytes and events that streams hold, as their subscribers see it.
#[derive(Default)]
pub(super) struct HeldBytes {
    streams: HashMap<StreamId, Unread>,
}

struct Unread {
    events: VecDeque<(u64, usize)>,
    silent_since: Instant,
}

impl HeldBytes {
    pub(super) fn handed_off(&mut self, stream: StreamId, handoff: &Handoff, now: Instant) {
        let new = Unread { events: VecDeque::new(), silent_since: now };
        let unread = self.streams.entry(stream).or_insert(new);
        unread.events.push_back((handoff.sequence, handoff.payload.len()));
    }

    pub(super) fn acknowledged(&mut self, stream: StreamId, sequence: u64, now: Instant) {
        let Some(unread) = self.streams.get_mut(&stream) else { return };
        unread.events.retain(|(event, _)| *event > sequence);
        unread.silent_since = now;
        if unread.events.is_empty() {
            self.streams.remove(&stream);
        }
    }

    pub(super) fn ended(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    fn total(&self) -> usize {
        self.streams.values().flat_map(|unread| &unread.events).map(|(_, bytes)| bytes).sum()
    }
}

impl TestEnv {
    /// The ledger closes a stream: its subscriber has not read for a minute, or it has reached its age while nothing was
    /// open for it.
    pub(super) fn closed(&mut self, stream: StreamId, reason: CloseReason) {
        if reason == CloseReason::MaxConnectionAge {
            assert!(!self.held.streams.contains_key(&stream), "an event of {stream:?} is not acknowledged");
            for object in self.api.values() {
                let record = self.store.get(&object.workflow.namespace, &object.workflow.name);
                record.iter().for_each(|record| self.oracle.check_movable(stream, record));
            }
            self.reconnecting.push(self.subscriptions[&stream].clone());
            self.oracle.ended(stream, self.now.instant);
            self.streams.retain(|other| *other != stream);
            return;
        }
        assert_eq!(reason, CloseReason::NotReading, "{stream:?} was closed without a drain");
        let unread = &self.held.streams[&stream];
        let silence = self.now.instant - unread.silent_since;
        assert!(silence >= MAX_SILENCE, "{stream:?} was closed after {silence:?}");
        self.held.ended(stream);
        self.oracle.ended(stream, self.now.instant);
        self.streams.retain(|other| *other != stream);
        self.ledger.end(stream, self.now);
    }

    pub(super) fn check_held(&mut self) {
        let Flow { unacknowledged, ready } = &self.ledger.flow;
        assert_eq!(unacknowledged.total(), self.held.total());
        let beyond = SMALL * self.held.streams.len();
        assert!(unacknowledged.total() <= UNACKNOWLEDGED + beyond && ready.total() <= READY, "{:?}", self.ledger.flow);
        assert!(!unacknowledged.is_stuck() && !ready.is_stuck(), "streams wait for ever: {:?}", self.ledger.flow);
        for id in self.streams.clone() {
            let stream = self.ledger.registry.stream(id);
            if stream.has_unacknowledged() {
                continue;
            }
            if let Next::Run(workflow, models) = stream.next_ready(self.now.instant, None) {
                let payload = encode(&workflow, &models, &stream.subscription).unwrap();
                assert!(payload.len() > SMALL, "a small event is not sent");
            }
            if let Some((_, bytes)) = self.ledger.flow.ready.waits_for(id) {
                assert!(bytes > SMALL || !self.ledger.registry.stream(id).holds_nothing(), "small models are not kept");
            }
        }
    }
}
