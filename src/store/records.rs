//! The records of a namespace, ordered by name.
//!
//! A list of the API server arrives in this order. It would leave the nodes of a `BTreeMap` half full, with 28 bytes a
//! record. The chunks of this sequence are full: 17 bytes a record, of which 16 are the pointer and the epoch.

use std::sync::Arc;

use crate::model::Workflow;

/// The maximum number of records of a chunk: an insertion moves 1 KiB at most.
const CHUNK: usize = 64;
/// The records by which a chunk grows. Doubling would leave a quarter of it unused.
const STEP: usize = 8;

/// The records of a namespace, whose names differ, with the epoch of the last list or change that contained each.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Not empty, and in order.
    chunks: Vec<Vec<Record>>,
}

#[derive(Debug)]
struct Record {
    workflow: Arc<Workflow>,
    epoch: u32,
}

/// The position of the record of a name, or the position at which it would be inserted.
struct Place {
    chunk: usize,
    at: usize,
    is_taken: bool,
}

impl Records {
    pub(super) fn len(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Returns the record of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Workflow>> {
        let Place { chunk, at, is_taken } = self.find(name);
        is_taken.then(|| &self.chunks[chunk][at].workflow)
    }

    /// Returns the records whose names follow `name`, or all, in order.
    pub(super) fn after(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<Workflow>> {
        let Place { chunk, at, is_taken } =
            name.map_or(Place { chunk: 0, at: 0, is_taken: false }, |name| self.find(name));
        let chunks = self.chunks.get(chunk..).unwrap_or_default();
        chunks.iter().flatten().skip(at + usize::from(is_taken)).map(|record| &record.workflow)
    }

    /// Adds a record, or replaces the one of the same name.
    pub(super) fn insert(&mut self, workflow: Arc<Workflow>, epoch: u32) {
        let Place { mut chunk, mut at, is_taken } = self.find(&workflow.name);
        let record = Record { workflow, epoch };
        if is_taken {
            self.chunks[chunk][at] = record;
            return;
        }
        if self.chunks.is_empty() {
            self.add_chunk(0, Vec::new());
        } else if self.chunks[chunk].len() == CHUNK {
            let is_end = at == CHUNK && chunk + 1 == self.chunks.len();
            let split = if is_end { CHUNK } else { CHUNK / 2 };
            let second = self.chunks[chunk].split_off(split);
            self.chunks[chunk].shrink_to_fit();
            self.add_chunk(chunk + 1, second);
            if at >= split {
                (chunk, at) = (chunk + 1, at - split);
            }
        }
        let chunk = &mut self.chunks[chunk];
        if chunk.len() == chunk.capacity() {
            chunk.reserve_exact(STEP);
        }
        chunk.insert(at, record);
    }

    /// Sets the epoch of the record of this name, if there is one.
    pub(super) fn set_epoch(&mut self, name: &str, epoch: u32) {
        let Place { chunk, at, is_taken } = self.find(name);
        if is_taken {
            self.chunks[chunk][at].epoch = epoch;
        }
    }

    /// Removes the record of this name.
    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<Workflow>> {
        let Place { chunk, at, is_taken } = self.find(name);
        if !is_taken {
            return None;
        }
        let Record { workflow, .. } = self.chunks[chunk].remove(at);
        if self.chunks[chunk].len() <= CHUNK / 4 {
            self.join();
        }
        Some(workflow)
    }

    /// Keeps only the records for which `keep` returns true.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Arc<Workflow>, u32) -> bool) {
        for chunk in &mut self.chunks {
            chunk.retain(|record| keep(&record.workflow, record.epoch));
        }
        self.join();
    }

    fn find(&self, name: &str) -> Place {
        let follow = |chunk: &Vec<Record>| chunk.first().is_some_and(|first| *first.workflow.name <= *name);
        let chunk = self.chunks.partition_point(follow).saturating_sub(1);
        let records = self.chunks.get(chunk).map_or(&[][..], Vec::as_slice);
        let (at, is_taken) = match records.binary_search_by(|record| (*record.workflow.name).cmp(name)) {
            Ok(at) => (at, true),
            Err(at) => (at, false),
        };
        Place { chunk, at, is_taken }
    }

    fn add_chunk(&mut self, at: usize, chunk: Vec<Record>) {
        // Most namespaces need a single chunk.
        if self.chunks.is_empty() {
            self.chunks.reserve_exact(1);
        }
        self.chunks.insert(at, chunk);
    }

    /// Joins adjacent sparse chunks, and drops empty ones.
    fn join(&mut self) {
        self.chunks.retain(|chunk| !chunk.is_empty());
        self.chunks.dedup_by(|next, chunk| {
            let are_sparse = chunk.len() + next.len() <= CHUNK / 2;
            if are_sparse {
                chunk.append(next);
            }
            are_sparse
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{PipelineName, fixtures::succeeded};

    fn record(name: u16) -> Arc<Workflow> {
        Arc::new(Workflow { name: format!("{name:04}").into(), ..succeeded(PipelineName::Unknown) })
    }

    fn names<'a>(records: impl Iterator<Item = &'a Arc<Workflow>>) -> Vec<String> {
        records.map(|record| record.name.to_string()).collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u32),
        SetEpoch(u16, u32),
        Remove(u16),
        RemoveRange(u16, u16),
        Sweep(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (name, epoch) = (0..600_u16, 0..4_u32);
        prop_oneof![
            20 => (name.clone(), epoch.clone()).prop_map(|(name, epoch)| Step::Insert(name, epoch)),
            2 => (name.clone(), epoch.clone()).prop_map(|(name, epoch)| Step::SetEpoch(name, epoch)),
            4 => name.clone().prop_map(Step::Remove),
            1 => (name, 0..200_u16).prop_map(|(first, count)| Step::RemoveRange(first, count)),
            1 => epoch.prop_map(Step::Sweep),
        ]
    }

    fn check(records: &Records, expected: &BTreeMap<String, u32>) {
        assert_eq!(names(records.after(None)), expected.keys().cloned().collect::<Vec<_>>());
        assert_eq!((records.len(), records.is_empty()), (expected.len(), expected.is_empty()));
        assert!(records.chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
    }

    proptest! {
        #[test]
        fn records_are_those_of_an_ordered_map(
            first in 0..300_u16,
            steps in prop::collection::vec(step(), 0..300),
            after in 0..600_u16,
        ) {
            let (mut records, mut expected) = (Records::default(), BTreeMap::new());
            for name in 0..first {
                records.insert(record(2 * name), 0);
                expected.insert(format!("{:04}", 2 * name), 0);
            }
            for step in steps {
                match step {
                    Step::Insert(name, epoch) => {
                        records.insert(record(name), epoch);
                        expected.insert(format!("{name:04}"), epoch);
                    }
                    Step::SetEpoch(name, epoch) => {
                        let name = format!("{name:04}");
                        records.set_epoch(&name, epoch);
                        expected.entry(name).and_modify(|listed| *listed = epoch);
                    }
                    Step::Remove(name) => {
                        let name = format!("{name:04}");
                        let removed = records.remove(&name).map(|record| record.name.to_string());
                        prop_assert_eq!(removed, expected.remove_entry(&name).map(|(name, _)| name));
                    }
                    Step::RemoveRange(first, count) => for name in first..first + count {
                        let name = format!("{name:04}");
                        records.remove(&name);
                        expected.remove(&name);
                    },
                    Step::Sweep(epoch) => {
                        records.retain(|_, listed| listed >= epoch);
                        expected.retain(|_, listed| *listed >= epoch);
                    }
                }
                check(&records, &expected);
            }
            let after = format!("{after:04}");
            let rest: Vec<_> = expected.keys().filter(|name| **name > after).cloned().collect();
            prop_assert_eq!(names(records.after(Some(&after))), rest);
            prop_assert_eq!(records.get(&after).is_some(), expected.contains_key(&after));
        }
    }

    /// A list arrives in the order of names.
    #[test]
    fn a_list_fills_its_chunks() {
        let mut records = Records::default();
        (0..1000).for_each(|name| records.insert(record(name), 0));
        assert_eq!(records.chunks.len(), 1000_usize.div_ceil(CHUNK));
        let capacity: usize = records.chunks.iter().map(Vec::capacity).sum();
        assert!(capacity < 1000 + STEP, "{capacity}");
    }

    #[test]
    fn chunks_of_deleted_records_are_joined() {
        let mut records = Records::default();
        (0..1000).for_each(|name| records.insert(record(name), 0));
        (0..1000).filter(|name| name % 50 > 0).for_each(|name| drop(records.remove(&format!("{name:04}"))));
        assert_eq!((records.len(), records.chunks.len()), (20, 1));
    }
}
