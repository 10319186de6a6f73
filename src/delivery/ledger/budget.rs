//! Bytes that are held for streams, limited in all.
//!
//! A namespace may hold as many bytes as are left free, and a stream as many as its namespace may still hold. So one
//! namespace alone holds at most half of the limit, and several that take what they can get still leave as much for the
//! next one as each of them holds; the same is true of the streams of a namespace. Only very many of those use it up, and
//! then a small event may still be held for each stream that holds nothing: no stream starves.
//!
//! A reservation ends when it is dropped. A stream that finds no room waits, and is woken once there is room: then it is
//! its turn. It may not use the room, since its run may have been restarted or delivered meanwhile. Then its turn passes to
//! the next ones that wait.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{delivery::StreamId, model::Uid};

/// The bytes that a stream may always hold if it holds nothing else. Events of a few models are below 1 KiB.
pub(super) const SMALL: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    held: Arc<Mutex<Held>>,
    /// The streams that wait for room.
    waiting: BTreeMap<StreamId, Waiting>,
    /// The streams whose turn it is: they were woken.
    woken: BTreeSet<StreamId>,
    /// The last stream that was woken: the next ones are those behind it.
    last_woken: StreamId,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_namespace: HashMap<Arc<str>, usize>,
    /// Bytes were released, or a turn was passed on, since the last wake-up.
    freed: bool,
}

#[derive(Debug)]
struct Waiting {
    namespace: Arc<str>,
    /// The run that needs the bytes.
    run: Uid,
    bytes: usize,
}

