//! The artifacts that an explained lookup has seen. Tenants decide how many there are, so their number and texts are
//! limited; artifacts of other types make room for the rest.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, hash_map::RandomState},
    hash::{BuildHasher, Hash},
};

use crate::model::{Artifact, SeenArtifact, text::beginning};

/// Maximum number of artifacts: more than a person reads, and at most a few megabytes.
const MAX_ARTIFACTS: usize = 1000;
/// Maximum length of a text in bytes.
pub(crate) const MAX_TEXT: usize = 1024;
/// Maximum number of further artifacts that are counted, which takes a megabyte or two.
const MAX_COUNTED: usize = 100_000;

/// A limited number of artifacts by their ids.
#[derive(Debug)]
pub(crate) struct Seen<K, T> {
    artifacts: BTreeMap<K, T>,
    of_other_types: BTreeSet<K>,
    /// Hashes of the ids of further artifacts: a listing may name one several times.
    left_out: HashSet<u64>,
    hasher: RandomState,
}

impl<K, T> Default for Seen<K, T> {
    fn default() -> Self {
        Self {
            artifacts: BTreeMap::new(),
            of_other_types: BTreeSet::new(),
            left_out: HashSet::new(),
            hasher: RandomState::new(),
        }
    }
}

impl<K: Ord + Clone + Hash, T> Seen<K, T> {
    /// Adds an artifact, or replaces it.
    pub(crate) fn insert(&mut self, id: K, is_of_other_type: bool, artifact: T) {
        if !self.artifacts.contains_key(&id) && !self.make_room(&id, is_of_other_type) {
            return;
        }
        if is_of_other_type {
            self.of_other_types.insert(id.clone());
        }
        self.artifacts.insert(id, artifact);
    }

    pub(crate) fn get_mut(&mut self, id: &K) -> Option<&mut T> {
        self.artifacts.get_mut(id)
    }

    /// The number of artifacts that are not kept.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out.len()
    }

    /// The artifacts, ordered by id.
    pub(crate) fn into_artifacts(self) -> impl Iterator<Item = (K, T)> {
        self.artifacts.into_iter()
    }

    /// Makes room for another artifact. Returns `false` if there is none.
    fn make_room(&mut self, id: &K, is_of_other_type: bool) -> bool {
        if self.artifacts.len() < MAX_ARTIFACTS {
            return true;
        }
        let removed = if is_of_other_type { None } else { self.of_other_types.pop_last() };
        let left_out = self.hasher.hash_one(removed.as_ref().unwrap_or(id));
        if self.left_out.len() < MAX_COUNTED {
            self.left_out.insert(left_out);
        }
        removed.is_some_and(|id| self.artifacts.remove(&id).is_some())
    }
}

impl SeenArtifact {
    /// Names the node and the key as the lookup does, which knows more about those of models.
    pub(crate) fn set_output(&mut self, model: &Artifact) {
        self.node = text(&model.node);
        self.key = text(&model.key);
    }
}

/// The beginning of a text that is not empty.
pub(crate) fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| beginning(text, MAX_TEXT).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_of_other_types_make_room_and_none_counts_twice() {
        let mut seen = Seen::default();
        for _ in 0..2 {
            (0..1500).for_each(|id| seen.insert(id, true, id));
        }
        assert_eq!((seen.artifacts.len(), seen.left_out()), (1000, 500));
        (2000..2010).for_each(|id| seen.insert(id, false, id));
        assert_eq!((seen.artifacts.len(), seen.left_out()), (1000, 510));
        assert_eq!(seen.get_mut(&2009), Some(&mut 2009));
        assert_eq!(seen.get_mut(&999), None);
        assert_eq!(seen.into_artifacts().map(|(id, _)| id).max(), Some(2009));
    }
}
