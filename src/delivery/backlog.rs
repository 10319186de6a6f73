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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::fixtures::run;

    fn workflow(namespace: &str, name: &str) -> Workflow {
        Workflow { namespace: namespace.into(), ..run(name) }
    }

    fn applied(namespace: &str, name: &str) -> Change {
        Change::Applied { workflow: Arc::new(workflow(namespace, name)), before: None }
    }

    /// The names in the next slice of two changes or two records.
    fn next(backlog: &mut Backlog, store: &Store) -> Vec<String> {
        let names = |workflow: &Arc<Workflow>| workflow.name.to_string();
        match backlog.next(store, |_| 2, 2) {
            Some(Slice::Changes { changes, .. }) => changes
                .iter()
                .map(|change| match change {
                    Change::Applied { workflow, .. } => names(workflow),
                    Change::Deleted(workflow) => format!("-{}", workflow.name),
                })
                .collect(),
            Some(Slice::Records(records)) => {
                let offered = records.records.len();
                if !records.is_last {
                    backlog.read_on(&records, offered);
                }
                let stream = records.stream.0;
                records.records.iter().map(|record| format!("{stream}:{}", record.name)).collect()
            }
            None => Vec::new(),
        }
    }

    #[test]
    fn namespaces_take_turns_and_changes_keep_their_order() {
        let (mut backlog, store) = (Backlog::default(), Store::default());
        let names = ["a1", "a2", "a3", "b1", "a4"];
        backlog.push(names.map(|name| applied(&name[..1], name)).into());
        backlog.push(vec![applied("c", "c1"), applied("a", "a5")]);
        let slices: Vec<_> = std::iter::from_fn(|| Some(next(&mut backlog, &store))).take(6).collect();
        assert_eq!(slices, [vec!["a1", "a2"], vec!["b1"], vec!["c1"], vec!["a3", "a4"], vec!["a5"], vec![]]);
        assert!(backlog.is_empty());
    }

    /// Each of its streams in turn.
    #[test]
    fn records_are_read_once_the_changes_before_them_are_handled() {
        let (mut backlog, store) = (Backlog::default(), Store::default());
        let team: Arc<str> = "team".into();
        ["a", "b", "c"].into_iter().for_each(|name| store.apply(workflow("team", name)));
        store.follow(&team);
        backlog.read(&team, StreamId(1));
        assert_eq!(next(&mut backlog, &store), ["1:a", "1:b"]);
        backlog.read(&team, StreamId(2));
        store.apply(workflow("team", "d"));
        store.delete("team", "c", run("c").uid);
        assert_eq!(next(&mut backlog, &store), ["d", "-c"]);
        assert_eq!(next(&mut backlog, &store), ["1:d"]);
        assert_eq!(next(&mut backlog, &store), ["2:a", "2:b"]);
        backlog.push(vec![applied("team", "again")]);
        assert_eq!(next(&mut backlog, &store), ["again"]);
        assert_eq!(next(&mut backlog, &store), ["2:d"]);
        assert!(next(&mut backlog, &store).is_empty() && backlog.is_empty());
    }

    #[test]
    fn records_that_were_not_offered_are_read_again() {
        let (mut backlog, store) = (Backlog::default(), Store::default());
        ["a", "b", "c"].into_iter().for_each(|name| store.apply(workflow("team", name)));
        backlog.read(&"team".into(), StreamId(1));
        for offered in [0, 1, 0] {
            let Some(Slice::Records(records)) = backlog.next(&store, |_| 2, 2) else { panic!("no records") };
            backlog.read_on(&records, offered);
        }
        assert_eq!(next(&mut backlog, &store), ["1:b", "1:c"]);
    }

    #[test]
    fn a_drain_reads_no_more_records() {
        let (mut backlog, store) = (Backlog::default(), Store::default());
        store.apply(workflow("team", "a"));
        backlog.read(&"team".into(), StreamId(1));
        backlog.cancel_readers();
        assert!(next(&mut backlog, &store).is_empty() && backlog.is_empty());
    }
}
