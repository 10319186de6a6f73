//! Inputs from the store that wait for their turn.
//!
//! A relist may change a hundred thousand records at once, and a stream that attaches has to be offered all records of
//! its namespace. Both are handled in slices, so that everything else proceeds in between. Namespaces take turns. Within
//! a namespace changes keep their order, and records are read once the changes before them are handled.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::StreamId;
use crate::{
    model::Workflow,
    store::{Change, Page, Store},
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    namespaces: HashMap<Arc<str>, Queue>,
    /// The namespaces, in the order of their turns.
    rotation: VecDeque<Arc<str>>,
}

/// The inputs of a namespace.
#[derive(Debug, Default)]
struct Queue {
    changes: VecDeque<Change>,
    readers: VecDeque<Reader>,
}

/// A stream that is offered the records of its namespace.
#[derive(Debug)]
struct Reader {
    stream: StreamId,
    /// The name of the last record that was offered.
    after: Option<Box<str>>,
}

/// The next inputs.
#[derive(Debug)]
pub(super) enum Slice {
    Changes { namespace: Arc<str>, changes: Vec<Change> },
    Records(Records),
}

/// Records for a stream.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) stream: StreamId,
    pub(super) records: Vec<Arc<Workflow>>,
    /// No more records follow.
    pub(super) is_last: bool,
    namespace: Arc<str>,
    after: Option<Box<str>>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.rotation.is_empty()
    }

    /// Adds changes.
    pub(super) fn push(&mut self, changes: Vec<Change>) {
        for change in changes {
            let (Change::Applied { workflow, .. } | Change::Deleted(workflow)) = &change;
            self.queue(&workflow.namespace.clone()).changes.push_back(change);
        }
    }

    /// Has the records of a namespace offered to a stream.
    pub(super) fn read(&mut self, namespace: &Arc<str>, stream: StreamId) {
        self.queue(namespace).readers.push_back(Reader { stream, after: None });
    }

    /// Drops every reader: no records are offered in a drain.
    pub(super) fn cancel_readers(&mut self) {
        self.namespaces.values_mut().for_each(|queue| queue.readers.clear());
    }

    /// Takes the next inputs, all of one namespace: `changes(namespace)` changes or `records` records at most.
    pub(super) fn next(&mut self, store: &Store, changes: impl Fn(&str) -> usize, records: usize) -> Option<Slice> {
        loop {
            let namespace = self.rotation.pop_front()?;
            let queue = self.namespaces.get_mut(&namespace).expect("a namespace in the rotation has a queue");
            let slice = if !queue.changes.is_empty() {
                let count = changes(&namespace).min(queue.changes.len());
                let changes = queue.changes.drain(..count).collect();
                Some(Slice::Changes { namespace: namespace.clone(), changes })
            } else if let Some(Reader { stream, after }) = queue.readers.pop_front() {
                let Page { changes, records, is_last } = store.read(&namespace, after.as_deref(), records);
                self.push(changes);
                let queue = self.namespaces.get_mut(&namespace).expect("only the end of its turn removes a queue");
                if queue.changes.is_empty() {
                    Some(Slice::Records(Records { stream, records, is_last, namespace: namespace.clone(), after }))
                } else {
                    queue.readers.push_front(Reader { stream, after });
                    None
                }
            } else {
                self.namespaces.remove(&namespace);
                continue;
            };
            self.rotation.push_back(namespace);
            if slice.is_some() {
                return slice;
            }
        }
    }

    /// Has the records read that follow these, of which this number was offered.
    pub(super) fn read_on(&mut self, records: &Records, offered: usize) {
        let last = offered.checked_sub(1).and_then(|last| records.records.get(last));
        let after = last.map(|last| last.name.clone()).or_else(|| records.after.clone());
        self.queue(&records.namespace).readers.push_back(Reader { stream: records.stream, after });
    }

    fn queue(&mut self, namespace: &Arc<str>) -> &mut Queue {
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.insert(namespace.clone(), Queue::default());
            self.rotation.push_back(namespace.clone());
        }
        self.namespaces.get_mut(namespace).expect("inserted above")
    }
}
