//! Readiness of the server, with the conditions that block it. A leaf that every module may use.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// Named conditions. The server is ready while all of them hold. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    blockers: Arc<Mutex<BTreeMap<String, String>>>,
    ready: watch::Sender<bool>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { blockers: Arc::default(), ready: watch::Sender::new(true) }
    }
}

/// One condition. It blocks readiness until it is released or dropped.
#[derive(Debug)]
#[must_use = "a dropped condition no longer blocks"]
pub struct Condition {
    name: String,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a condition that does not hold yet, for the given reason.
    pub fn condition(&self, name: impl Into<String>, reason: impl Into<String>) -> Condition {
        let condition = Condition { name: name.into(), readiness: self.clone() };
        condition.block(reason);
        condition
    }

    /// Returns the conditions that do not hold, with their reasons, by name.
    pub fn blockers(&self) -> BTreeMap<String, String> {
        self.lock().clone()
    }

    /// Follows the readiness.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    fn update(&self, change: impl FnOnce(&mut BTreeMap<String, String>)) {
        let mut blockers = self.lock();
        change(&mut blockers);
        let ready = blockers.is_empty();
        self.ready.send_if_modified(|was| std::mem::replace(was, ready) != ready);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.blockers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    /// Marks the condition as not holding.
    pub fn block(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.readiness.update(|blockers| {
            blockers.insert(self.name.clone(), reason);
        });
    }

    /// Marks the condition as holding.
    pub fn release(&self) {
        self.readiness.update(|blockers| {
            blockers.remove(&self.name);
        });
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        self.release();
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
            readiness.blockers().into_iter().collect::<Vec<_>>(),
            [("watch".into(), "the first list is not complete".into())]
        );
        list.release();
        assert!(*ready.borrow());
        list.block("failed");
        assert!(!*ready.borrow());
        drop(list);
        assert!(*ready.borrow());
    }
}
