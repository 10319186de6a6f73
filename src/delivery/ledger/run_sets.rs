//! Sets of runs, one for each of many keys: a bit for each run and key. Hundreds of streams may have a set of a hundred
//! thousand runs each.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use crate::model::Uid;

/// See the module.
#[derive(Debug)]
pub(super) struct RunSets<K> {
    /// The position of each run in the sets.
    positions: HashMap<Uid, usize>,
    /// Positions of runs that were removed.
    free: Vec<usize>,
    sets: HashMap<K, Vec<u64>>,
}

impl<K> Default for RunSets<K> {
    fn default() -> Self {
        Self { positions: HashMap::new(), free: Vec::new(), sets: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> RunSets<K> {
    /// Adds a run to a set. Returns whether it was not there.
    pub(super) fn insert(&mut self, run: Uid, key: &K) -> bool {
        let new = self.positions.len();
        let position = *self.positions.entry(run).or_insert_with(|| self.free.pop().unwrap_or(new));
        if !self.sets.contains_key(key) {
            self.sets.insert(key.clone(), Vec::new());
        }
        let words = self.sets.get_mut(key).expect("inserted above");
        let (word, bit) = place(position);
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let is_new = words[word] & bit == 0;
        words[word] |= bit;
        is_new
    }

    pub(super) fn contains(&self, run: Uid, key: &K) -> bool {
        let Some((word, bit)) = self.positions.get(&run).copied().map(place) else { return false };
        self.sets.get(key).and_then(|words| words.get(word)).is_some_and(|word| word & bit != 0)
    }

    /// Removes a run from every set.
    pub(super) fn remove(&mut self, run: Uid) {
        let Some(position) = self.positions.remove(&run) else { return };
        let (word, bit) = place(position);
        self.sets.values_mut().filter_map(|words| words.get_mut(word)).for_each(|word| *word &= !bit);
        self.free.push(position);
        if self.positions.is_empty() {
            *self = Self::default();
        }
    }

    /// Drops sets, if more than `limit` of them are not in use.
    pub(super) fn trim(&mut self, limit: usize, is_used: impl Fn(&K) -> bool) {
        let unused: HashSet<_> = self.sets.keys().filter(|key| !is_used(key)).cloned().collect();
        if unused.len() > limit {
            self.sets.retain(|key, _| !unused.contains(key));
        }
    }

    /// The runs that are in a set, or were in one that was dropped.
    #[cfg(test)]
    pub(super) fn runs(&self) -> usize {
        self.positions.len()
    }
}

fn place(position: usize) -> (usize, u64) {
    (position / 64, 1 << (position % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &&str = &"a";
    const B: &&str = &"b";

    #[test]
    fn sets_differ_by_key_and_run() {
        let mut sets = RunSets::default();
        for run in (0..200).map(Uid::from) {
            assert!(sets.insert(run, A) && !sets.insert(run, A));
            assert!(!sets.contains(run, B) && sets.insert(run, B) && sets.contains(run, B));
        }
        sets.remove(Uid::from(77));
        sets.remove(Uid::from(77));
        assert!(!sets.contains(Uid::from(77), A) && !sets.contains(Uid::from(77), B));
        assert!(sets.insert(Uid::from(300), B), "another run takes its place");
        assert!(!sets.contains(Uid::from(300), A) && sets.contains(Uid::from(78), A));
        assert!(sets.insert(Uid::from(77), A));
        assert_eq!(sets.runs(), 201);
    }

    #[test]
    fn removed_runs_leave_nothing() {
        let mut sets = RunSets::default();
        for round in 0..10 {
            let runs = (0..1000).map(|run| Uid::from(round * 1000 + run));
            runs.clone().for_each(|run| assert!(sets.insert(run, A)));
            assert!(sets.sets[A].len() <= 1000 / 64 + 1);
            runs.for_each(|run| sets.remove(run));
            assert!(sets.positions.is_empty() && sets.free.is_empty() && sets.sets.is_empty());
        }
    }

    #[test]
    fn unused_sets_are_dropped_where_they_are_many() {
        let mut sets = RunSets::default();
        let run = Uid::from(1);
        (0..5).for_each(|key| assert!(sets.insert(run, &key)));
        sets.trim(4, |key| *key == 3);
        assert_eq!(sets.sets.len(), 5, "one of them is in use");
        sets.insert(run, &5);
        sets.trim(4, |key| *key == 3);
        assert_eq!(sets.sets.keys().collect::<Vec<_>>(), [&3]);
    }
}
