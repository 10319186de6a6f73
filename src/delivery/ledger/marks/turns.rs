//! The order of patches. Namespaces take turns, so that neither thousands of marks of one namespace nor patches that hang
//! there (an admission webhook may hang) delay the marks of another. Within a namespace additions precede removals: a
//! mark that is missing costs a duplicate after a restart, a mark that is left over costs nothing before the run succeeds
//! again.
//!
//! A limited number of patches holds a place, in a namespace and in all. A slow one releases its place. The rate is
//! applied in the order of the turns, so that a namespace waits only for one patch of each other namespace. It does not
//! apply to a drain.
//!
//! Everything here is exact: what is no longer pending leaves its queue at once, so the queues do not grow while every
//! place is held.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{delivery::PatchLimits, model::Uid};

/// The time after which a patch in flight is slow and releases its place. The API server usually takes milliseconds.
pub(in crate::delivery::ledger) const SLOW: Duration = Duration::from_secs(1);
/// Slow patches of a namespace, for each place that it has. With all of them, nothing more begins there.
pub(in crate::delivery::ledger) const SLOW_PER_PLACE: usize = 3;

/// A position in a queue. Tickets ascend.
pub(super) type Ticket = u64;

/// The part that a Workflow with pending changes has here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    /// It waits to have marks added.
    Addition(Ticket),
    /// It waits to have marks removed.
    Removal(Ticket),
    /// Its patch is in flight and holds a place.
    InFlight,
    /// Its patch is in flight without a place.
    Slow,
}

/// The next patch.
#[derive(Debug)]
pub(super) enum Next {
    /// The patch of this Workflow can begin.
    Patch(Uid),
    /// The rate allows none before this time.
    NotBefore(Instant),
    /// None waits, or every place is held.
    Nothing,
}

/// The patches of one namespace.
#[derive(Debug, Default)]
struct Queues {
    additions: BTreeSet<(Ticket, Uid)>,
    removals: BTreeSet<(Ticket, Uid)>,
    /// Patches that hold a place.
    in_flight: usize,
    /// Slow patches in flight.
    slow: usize,
    /// The namespace's position in the rotation, if a patch can begin in it.
    turn: Option<Ticket>,
}

impl Queues {
    fn first(&self) -> Option<Uid> {
        self.additions.first().or_else(|| self.removals.first()).map(|(_, run)| *run)
    }

