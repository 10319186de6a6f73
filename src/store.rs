//! The reflector's store: one record per Workflow, by namespace, and the changes of those namespaces that somebody
//! follows. No I/O.
//!
//! There is no queue per subscriber: whoever follows a namespace takes a snapshot once and then reads its changes from
//! a journal. The journal holds changes of meaning only (a record that equals the one already held keeps its place,
//! its allocation, and wakes nobody) and only those of followed namespaces, plus the restarted Workflows of all
//! namespaces, whose marks must go whether or not anybody listens. It is drained as a whole by the one task that
//! follows, which never waits for anything else, so it does not grow.
//!
//! A relist replaces nothing until it is complete: each record that it brings is stamped with the relist's epoch,
//! and the end of it sweeps what carries an older one.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::model::{Uid, Workflow};

/// What happened to a Workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new, or something that matters to us has changed.
    Applied(Arc<Workflow>),
    /// It was deleted. This is the last that was known of it.
    Gone(Arc<Workflow>),
}

/// What one watch covers, and so what the end of its list may sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The Workflows of all namespaces.
    All,
    /// Those of one namespace.
    Namespace(Arc<str>),
}

/// The records of all Workflows. Cheap to share; every method is quick and none waits.
#[derive(Debug, Default)]
pub struct Store {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    namespaces: HashMap<Arc<str>, HashSet<Slot>>,
    records: usize,
    followed: HashSet<Arc<str>>,
    journal: Vec<Change>,
    epoch: u32,
}

/// A record in the table of its namespace, found by its name.
#[derive(Debug)]
struct Slot {
    record: Arc<Workflow>,
    epoch: u32,
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.record.name == other.record.name
    }
}
impl Eq for Slot {}
impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.record.name.hash(state);
    }
}
impl Borrow<str> for Slot {
    fn borrow(&self) -> &str {
        &self.record.name
    }
}

/// A list under way. What it does not bring is swept when it is finished; dropped before that, it sweeps nothing.
#[derive(Debug)]
#[must_use = "a list that is never finished sweeps nothing"]
pub struct Relist {
    scope: Scope,
    epoch: u32,
}

impl Store {
    /// Takes in a record: from a list, or because the Workflow was created or changed.
    pub fn apply(&self, workflow: Workflow) {
        let woken = self.lock().apply(workflow);
        self.wake(woken);
    }

    /// Takes out a Workflow that was deleted. A younger one of the same name stays.
    pub fn delete(&self, namespace: &str, name: &str, uid: Uid) {
        let woken = self.lock().delete(namespace, name, uid);
        self.wake(woken);
    }

    /// Begins a list: everything applied from now on is part of it.
    pub fn begin_list(&self, scope: Scope) -> Relist {
        let mut inner = self.lock();
        inner.epoch = inner.epoch.wrapping_add(1);
        Relist { scope, epoch: inner.epoch }
    }

    /// Ends a list: the Workflows in its scope that it did not bring are gone. Returns how many those were.
    pub fn finish_list(&self, list: Relist) -> usize {
        let (swept, woken) = self.lock().sweep(&list);
        self.wake(woken);
        swept
    }

    /// Follows a namespace, which need not exist: from now on its changes are in [`Store::changes`]. Returns the
    /// changes that were still in the journal, and the namespace's records as they are after those: for whoever
    /// follows, to be read in this order.
    pub fn follow(&self, namespace: &Arc<str>) -> (Vec<Change>, Vec<Arc<Workflow>>) {
        let mut inner = self.lock();
        inner.followed.insert(namespace.clone());
        let records = inner
            .namespaces
            .get(namespace)
            .map(|slots| slots.iter().map(|slot| slot.record.clone()).collect())
            .unwrap_or_default();
        (std::mem::take(&mut inner.journal), records)
    }

    /// Follows the namespace no longer.
    pub fn unfollow(&self, namespace: &str) {
        self.lock().followed.remove(namespace);
    }

    /// Waits until something has changed, then takes all changes since the last call, in their order. For one caller.
    pub async fn changes(&self) -> Vec<Change> {
        loop {
            let changed = self.changed.notified();
            let journal = std::mem::take(&mut self.lock().journal);
            if !journal.is_empty() {
                return journal;
            }
            changed.await;
        }
    }

    /// The record of a Workflow, by its name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Workflow>> {
        self.lock().namespaces.get(namespace)?.get(name).map(|slot| slot.record.clone())
    }

    /// How many Workflows and how many namespaces are held.
    pub fn size(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.records, inner.namespaces.len())
    }

    fn wake(&self, woken: bool) {
        if woken {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Each operation leaves the tables consistent at every point where it could panic (none is expected to).
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns whether there is now something in the journal that was not there before.
    fn apply(&mut self, workflow: Workflow) -> bool {
        let epoch = self.epoch;
        if !self.namespaces.contains_key(&*workflow.namespace) {
            self.namespaces.insert(workflow.namespace.clone(), HashSet::new());
        }
        let Some(slots) = self.namespaces.get_mut(&*workflow.namespace) else { return false };
        let record = match slots.take(&*workflow.name) {
            Some(slot) if *slot.record == workflow => {
                slots.insert(Slot { record: slot.record, epoch });
                return false;
            }
            Some(old) => {
                let record = Arc::new(workflow);
                slots.insert(Slot { record: record.clone(), epoch });
                if old.record.uid != record.uid {
                    // Deleted and created again under its name while nobody watched.
                    let woken = self.record(Change::Gone(old.record), false);
                    return self.record(Change::Applied(record), false) | woken;
                }
                return self.record(Change::Applied(record), old.record.is_restarted());
            }
            None => {
                let record = Arc::new(workflow);
                slots.insert(Slot { record: record.clone(), epoch });
                self.records += 1;
                record
            }
        };
        self.record(Change::Applied(record), false)
    }

    fn delete(&mut self, namespace: &str, name: &str, uid: Uid) -> bool {
        let Some(slots) = self.namespaces.get_mut(namespace) else { return false };
        if slots.get(name).is_none_or(|slot| slot.record.uid != uid) {
            return false;
        }
        let Some(slot) = slots.take(name) else { return false };
        if slots.is_empty() {
            self.namespaces.remove(namespace);
        }
        self.records -= 1;
        self.record(Change::Gone(slot.record), false)
    }

    fn sweep(&mut self, list: &Relist) -> (usize, bool) {
        let mut gone = Vec::new();
        for (namespace, slots) in &mut self.namespaces {
            if matches!(&list.scope, Scope::Namespace(only) if only != namespace) {
                continue;
            }
            gone.extend(slots.extract_if(|slot| slot.epoch.wrapping_sub(list.epoch) > u32::MAX / 2));
            slots.shrink_to(slots.len() * 2);
        }
        self.namespaces.retain(|_, slots| !slots.is_empty());
        self.records -= gone.len();
        let swept = gone.len();
        let woken = gone.into_iter().fold(false, |woken, slot| self.record(Change::Gone(slot.record), false) | woken);
        (swept, woken)
    }

    /// What led to the journal has to be seen to end: `was_restarted` says that the Workflow's last state was in it.
    fn record(&mut self, change: Change, was_restarted: bool) -> bool {
        let (Change::Applied(record) | Change::Gone(record)) = &change;
        let wanted = was_restarted || record.is_restarted() || self.followed.contains(&*record.namespace);
        if wanted {
            self.journal.push(change);
        }
        wanted
    }
}

#[cfg(test)]
mod tests;
