//! Records of all Workflows by namespace, and the journal of their changes. No I/O.
//!
//! There is no queue per subscriber: the delivery task reads a namespace's records once and its changes from the
//! journal from then on. The journal holds only changes that matter (a record equal to the held one keeps its
//! allocation and wakes no task), and only those of followed namespaces, plus the restarted Workflows of all namespaces,
//! whose marks are removed with or without a subscriber. The delivery task drains the whole journal and waits for
//! nothing else, so the journal does not grow.
//!
//! A relist deletes nothing before it is complete: each record that it lists is stamped with the list's epoch, and its
//! end sweeps the records with an older one.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, watch};

use crate::model::{Uid, Workflow};

/// A change of a Workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The Workflow is new, or its record has changed.
    Applied(Arc<Workflow>),
    /// The Workflow was deleted. This is its last record.
    Deleted(Arc<Workflow>),
}

/// The Workflows that one watch covers, which are those that the end of its list may sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The Workflows of all namespaces.
    All,
    /// The Workflows of one namespace.
    Namespace(Arc<str>),
}

/// The number of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Workflows.
    pub workflows: usize,
    /// Namespaces with at least one Workflow.
    pub namespaces: usize,
}

/// The state of a namespace when [`Store::follow`] was called.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The changes that were still in the journal, of all namespaces. To be handled before `records`.
    pub changes: Vec<Change>,
    /// The namespace's records after those changes.
    pub records: Vec<Arc<Workflow>>,
}

/// The records of all Workflows. No method but [`Store::changes`] and [`Store::wait_listed`] waits.
#[derive(Debug, Default)]
pub struct Store {
    inner: Mutex<Inner>,
    changed: Notify,
    listed: watch::Sender<Listed>,
}

#[derive(Debug, Default)]
struct Inner {
    namespaces: HashMap<Arc<str>, HashSet<Slot>>,
    records: usize,
    followed: HashSet<Arc<str>>,
    journal: Vec<Change>,
    epoch: u32,
}

/// The scopes whose list was complete at least once.
#[derive(Debug, Default)]
struct Listed {
    all: bool,
    namespaces: HashSet<Arc<str>>,
}

/// A record in the table of its namespace, hashed by its name.
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

/// A list in progress. [`Store::finish_list`] sweeps the records that it did not contain; dropping it sweeps nothing.
#[derive(Debug)]
#[must_use = "a list that is never finished sweeps nothing"]
pub struct Relist {
    scope: Scope,
    epoch: u32,
}

impl Store {
    /// Adds or replaces a record: from a list, or because the Workflow was created or changed.
    pub fn apply(&self, workflow: Workflow) {
        let recorded = self.lock().apply(workflow);
        self.wake(recorded);
    }

    /// Removes a Workflow that was deleted. A younger one of the same name stays.
    pub fn delete(&self, namespace: &str, name: &str, uid: Uid) {
        let recorded = self.lock().delete(namespace, name, uid);
        self.wake(recorded);
    }

    /// Begins a list: every record applied from now on is part of it.
    pub fn begin_list(&self, scope: Scope) -> Relist {
        let mut inner = self.lock();
        inner.epoch = inner.epoch.wrapping_add(1);
        Relist { scope, epoch: inner.epoch }
    }

    /// Ends a list: removes the Workflows in its scope that it did not contain. Returns their number.
    pub fn finish_list(&self, list: Relist) -> usize {
        let (swept, recorded) = self.lock().sweep(&list);
        self.wake(recorded);
        self.listed.send_if_modified(|listed| match list.scope {
            Scope::All => !std::mem::replace(&mut listed.all, true),
            Scope::Namespace(namespace) => listed.namespaces.insert(namespace),
        });
        swept
    }

    /// Waits until the Workflows of a namespace were listed at least once.
    pub async fn wait_listed(&self, namespace: &str) {
        let mut listed = self.listed.subscribe();
        let is_listed = |listed: &Listed| listed.all || listed.namespaces.contains(namespace);
        // Fails only without a sender, which is part of this store.
        listed.wait_for(is_listed).await.ok();
    }

    /// Follows a namespace, which need not exist: from now on its changes are in [`Store::changes`].
    pub fn follow(&self, namespace: &Arc<str>) -> Followed {
        let mut inner = self.lock();
        inner.followed.insert(namespace.clone());
        let records = inner
            .namespaces
            .get(namespace)
            .map(|slots| slots.iter().map(|slot| slot.record.clone()).collect())
            .unwrap_or_default();
        Followed { changes: std::mem::take(&mut inner.journal), records }
    }

    /// Stops following a namespace.
    pub fn unfollow(&self, namespace: &str) {
        self.lock().followed.remove(namespace);
    }

    /// Waits for a change, then takes all changes since the last call, in their order. For a single caller.
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

    /// Returns the record of the Workflow of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Workflow>> {
        self.lock().namespaces.get(namespace)?.get(name).map(|slot| slot.record.clone())
    }

    /// Returns the number of records.
    pub fn size(&self) -> Size {
        let inner = self.lock();
        Size { workflows: inner.records, namespaces: inner.namespaces.len() }
    }

    fn wake(&self, recorded: bool) {
        if recorded {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Each operation leaves the tables consistent at every point where it could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns whether a change was recorded in the journal.
    fn apply(&mut self, workflow: Workflow) -> bool {
        let epoch = self.epoch;
        if !self.namespaces.contains_key(&*workflow.namespace) {
            self.namespaces.insert(workflow.namespace.clone(), HashSet::new());
        }
        let slots = self.namespaces.get_mut(&*workflow.namespace).expect("inserted above");
        let record = match slots.take(&*workflow.name) {
            Some(slot) if *slot.record == workflow => {
                slots.insert(Slot { record: slot.record, epoch });
                return false;
            }
            Some(old) => {
                let record = Arc::new(workflow);
                slots.insert(Slot { record: record.clone(), epoch });
                if old.record.uid != record.uid {
                    // Deleted and created again under its name while the watch was interrupted.
                    let recorded = self.record(Change::Deleted(old.record), false);
                    return self.record(Change::Applied(record), false) | recorded;
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
        self.record(Change::Deleted(slot.record), false)
    }

    fn sweep(&mut self, list: &Relist) -> (usize, bool) {
        let mut unlisted = Vec::new();
        for (namespace, slots) in &mut self.namespaces {
            if matches!(&list.scope, Scope::Namespace(only) if only != namespace) {
                continue;
            }
            unlisted.extend(slots.extract_if(|slot| slot.epoch.wrapping_sub(list.epoch) > u32::MAX / 2));
            slots.shrink_to(slots.len() * 2);
        }
        self.namespaces.retain(|_, slots| !slots.is_empty());
        let swept = unlisted.len();
        self.records -= swept;
        let record = |recorded, slot: Slot| self.record(Change::Deleted(slot.record), false) | recorded;
        let recorded = unlisted.into_iter().fold(false, record);
        (swept, recorded)
    }

    /// Records a change in the journal, where it belongs there. Returns whether it does. The end of a restart belongs
    /// there as its beginning did, so `was_restarted` is whether the previous record was restarted.
    fn record(&mut self, change: Change, was_restarted: bool) -> bool {
        let (Change::Applied(record) | Change::Deleted(record)) = &change;
        let relevant = was_restarted || record.is_restarted() || self.followed.contains(&*record.namespace);
        if relevant {
            self.journal.push(change);
        }
        relevant
    }
}

#[cfg(test)]
mod tests;
