//! Values that many records share.

use std::{borrow::Borrow, collections::HashSet, hash::Hash, sync::Arc};

use super::{Mark, Marks, PipelineName, mark::MarkList};

/// Number of interned values at which unused ones are dropped for the first time.
const MIN_SHRINK: usize = 1024;

/// Interned values of many records: names of namespaces and subscriptions, names of pipelines, and marks. Values
/// without a record are dropped when their number has doubled since the last time, so deleted Workflows leave nothing
/// behind.
#[derive(Debug, Default)]
pub struct Interner {
    strings: Shared<str>,
    pipelines: Shared<PipelineName>,
    marks: Shared<MarkList>,
}

impl Interner {
    /// Returns the shared copy of `text`.
    pub fn string(&mut self, text: &str) -> Arc<str> {
        self.strings.intern(text)
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
        if let Some(shared) = self.values.get(value.borrow()) {
            return shared.clone();
        }
        if self.values.len() >= (2 * self.kept).max(MIN_SHRINK) {
            self.shrink();
        }
        let shared: Arc<T> = value.into();
        self.values.insert(shared.clone());
        shared
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
        let sizes = (interner.strings.values.len(), interner.pipelines.values.len(), interner.marks.values.len());
        assert_eq!(sizes, (3, 1, 1));
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
        let sizes = [interner.strings.values.len(), interner.pipelines.values.len(), interner.marks.values.len()];
        // Pipelines and marks that are not dropped yet still refer to their strings.
        assert!(sizes.iter().all(|size| *size <= 6 * MIN_SHRINK), "{sizes:?}");
        assert!(Arc::ptr_eq(&kept[7], &spec(&mut interner, "kept 7")));
    }
}
