//! Whether the server is ready, and if not, what it waits for. A leaf that every module may use.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// The named conditions that have to hold before the server counts as ready. Cheap to clone.
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

/// One condition. It blocks until it is told otherwise, and stops blocking when it is dropped.
#[derive(Debug)]
#[must_use = "a dropped condition blocks no more"]
pub struct Condition {
    name: String,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a condition that blocks from now on, for the given reason.
    pub fn condition(&self, name: impl Into<String>, reason: impl Into<String>) -> Condition {
        let condition = Condition { name: name.into(), readiness: self.clone() };
        condition.block(reason);
        condition
    }

    /// What still blocks, with the reason, by name.
    pub fn blockers(&self) -> BTreeMap<String, String> {
        self.lock().clone()
    }

    /// Follows whether everything is ready.
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
    /// The condition does not hold.
    pub fn block(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.readiness.update(|blockers| {
            blockers.insert(self.name.clone(), reason);
        });
    }

    /// The condition holds.
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
    fn it_is_ready_when_every_condition_holds_and_says_what_blocks_until_then() {
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
