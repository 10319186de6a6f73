//! Values that many records share.

use std::{borrow::Borrow, collections::HashSet, hash::Hash, sync::Arc};

use super::{Mark, Marks, PipelineName, mark::MarkList};

/// Number of interned values at which unused ones are dropped for the first time.
const MIN_SHRINK: usize = 1024;

/// Interned values of many records: names of namespaces and subscriptions, names of pipelines, and marks. Values
/// without a record are dropped when the number of all values of their kind has doubled since the last time. So there
/// are at most twice as many as records had then, or [`MIN_SHRINK`].
#[derive(Debug, Default)]
pub struct Interner {
    strings: Shared<str>,
    pipelines: Shared<PipelineName>,
    marks: Shared<MarkList>,
}

impl Interner {
    /// Returns the shared copy of `text`.
    pub fn string(&mut self, text: &str) -> Arc<str> {
        if let Some(shared) = self.strings.get(text) {
            return shared;
        }
        if self.strings.is_full() {
            // Unused pipelines and marks would keep their strings.
            self.shrink();
        }
        self.strings.insert(text.into())
    }

    /// Returns the shared copy of a pipeline's name, whose text is from [`Interner::string`].
    pub fn pipeline(&mut self, name: PipelineName) -> Arc<PipelineName> {
        self.pipelines.intern(name)
    }

    /// Returns these marks, with a list that equal ones share.
    pub fn marks(&mut self, marks: Vec<Mark>) -> Marks {
        Marks::from(marks).shared(|list| self.marks.intern(list))
    }

    /// Drops the values without another reference.
    pub fn shrink(&mut self) {
        // Strings are last, because pipelines and marks refer to them.
        self.pipelines.shrink();
        self.marks.shrink();
        self.strings.shrink();
    }
}

/// A set of interned values.
#[derive(Debug)]
struct Shared<T: ?Sized> {
    values: HashSet<Arc<T>>,
    kept: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self { values: HashSet::default(), kept: 0 }
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    fn intern(&mut self, value: impl Borrow<T> + Into<Arc<T>>) -> Arc<T> {
        if let Some(shared) = self.get(value.borrow()) {
            return shared;
        }
        if self.is_full() {
            self.shrink();
        }
        self.insert(value.into())
    }

    fn get(&self, value: &T) -> Option<Arc<T>> {
        self.values.get(value).cloned()
    }

    fn insert(&mut self, value: Arc<T>) -> Arc<T> {
        self.values.insert(value.clone());
        value
    }

    /// Returns whether the number of values has doubled since the last time that unused ones were dropped.
    fn is_full(&self) -> bool {
        self.values.len() >= (2 * self.kept).max(MIN_SHRINK)
    }

    fn shrink(&mut self) {
        self.values.retain(|shared| Arc::strong_count(shared) > 1);
        self.values.shrink_to_fit();
        self.kept = self.values.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RunOutcome, SubscriptionName};

    /// Numbers of strings, pipelines, and lists of marks.
    fn sizes(interner: &Interner) -> [usize; 3] {
        [interner.strings.values.len(), interner.pipelines.values.len(), interner.marks.values.len()]
    }

    /// The marks of one subscription.
    fn marks(interner: &mut Interner, subscription: &str) -> Marks {
        let subscription = SubscriptionName::from_annotation(interner.string(subscription));
        interner.marks(vec![Mark { subscription, outcome: RunOutcome::Succeeded }])
    }

    fn spec(interner: &mut Interner, name: &str) -> Arc<PipelineName> {
        let name = PipelineName::Spec(interner.string(name));
        interner.pipeline(name)
    }

    #[test]
    fn equal_values_are_shared_and_unused_ones_dropped() {
        let mut interner = Interner::default();
        let (team, again, other) = (interner.string("team"), interner.string("team"), interner.string("other"));
        assert!(Arc::ptr_eq(&team, &again) && !Arc::ptr_eq(&team, &other));
        let (iris, same, taxi) =
            (spec(&mut interner, "iris"), spec(&mut interner, "iris"), spec(&mut interner, "taxi"));
        assert!(Arc::ptr_eq(&iris, &same) && iris != taxi);
        let (a, equal, b) = (marks(&mut interner, "a"), marks(&mut interner, "a"), marks(&mut interner, "b"));
        assert!(std::ptr::eq(&*a, &*equal) && a != b);
        drop((other, taxi, b));
        interner.shrink();
        // `team`, and the names in the pipeline and in the marks.
        assert_eq!(sizes(&interner), [3, 1, 1]);
        assert!(Arc::ptr_eq(&team, &interner.string("team")));
        assert!(std::ptr::eq(&*a, &*marks(&mut interner, "a")));
    }

    #[test]
    fn no_marks_are_not_interned() {
        let mut interner = Interner::default();
        assert_eq!(interner.marks(Vec::new()), Marks::default());
        assert!(interner.marks.values.is_empty());
    }

    #[test]
    fn values_of_deleted_workflows_do_not_accumulate() {
        let mut interner = Interner::default();
        let kept: Vec<_> = (0..100).map(|i| spec(&mut interner, &format!("kept {i}"))).collect();
        for i in 0..100_000 {
            spec(&mut interner, &format!("pipeline {i}"));
            marks(&mut interner, &format!("subscription {i}"));
        }
        let sizes = sizes(&interner);
        assert!(sizes.iter().all(|size| *size <= MIN_SHRINK), "{sizes:?}");
        assert!(Arc::ptr_eq(&kept[7], &spec(&mut interner, "kept 7")));
    }

    /// A tenant patches names and marks of all its Workflows over and over. At any time there are at most twice as many
    /// values as records have, with those of one record that is being replaced.
    #[test]
    fn replaced_values_of_live_workflows_do_not_accumulate() {
        const WORKFLOWS: usize = 3 * MIN_SHRINK;
        const MARKS: usize = 3;
        let mut interner = Interner::default();
        let mut records = Vec::new();
        for patch in 0..20 * WORKFLOWS {
            let pipeline = spec(&mut interner, &format!("pipeline {patch}"));
            let subscriptions: Vec<_> = (0..MARKS)
                .map(|mark| interner.string(&format!("subscription {patch} {mark}")))
                .map(SubscriptionName::from_annotation)
                .collect();
            let marks =
                subscriptions.into_iter().map(|subscription| Mark { subscription, outcome: RunOutcome::Failed });
            let record = (pipeline, interner.marks(marks.collect()));
            if records.len() < WORKFLOWS {
                records.push(record);
            } else {
                records[patch % WORKFLOWS] = record;
            }
            let [strings, pipelines, marks] = sizes(&interner);
            let live = records.len() + 1;
            assert!(strings <= (2 * live * (1 + MARKS)).max(MIN_SHRINK), "{strings} strings of {live} records");
            assert!(
                pipelines.max(marks) <= (2 * live).max(MIN_SHRINK),
                "{pipelines} pipelines, {marks} lists of marks"
            );
        }
    }
}
