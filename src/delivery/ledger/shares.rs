//! The shares of namespaces in something that is limited in all, so that the namespace with the largest one gives way.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// The numbers of things that namespaces hold.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Shares {
    by_namespace: HashMap<Arc<str>, usize>,
    /// The same, by size.
    by_size: BTreeSet<(usize, Arc<str>)>,
    total: usize,
}

impl Shares {
    /// The number of all namespaces.
    pub(in crate::delivery) fn total(&self) -> usize {
        self.total
    }

    pub(in crate::delivery) fn add(&mut self, namespace: &Arc<str>, count: usize) {
        self.change(namespace, |share| share + count);
    }

    pub(in crate::delivery) fn remove(&mut self, namespace: &Arc<str>, count: usize) {
        self.change(namespace, |share| share - count);
    }

    /// Returns the namespace that holds most: `preferred`, if no other holds more.
    pub(in crate::delivery) fn largest<'a>(&'a self, preferred: &'a Arc<str>) -> &'a Arc<str> {
        let share = self.by_namespace.get(preferred).copied().unwrap_or_default();
        self.by_size.last().filter(|(most, _)| *most > share).map_or(preferred, |(_, namespace)| namespace)
    }

    fn change(&mut self, namespace: &Arc<str>, change: impl FnOnce(usize) -> usize) {
        let before = self.by_namespace.remove(namespace).unwrap_or_default();
        let after = change(before);
        self.by_size.remove(&(before, namespace.clone()));
        if after > 0 {
            self.by_namespace.insert(namespace.clone(), after);
            self.by_size.insert((after, namespace.clone()));
        }
        self.total = self.total - before + after;
    }
}
