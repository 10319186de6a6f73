//! Records of all Workflows by namespace, and the journal of their changes. No I/O.
//!
//! There is no queue per subscriber: the delivery task reads a namespace's records once, in pages, and its changes from
//! the journal from then on. The journal holds only changes that matter: a record equal to the held one keeps its
//! allocation, and wakes no task unless the run has not ended, because its tasks have changed then. It holds those of
//! followed namespaces, and the restarted Workflows of all namespaces, whose marks are removed with or without a
//! subscriber. The delivery task drains the whole journal and waits for nothing else, so the journal does not grow.
//!
//! A relist deletes nothing before it is complete: each record that it lists is stamped with the list's epoch, and its
//! end sweeps the records with an older one.
//!
//! Two fields of a record follow from its predecessor, see `complete`: an unknown phase leaves the last known one,
//! and the first time of the end of a run stays.

mod records;
mod traces;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, watch};

use self::{records::Records, traces::TraceClaims};
use crate::{
    clock::WallClock,
    model::{Phase, RunOutcome, TraceId, Uid, Workflow, trace},
};

/// A change of a Workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The Workflow is new, or its record has changed.
    Applied {
        /// The present record.
        workflow: Arc<Workflow>,
        /// The previous record of this Workflow. `None` if it is new.
        before: Option<Before>,
    },
    /// The Workflow was deleted, or no longer matches the selector. This is its last record.
    Deleted(Arc<Workflow>),
}

/// The previous record of a changed Workflow, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// The way in which the run had ended, if it had.
    pub outcome: Option<RunOutcome>,
    /// Other fields by which a run is looked up: the run id, the pipeline's name, or the resubmission.
    pub identity_changed: bool,
}

impl Before {
    /// Compares two records of one Workflow.
    pub fn of(before: &Workflow, after: &Workflow) -> Self {
        Self {
            outcome: before.outcome(),
            identity_changed: before.run_id != after.run_id
                || before.pipeline != after.pipeline
                || before.resubmitted != after.resubmitted,
        }
    }
}

/// The Workflows that one watch covers, which are those that the end of its list may sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The Workflows of all namespaces.
    All,
    /// The Workflows of one namespace.
    Namespace(Arc<str>),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all namespaces"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
        }
    }
}

/// The number of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Workflows.
    pub workflows: usize,
    /// Namespaces with at least one Workflow.
    pub namespaces: usize,
}

/// A part of a namespace's records.
#[derive(Clone, Debug)]
pub struct Page {
    /// The changes that were still in the journal, of all namespaces. To be handled before `records`.
    pub changes: Vec<Change>,
    /// Records after those changes, ordered by name.
    pub records: Vec<Arc<Workflow>>,
    /// No records follow.
    pub is_last: bool,
}

/// The records of all Workflows. No method but [`Store::changes`] and [`Store::wait_listed`] waits.
#[derive(Debug, Default)]
pub struct Store {
    inner: Mutex<Inner>,
    changed: Notify,
    listed: watch::Sender<Listed>,
    clock: WallClock,
}

#[derive(Debug, Default)]
struct Inner {
    namespaces: HashMap<Arc<str>, Records>,
    records: usize,
    followed: HashSet<Arc<str>>,
    journal: Vec<Change>,
    epoch: u32,
    traces: TraceClaims,
}

/// The scopes whose list was complete at least once.
#[derive(Debug, Default)]
struct Listed {
    all: bool,
    namespaces: HashSet<Arc<str>>,
}

/// A list in progress. [`Store::finish_list`] sweeps the records that it did not contain; dropping it sweeps nothing.
#[derive(Debug)]
#[must_use = "a list that is never finished sweeps nothing"]
pub struct Relist {
    scope: Scope,
    epoch: u32,
}