    fn is_empty(&self) -> bool {
        self.first().is_none() && self.in_flight + self.slow == 0
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Turns {
    limits: PatchLimits,
    rate: Option<RateLimiter>,
    draining: bool,
    /// Patches that hold a place.
    in_flight: usize,
    namespaces: HashMap<Arc<str>, Queues>,
    /// The namespaces in which a patch can begin.
    rotation: BTreeMap<Ticket, Arc<str>>,
    last_ticket: Ticket,
}

impl Turns {
    pub(super) fn new(limits: PatchLimits, rate: Option<NonZeroU32>) -> Self {
        Self {
            limits,
            rate: rate.map(RateLimiter::new),
            draining: false,
            in_flight: 0,
            namespaces: HashMap::new(),
            rotation: BTreeMap::new(),
            last_ticket: 0,
        }
    }

    /// Returns the position behind every other.
    pub(super) fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        self.last_ticket
    }

    /// Adds the entry of a Workflow. The caller then calls [`Turns::schedule`].
    pub(super) fn add(&mut self, namespace: &Arc<str>, run: Uid, entry: Entry) {
        let queues = self.namespaces.entry(namespace.clone()).or_default();
        match entry {
            Entry::Addition(ticket) => {
                queues.additions.insert((ticket, run));
            }
            Entry::Removal(ticket) => {
                queues.removals.insert((ticket, run));
            }
            Entry::InFlight => {
                queues.in_flight += 1;
                self.in_flight += 1;
            }
            Entry::Slow => queues.slow += 1,
        }
    }

    /// Removes an entry as it was added. The caller then calls [`Turns::schedule`].
    pub(super) fn remove(&mut self, namespace: &Arc<str>, run: Uid, entry: Entry) {
        let queues = self.namespaces.get_mut(namespace).expect("the namespace of an entry exists");
        match entry {
            Entry::Addition(ticket) => {
                queues.additions.remove(&(ticket, run));
            }
            Entry::Removal(ticket) => {
                queues.removals.remove(&(ticket, run));
            }
            Entry::InFlight => {
                queues.in_flight -= 1;
                self.in_flight -= 1;
            }
            Entry::Slow => queues.slow -= 1,
        }
    }

    /// Lets a namespace take part in the rotation if a patch can begin in it. Drops its queues if nothing is left there.
    pub(super) fn schedule(&mut self, namespace: &Arc<str>) {
        let Some(queues) = self.namespaces.get_mut(namespace) else { return };
        let places = if self.draining { self.limits.total } else { self.limits.per_namespace };
        let in_all = (1 + SLOW_PER_PLACE) * self.limits.per_namespace;
        let can_begin = queues.first().is_some()
            && queues.in_flight < places
            && queues.in_flight + queues.slow < in_all.max(places);
        match queues.turn {
            None if can_begin => {
                self.last_ticket += 1;
                queues.turn = Some(self.last_ticket);
                self.rotation.insert(self.last_ticket, namespace.clone());
            }
            Some(turn) if !can_begin => {
                queues.turn = None;
                self.rotation.remove(&turn);
            }
            _ => {}
        }
        if queues.is_empty() {
            self.namespaces.remove(namespace);
        }
    }

    /// Returns the Workflow whose turn it is. The caller begins its patch.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        let Some((_, namespace)) = self.rotation.first_key_value() else { return Next::Nothing };
        if self.in_flight >= self.limits.total {
            return Next::Nothing;
        }
        if let Some(rate) = self.rate.as_mut().filter(|_| !self.draining)
            && let Err(at) = rate.try_acquire(now)
        {
            return Next::NotBefore(at);
        }
        let queues = self.namespaces.get_mut(namespace).expect("a namespace in the rotation exists");
        queues.turn = None;
        let run = queues.first().expect("a patch can begin in a namespace in the rotation");
        self.rotation.pop_first();
        Next::Patch(run)
    }

    /// Begins a drain: the rate does not apply, and one namespace may hold every place, for there may be no other.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        let namespaces: Vec<_> = self.namespaces.keys().cloned().collect();
        namespaces.iter().for_each(|namespace| self.schedule(namespace));
    }

    /// The number of entries that wait.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.namespaces.keys().map(|namespace| self.queued_in(namespace)).sum()
    }

    /// The same in one namespace.
    #[cfg(test)]
    pub(super) fn queued_in(&self, namespace: &str) -> usize {
        self.namespaces.get(namespace).map_or(0, |queues| queues.additions.len() + queues.removals.len())
    }

    /// Returns whether nothing is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.rotation.is_empty() && self.in_flight == 0
    }
}

/// Limits a rate, after a burst of one second's worth (the generic cell rate algorithm).
#[derive(Debug)]
struct RateLimiter {
    interval: Duration,
    /// The instant of the next permit if permits were evenly spaced; up to [`Self::BURST`] in the past.
    next: Option<Instant>,
}

impl RateLimiter {
    const BURST: Duration = Duration::from_secs(1);

    fn new(per_second: NonZeroU32) -> Self {
        Self { interval: Self::BURST / per_second.get(), next: None }
    }

    /// Takes a permit, or returns the time of the next one.
    fn try_acquire(&mut self, now: Instant) -> Result<(), Instant> {
        let earliest = now.checked_sub(Self::BURST).unwrap_or(now);
        let at = self.next.map_or(earliest, |next| next.max(earliest));
        if at > now {
            return Err(at);
        }
        self.next = Some(at + self.interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_limited_after_a_burst() {
        let mut limiter = RateLimiter::new(NonZeroU32::new(10).unwrap());
        let begin = Instant::now();
        let mut now = begin;
        for _ in 0..31 {
            while let Err(at) = limiter.try_acquire(now) {
                now = at;
            }
        }
        assert_eq!((now - begin).as_millis() / 100, 20, "eleven at once, and twenty at ten a second");
    }
}
