//! A budget of units, such as bytes or calls, that all lookups share. It is fair between namespaces, because tenants
//! decide how large the answers about their runs are.
//!
//! - A namespace never holds more than its share, so one tenant cannot take everything.
//! - Of the requests that wait, the one whose namespace holds the least comes first. Namespaces that hold the same take
//!   turns: a namespace with many old requests is not served more often than one with a new one.
//! - A limited number of requests wait. Others are refused, so that they hold nothing while the budget is used up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The limits of a budget.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Units of all namespaces.
    pub(crate) total: usize,
    /// Units of one namespace.
    pub(crate) per_namespace: usize,
    /// Waiting requests of all namespaces.
    pub(crate) waiting: usize,
    /// Waiting requests of one namespace.
    pub(crate) waiting_per_namespace: usize,
}

/// A budget. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// See [`Limits::total`].
    total: usize,
    used: usize,
    /// Units by namespace, without zeros.
    by_namespace: HashMap<Arc<str>, usize>,
    /// In the order of arrival.
    waiting: Vec<Waiting>,
    /// The latest round in which a request that waited was served. Each namespace has one request in a round.
    round: u64,
    /// The rounds of the next requests of namespaces, if later than the present round.
    rounds: HashMap<Arc<str>, u64>,
}

#[derive(Debug)]
struct Waiting {
    namespace: Arc<str>,
    units: usize,
    round: u64,
    granted: oneshot::Sender<Permit>,
}

/// A request that waits, from its own side. It delays smaller ones, which are served if it is given up.
#[derive(Debug)]
struct Request<'a> {
    budget: &'a Budget,
    permit: oneshot::Receiver<Permit>,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        // A permit that has arrived is released with the receiver, after this.
        self.permit.close();
        self.budget.grant();
    }
}

/// The refusal of a request: too many others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = State { total: limits.total, ..State::default() };
        Self(Arc::new(Shared { limits, state: Mutex::new(state) }))
    }

    /// Changes the total. Permits beyond a smaller total stay until they are dropped.
    pub(crate) fn set_total(&self, total: usize) {
        self.0.lock().total = total;
        self.grant();
    }

    /// Returns a permit for this many units if they are available now and nothing that could have them waits.
    pub(crate) fn try_acquire(&self, namespace: &Arc<str>, units: usize) -> Option<Permit> {
        let mut state = self.0.lock();
        state.forget_given_up();
        let is_next = !state.waiting.iter().any(|other| self.0.is_in_share(&state, &other.namespace, other.units));
        (is_next && self.0.fits(&state, namespace, units)).then(|| self.take(&mut state, namespace, units))
    }

    /// Returns a permit for this many units, or waits for it.
    ///
    /// # Errors
    /// If too many requests wait.
    pub(crate) async fn acquire(&self, namespace: &Arc<str>, units: usize) -> Result<Permit, Exhausted> {
        if let Some(permit) = self.try_acquire(namespace, units) {
            return Ok(permit);
        }
        let mut request = {
            let Limits { waiting, waiting_per_namespace, .. } = self.0.limits;
            let mut state = self.0.lock();
            state.forget_given_up();
            let of_namespace = state.waiting.iter().filter(|other| other.namespace == *namespace).count();
            if state.waiting.len() >= waiting || of_namespace >= waiting_per_namespace {
                return Err(Exhausted);
            }
            let (granted, permit) = oneshot::channel();
            let round = state.next_round(namespace);
            state.waiting.push(Waiting { namespace: namespace.clone(), units, round, granted });
            Request { budget: self, permit }
        };
        // Units may have been released since the first attempt.
        self.grant();
        (&mut request.permit).await.map_err(|_| Exhausted)
    }

    fn take(&self, state: &mut State, namespace: &Arc<str>, units: usize) -> Permit {
        if units > 0 {
            state.used += units;
            *state.by_namespace.entry(namespace.clone()).or_default() += units;
        }
        Permit { budget: self.clone(), namespace: namespace.clone(), units }
    }

    /// Serves the requests that can be served now.
    fn grant(&self) {
        while let Some((granted, permit)) = self.next_grant() {
            // If the request was given up, the permit is released here.
            drop(granted.send(permit));
        }
    }

    fn next_grant(&self) -> Option<(oneshot::Sender<Permit>, Permit)> {
        let mut state = self.0.lock();
        state.forget_given_up();
        let eligible = state.waiting.iter().enumerate();
        let eligible = eligible.filter(|(_, next)| self.0.is_in_share(&state, &next.namespace, next.units));
        let (index, next) = eligible.min_by_key(|(index, next)| (state.held(&next.namespace), next.round, *index))?;
        if !self.0.fits(&state, &next.namespace, next.units) {
            // Later ones do not overtake it, or a large request would wait forever.
            return None;
        }
        let Waiting { namespace, units, round, granted } = state.waiting.remove(index);
        state.served(round);
        let permit = self.take(&mut state, &namespace, units);
        Some((granted, permit))
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.0.lock().used
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().waiting.iter().filter(|other| !other.granted.is_closed()).count()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every operation under this lock is complete or has no effect.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in_share(&self, state: &State, namespace: &Arc<str>, units: usize) -> bool {
        state.held(namespace) + units <= self.limits.per_namespace
    }

    fn fits(&self, state: &State, namespace: &Arc<str>, units: usize) -> bool {
        self.is_in_share(state, namespace, units) && state.used + units <= state.total
    }
}

impl State {
    /// Drops the requests whose callers no longer wait.
    fn forget_given_up(&mut self) {
        self.waiting.retain(|request| !request.granted.is_closed());
    }

    /// Returns the round of a new request of a namespace.
    fn next_round(&mut self, namespace: &Arc<str>) -> u64 {
        if self.waiting.is_empty() {
            self.rounds.clear();
        }
        let round = self.rounds.get(namespace).copied().unwrap_or_default().max(self.round);
        self.rounds.insert(namespace.clone(), round + 1);
        round
    }

    /// Handles a served request of this round.
    fn served(&mut self, round: u64) {
        if round > self.round {
            self.round = round;
            self.rounds.retain(|_, next| *next > round);
        }
    }

    fn held(&self, namespace: &Arc<str>) -> usize {
        self.by_namespace.get(namespace).copied().unwrap_or_default()
    }
}

/// A number of units of a budget, released when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Budget,
    namespace: Arc<str>,
    units: usize,
}

impl Permit {
    pub(crate) fn units(&self) -> usize {
        self.units
    }

    /// Adds the units of another permit of the same namespace.
    pub(crate) fn merge(&mut self, mut other: Self) {
        debug_assert_eq!(self.namespace, other.namespace);
        self.units += std::mem::take(&mut other.units);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.units == 0 {
            return;
        }
        {
            let mut state = self.budget.0.lock();
            state.used -= self.units;
            let held = state.held(&self.namespace) - self.units;
            if held == 0 {
                state.by_namespace.remove(&self.namespace);
            } else {
                state.by_namespace.insert(self.namespace.clone(), held);
            }
        }
        self.budget.grant();
    }
}

#[cfg(test)]
mod tests;