impl Store {
    /// Creates an empty store. `clock` is read where a run has ended at an unknown time.
    pub fn new(clock: WallClock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// Adds or replaces a record: from a list, or because the Workflow was created or changed.
    pub fn apply(&self, workflow: Workflow) {
        let recorded = self.lock().apply(workflow, &self.clock);
        self.wake(recorded);
    }

    /// Removes a Workflow that was deleted. A younger one of the same name stays.
    pub fn delete(&self, namespace: &str, name: &str, uid: Uid) {
        let recorded = self.lock().delete(namespace, name, uid);
        self.wake(recorded);
    }

    // === lists ===

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

    /// Returns whether the list of a scope was complete at least once.
    pub fn is_listed(&self, scope: &Scope) -> bool {
        let listed = self.listed.borrow();
        match scope {
            Scope::All => listed.all,
            Scope::Namespace(namespace) => listed.all || listed.namespaces.contains(namespace),
        }
    }

    // === reading ===

    /// Follows a namespace, which need not exist: from now on its changes are in [`Store::changes`].
    pub fn follow(&self, namespace: &Arc<str>) {
        self.lock().followed.insert(namespace.clone());
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

    /// Returns up to `limit` records of a namespace whose names follow `after`, and takes the changes that precede
    /// them. For the caller of [`Store::changes`].
    pub fn read(&self, namespace: &str, after: Option<&str>, limit: usize) -> Page {
        let mut inner = self.lock();
        let mut rest = inner.namespaces.get(namespace).into_iter().flat_map(|records| records.after(after));
        let records = rest.by_ref().take(limit).cloned().collect();
        let is_last = rest.next().is_none();
        drop(rest);
        Page { changes: std::mem::take(&mut inner.journal), records, is_last }
    }

    /// Returns the record of the Workflow of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Workflow>> {
        self.lock().get(namespace, name).cloned()
    }

    /// Returns the trace of a run: Argo's own if Argo traces, no run of another namespace carries the same id, and it
    /// is not the UID of a run; else the Workflow's UID without its dashes.
    pub fn trace_id(&self, workflow: &Workflow) -> Option<TraceId> {
        trace::trace_id(workflow, |id| self.lock().traces.is_exclusive(id, &workflow.namespace))
    }

    /// Returns the number of records.
    pub fn size(&self) -> Size {
        let inner = self.lock();
        Size { workflows: inner.records, namespaces: inner.namespaces.len() }
    }

    /// Returns the number of records of a namespace.
    pub fn size_of(&self, namespace: &str) -> usize {
        self.lock().namespaces.get(namespace).map_or(0, Records::len)
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
    fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Workflow>> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// Returns whether a change was recorded in the journal.
    fn apply(&mut self, mut workflow: Workflow, clock: &WallClock) -> bool {
        let epoch = self.epoch;
        if !self.namespaces.contains_key(&*workflow.namespace) {
            self.namespaces.insert(workflow.namespace.clone(), Records::default());
        }
        let records = self.namespaces.get_mut(&*workflow.namespace).expect("inserted above");
        let held = records.get(&workflow.name).cloned();
        let says_nothing = workflow.phase == Phase::Unknown;
        complete(&mut workflow, held.as_deref(), clock);
        if held.as_deref() == Some(&workflow) {
            records.set_epoch(&workflow.name, epoch);
            let record = held.filter(|held| held.phase == Phase::Active && !says_nothing);
            return record.is_some_and(|workflow| {
                let before = Some(Before { outcome: None, identity_changed: false });
                self.record(Change::Applied { workflow, before }, false)
            });
        }
        let record = Arc::new(workflow);
        records.insert(record.clone(), epoch);
        if let Some(held) = &held {
            self.traces.remove(held);
        }
        self.traces.add(&record);
        let Some(held) = held else {
            self.records += 1;
            return self.record(Change::Applied { workflow: record, before: None }, false);
        };
        if held.uid != record.uid {
            // Deleted and created again under its name while the watch was interrupted.
            let recorded = self.record(Change::Deleted(held), false);
            return self.record(Change::Applied { workflow: record, before: None }, false) | recorded;
        }
        let before = Some(Before::of(&held, &record));
        self.record(Change::Applied { workflow: record, before }, held.is_restarted())
    }

    fn delete(&mut self, namespace: &str, name: &str, uid: Uid) -> bool {
        if self.get(namespace, name).is_none_or(|record| record.uid != uid) {
            return false;
        }
        let Some(records) = self.namespaces.get_mut(namespace) else { return false };
        let Some(record) = records.remove(name) else { return false };
        if records.is_empty() {
            self.namespaces.remove(namespace);
        }
        self.removed(record)
    }

    fn sweep(&mut self, list: &Relist) -> (usize, bool) {
        let mut unlisted = Vec::new();
        for (namespace, records) in &mut self.namespaces {
            if matches!(&list.scope, Scope::Namespace(only) if only != namespace) {
                continue;
            }
            records.retain(|record, epoch| {
                let is_listed = epoch.wrapping_sub(list.epoch) <= u32::MAX / 2;
                unlisted.extend((!is_listed).then(|| record.clone()));
                is_listed
            });
        }
        self.namespaces.retain(|_, records| !records.is_empty());
        let swept = unlisted.len();
        let recorded = unlisted.into_iter().fold(false, |recorded, record| self.removed(record) | recorded);
        (swept, recorded)
    }

    /// Accounts for a record that was removed from its namespace. Returns whether this was recorded in the journal.
    fn removed(&mut self, record: Arc<Workflow>) -> bool {
        self.records -= 1;
        self.traces.remove(&record);
        self.record(Change::Deleted(record), false)
    }

    /// Records a change in the journal, where it belongs there. Returns whether it does. The end of a restart belongs
    /// there as its beginning did, so `was_restarted` is whether the previous record was restarted.
    fn record(&mut self, change: Change, was_restarted: bool) -> bool {
        let (Change::Applied { workflow: record, .. } | Change::Deleted(record)) = &change;
        let relevant = was_restarted || record.is_restarted() || self.followed.contains(&*record.namespace);
        if relevant {
            self.journal.push(change);
        }
        relevant
    }
}

/// Completes a record by its predecessor. A phase that is unknown says nothing, so the last known one stays. The time
/// of the end of a run is the first one that was seen with its outcome, else the present: later updates by Argo's
/// controller do not change the order in which runs ended.
fn complete(workflow: &mut Workflow, held: Option<&Workflow>, clock: &WallClock) {
    let before = held.filter(|held| held.uid == workflow.uid);
    if workflow.phase == Phase::Unknown
        && let Some(before) = before
    {
        workflow.phase = before.phase;
        if let Some(version) = before.marks.resource_version() {
            workflow.marks = workflow.marks.at_version(version);
        }
    }
    let first = before.filter(|before| before.outcome() == workflow.outcome()).map_or(0, |before| before.finished);
    workflow.finished = match (workflow.outcome(), first) {
        (None, _) => 0,
        (Some(_), 0) if workflow.finished == 0 => clock.now(),
        (Some(_), 0) => workflow.finished,
        (Some(_), first) => first,
    };
}

#[cfg(test)]
mod tests;
