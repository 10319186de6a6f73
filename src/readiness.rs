//! Readiness and liveness of the server. A leaf that every module may use.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// Named conditions. The server is ready while every general condition holds and at least one scope is served: the
/// namespaces of one tenant must not make the server unready for the others. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    conditions: Arc<Mutex<Conditions>>,
    ready: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Conditions {
    /// Conditions that do not hold, with their reasons.
    blockers: BTreeMap<String, String>,
    /// Scopes, with the reason why they are not served.
    scopes: BTreeMap<String, Option<String>>,
}

impl Conditions {
    fn is_ready(&self) -> bool {
        self.blockers.is_empty() && (self.scopes.is_empty() || self.scopes.values().any(Option::is_none))
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self { conditions: Arc::default(), ready: watch::Sender::new(true) }
    }
}

/// One condition. It fails until it is released or dropped.
#[derive(Debug)]
#[must_use = "a dropped condition no longer fails"]
pub struct Condition {
    name: String,
    is_scope: bool,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a general condition that does not hold yet, for the given reason.
    pub fn condition(&self, name: impl Into<String>, reason: impl Into<String>) -> Condition {
        self.add(name.into(), false, reason)
    }

    /// Adds a scope that is not served yet, for the given reason.
    pub fn scope(&self, name: impl Into<String>, reason: impl Into<String>) -> Condition {
        self.add(name.into(), true, reason)
    }

    fn add(&self, name: String, is_scope: bool, reason: impl Into<String>) -> Condition {
        let condition = Condition { name, is_scope, readiness: self.clone() };
        condition.block(reason);
        condition
    }

    /// Returns whether the server is ready.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Returns the conditions that do not hold and the scopes that are not served, with their reasons, by name. There
    /// may be failing scopes although the server is ready.
    pub fn problems(&self) -> BTreeMap<String, String> {
        let conditions = self.lock();
        let scopes = conditions.scopes.iter().filter_map(|(name, reason)| Some((name.clone(), reason.clone()?)));
        conditions.blockers.clone().into_iter().chain(scopes).collect()
    }

    /// Returns the scopes by name. Those that are not served have a reason.
    pub fn scopes(&self) -> BTreeMap<String, Option<String>> {
        self.lock().scopes.clone()
    }

    /// Follows the readiness.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    fn update(&self, change: impl FnOnce(&mut Conditions)) {
        let mut conditions = self.lock();
        change(&mut conditions);
        let ready = conditions.is_ready();
        self.ready.send_if_modified(|was| std::mem::replace(was, ready) != ready);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Conditions> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    /// Marks the condition as not holding.
    pub fn block(&self, reason: impl Into<String>) {
        let (name, reason) = (self.name.clone(), reason.into());
        self.readiness.update(|conditions| {
            if self.is_scope {
                conditions.scopes.insert(name, Some(reason));
            } else {
                conditions.blockers.insert(name, reason);
            }
        });
    }

    /// Marks the condition as holding.
    pub fn release(&self) {
        self.readiness.update(|conditions| {
            if self.is_scope {
                conditions.scopes.insert(self.name.clone(), None);
            } else {
                conditions.blockers.remove(&self.name);
            }
        });
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        self.readiness.update(|conditions| {
            conditions.scopes.remove(&self.name);
            conditions.blockers.remove(&self.name);
        });
    }
}

/// The sign of life of a task that every event depends on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    start: Instant,
    /// Milliseconds from `start` to the last beat.
    last: Arc<AtomicU64>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { start: Instant::now(), last: Arc::default() }
    }
}

impl Heartbeat {
    /// Notes that the task is running.
    pub fn beat(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// The time since the last beat.
    pub fn age(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_while_every_condition_holds() {
        let readiness = Readiness::default();
        let ready = readiness.subscribe();
        let list = readiness.condition("watch", "the first list is not complete");
        let drain = readiness.condition("drain", "shutting down");
        drain.release();
        assert!(!*ready.borrow());
        assert_eq!(
            readiness.problems().into_iter().collect::<Vec<_>>(),
            [("watch".into(), "the first list is not complete".into())]
        );
        list.release();
        assert!(*ready.borrow());
        list.block("failed");
        assert!(!*ready.borrow());
        drop(list);
        assert!(*ready.borrow());
    }

    #[test]
    fn one_served_scope_suffices_and_each_failing_one_is_named() {
        let readiness = Readiness::default();
        let (a, b) = (readiness.scope("a", "not listed"), readiness.scope("b", "not listed"));
        assert!(!readiness.is_ready());
        a.release();
        assert!(readiness.is_ready());
        b.block("forbidden");
        assert!(readiness.is_ready());
        assert_eq!(readiness.problems().into_iter().collect::<Vec<_>>(), [("b".to_owned(), "forbidden".to_owned())]);
        a.block("forbidden");
        assert!(!readiness.is_ready(), "no scope is served");
    }

    #[test]
    fn a_heartbeat_has_the_age_of_its_last_beat() {
        let heartbeat =
            Heartbeat { start: Instant::now().checked_sub(Duration::from_secs(60)).unwrap(), ..Default::default() };
        assert!(heartbeat.age() >= Duration::from_secs(60));
        heartbeat.beat();
        assert!(heartbeat.age() < Duration::from_secs(1));
    }
}