/// Bytes that are held until this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    held: Arc<Mutex<Held>>,
    namespace: Arc<str>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, held: Arc::default(), waiting: BTreeMap::new(), woken: BTreeSet::new(), last_woken: StreamId(0) }
    }

    /// Reserves bytes for a stream of this namespace that holds `own` of them, if there is room.
    pub(super) fn reserve(&self, namespace: &Arc<str>, own: usize, bytes: usize) -> Option<Reservation> {
        self.has_room(namespace, own, bytes).then(|| self.reserve_always(namespace, bytes))
    }

    /// Reserves bytes even if there is no room.
    pub(super) fn reserve_always(&self, namespace: &Arc<str>, bytes: usize) -> Reservation {
        let mut held = lock(&self.held);
        held.total += bytes;
        *held.by_namespace.entry(namespace.clone()).or_default() += bytes;
        Reservation { held: self.held.clone(), namespace: namespace.clone(), bytes }
    }

    pub(super) fn has_room(&self, namespace: &str, own: usize, bytes: usize) -> bool {
        let held = lock(&self.held);
        let share = held.by_namespace.get(namespace).copied().unwrap_or_default();
        share.saturating_add(own).saturating_add(bytes) <= self.limit.saturating_sub(held.total)
    }

    /// Lets a stream wait until there is room for a run. Returns whether it did not wait before.
    pub(super) fn wait(&mut self, stream: StreamId, namespace: &Arc<str>, run: Uid, bytes: usize) -> bool {
        self.pass_turn(stream);
        self.waiting.insert(stream, Waiting { namespace: namespace.clone(), run, bytes }).is_none()
    }

    /// The run for which a stream waits, and the bytes that it needs.
    pub(super) fn waits_for(&self, stream: StreamId) -> Option<(Uid, usize)> {
        self.waiting.get(&stream).map(|waiting| (waiting.run, waiting.bytes))
    }

    /// Returns whether a stream waits for room.
    pub(super) fn is_exhausted(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Lets a stream no longer wait.
    pub(super) fn cancel(&mut self, stream: StreamId) {
        self.waiting.remove(&stream);
        self.pass_turn(stream);
    }

    /// Ends the turn of a stream that has reserved bytes: their release wakes the next ones.
    pub(super) fn use_turn(&mut self, stream: StreamId) {
        self.woken.remove(&stream);
    }

    /// Ends the turn of a stream that does not use the room, if it is its turn.
    pub(super) fn pass_turn(&mut self, stream: StreamId) {
        if self.woken.remove(&stream) {
            lock(&self.held).freed = true;
        }
    }

    /// Returns whether [`Budget::wake`] may find streams for which there is room.
    pub(super) fn may_wake(&self) -> bool {
        self.is_exhausted() && lock(&self.held).freed
    }

    /// Takes the streams for which there is room now, if bytes were released or turns passed on since the last call. The
    /// turn of each then ends by [`Budget::use_turn`], [`Budget::pass_turn`] or another wait. `own` returns the bytes that a
    /// stream holds.
    pub(super) fn wake(&mut self, own: impl Fn(StreamId) -> usize) -> Vec<StreamId> {
        if !std::mem::take(&mut lock(&self.held).freed) {
            return Vec::new();
        }
        let (before, behind): (Vec<_>, Vec<_>) = self.waiting.keys().partition(|id| **id <= self.last_woken);
        let mut woken = Vec::new();
        // Held during the loop, so that no more streams are woken than there is room for.
        let mut reservations = Vec::new();
        for id in behind.into_iter().chain(before) {
            let Waiting { namespace, bytes, .. } = &self.waiting[&id];
            if let Some(reservation) = self.reserve(namespace, own(id), *bytes) {
                reservations.push(reservation);
                woken.push(id);
            }
        }
        drop(reservations);
        lock(&self.held).freed = false;
        for id in &woken {
            self.waiting.remove(id);
            self.woken.insert(*id);
            self.last_woken = *id;
        }
        woken
    }

    /// Returns whether streams wait although nothing is held and it is no stream's turn: nothing would wake them.
    #[cfg(test)]
    pub(super) fn is_stuck(&self) -> bool {
        self.is_exhausted() && self.woken.is_empty() && self.total() == 0
    }

    /// The bytes that are held.
    #[cfg(test)]
    pub(super) fn total(&self) -> usize {
        lock(&self.held).total
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.freed = true;
        held.total -= self.bytes;
        if let Some(share) = held.by_namespace.get_mut(&self.namespace) {
            *share -= self.bytes;
            if *share == 0 {
                held.by_namespace.remove(&self.namespace);
            }
        }
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Uid {
        Uid::from(1)
    }

    /// Reserves pieces until there is no room.
    fn fill(budget: &Budget, namespace: &str, piece: usize) -> Vec<Reservation> {
        std::iter::from_fn(|| budget.reserve(&namespace.into(), 0, piece)).collect()
    }

    #[test]
    fn a_namespace_may_hold_as_much_as_is_free() {
        let budget = Budget::new(100);
        let first = fill(&budget, "first", 1);
        assert_eq!(first.len(), 50);
        let second = fill(&budget, "second", 1);
        assert_eq!(second.len(), 25);
        assert!(!budget.has_room("first", 0, 1) && budget.has_room("third", 0, 25) && !budget.has_room("third", 0, 26));
        drop(first);
        assert!(budget.has_room("first", 0, 75));
    }

    #[test]
    fn a_stream_may_hold_as_much_as_its_namespace_has_left() {
        let budget = Budget::new(100);
        let mut streams = [Vec::new(), Vec::new()];
        while let Some(reservation) = budget.reserve(&"team".into(), streams[0].len(), 1) {
            streams[0].push(reservation);
        }
        assert_eq!(streams[0].len(), 34);
        while let Some(reservation) = budget.reserve(&"team".into(), streams[1].len(), 1) {
            streams[1].push(reservation);
        }
        assert_eq!(streams[1].len(), 11);
        assert!(budget.has_room("team", 0, 10) && !budget.has_room("team", 0, 11));
    }

    #[test]
    fn what_is_reserved_always_counts() {
        let budget = Budget::new(10);
        let reservation = budget.reserve_always(&"team".into(), 20);
        assert!(!budget.has_room("other", 0, 1));
        drop(reservation);
        assert!(budget.has_room("other", 0, 10) && budget.total() == 0);
    }

    #[test]
    fn streams_are_woken_in_turn_as_far_as_there_is_room() {
        let mut budget = Budget::new(100);
        for stream in 1..=4 {
            assert!(budget.wait(StreamId(stream), &"team".into(), run(), 25));
        }
        assert!(!budget.wait(StreamId(1), &"team".into(), run(), 25), "it waits already");
        assert_eq!(budget.wake(|_| 0), [], "nothing was released");
        drop(fill(&budget, "team", 1));
        assert_eq!(budget.wake(|_| 0), [StreamId(1), StreamId(2)]);
        assert_eq!(budget.wake(|_| 0), []);
        budget.wait(StreamId(1), &"team".into(), run(), 25);
        budget.cancel(StreamId(4));
        drop(fill(&budget, "team", 1));
        assert_eq!(budget.wake(|_| 0), [StreamId(3), StreamId(1)]);
        assert!(!budget.is_exhausted());
    }

    #[test]
    fn a_turn_passes_on_unless_the_room_is_used() {
        let mut budget = Budget::new(100);
        for stream in 1..=4 {
            budget.wait(StreamId(stream), &"team".into(), run(), 40);
        }
        drop(fill(&budget, "team", 1));
        assert_eq!(budget.wake(|_| 0), [StreamId(1)]);
        assert!(!budget.may_wake(), "it is the turn of the first stream");
        budget.pass_turn(StreamId(1));
        assert!(budget.may_wake());
        assert_eq!(budget.wake(|_| 0), [StreamId(2)]);
        // It waits again, for more than there is.
        budget.wait(StreamId(2), &"team".into(), run(), 200);
        assert_eq!(budget.wake(|_| 0), [StreamId(3)]);
        let reservation = budget.reserve(&"team".into(), 0, 40);
        budget.use_turn(StreamId(3));
        assert!(!budget.may_wake(), "it has used its turn");
        drop(reservation);
        assert_eq!(budget.wake(|_| 0), [StreamId(4)]);
        // The stream has ended.
        budget.cancel(StreamId(4));
        budget.cancel(StreamId(2));
        assert!(!budget.is_exhausted() && !budget.may_wake());
    }

    #[test]
    fn a_namespace_that_waits_is_passed_over_by_others() {
        let mut budget = Budget::new(100);
        let _held = fill(&budget, "large", 1);
        budget.wait(StreamId(1), &"large".into(), run(), 1);
        budget.wait(StreamId(2), &"team".into(), run(), 1);
        drop(budget.reserve_always(&"team".into(), 1));
        assert_eq!(budget.wake(|_| 0), [StreamId(2)]);
    }
}
