//! The runs that were counted as filtered, so that each counts once for a subscription, however often streams attach.
//!
//! A bit for each run and subscription: hundreds of subscriptions may exclude a hundred thousand runs.

use std::collections::HashMap;

use crate::model::{SubscriptionName, Uid};

/// Subscriptions without a stream for which this is remembered. Those with a stream come on top.
const MAX_UNUSED: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FilteredRuns {
    positions: HashMap<Uid, usize>,
    /// Positions of runs that were forgotten.
    free: Vec<usize>,
    by_subscription: HashMap<SubscriptionName, Vec<u64>>,
}

impl FilteredRuns {
    /// Records that a filter excludes a run. Returns whether it was not recorded before.
    pub(super) fn record(&mut self, run: Uid, subscription: &SubscriptionName) -> bool {
        let new = self.positions.len();
        let position = *self.positions.entry(run).or_insert_with(|| self.free.pop().unwrap_or(new));
        if !self.by_subscription.contains_key(subscription) {
            self.by_subscription.insert(subscription.clone(), Vec::new());
        }
        let bits = self.by_subscription.get_mut(subscription).expect("inserted above");
        let (word, bit) = (position / 64, 1 << (position % 64));
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        let is_new = bits[word] & bit == 0;
        bits[word] |= bit;
        is_new
    }

    /// Forgets a run that was restarted, changed or deleted.
    pub(super) fn forget(&mut self, run: Uid) {
        let Some(position) = self.positions.remove(&run) else { return };
        let (word, bit) = (position / 64, 1 << (position % 64));
        self.by_subscription.values_mut().filter_map(|bits| bits.get_mut(word)).for_each(|bits| *bits &= !bit);
        self.free.push(position);
        if self.positions.is_empty() {
            *self = Self::default();
        }
    }

    /// Forgets the subscriptions without a stream, where there are many.
    pub(super) fn trim(&mut self, has_stream: impl Fn(&SubscriptionName) -> bool) {
        let unused = self.by_subscription.keys().filter(|name| !has_stream(name)).count();
        if unused > MAX_UNUSED {
            self.by_subscription.retain(|name, _| has_stream(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::fixtures::name;

    #[test]
    fn each_run_is_new_once_for_each_subscription() {
        let mut filtered = FilteredRuns::default();
        let (a, b) = (name("a"), name("b"));
        for run in (0..200).map(Uid::from) {
            assert!(filtered.record(run, &a) && !filtered.record(run, &a) && filtered.record(run, &b));
        }
        filtered.forget(Uid::from(77));
        filtered.forget(Uid::from(77));
        assert!(filtered.record(Uid::from(300), &b), "another run takes its place");
        assert!(filtered.record(Uid::from(77), &a) && !filtered.record(Uid::from(78), &a));
        assert_eq!(filtered.positions.len(), 201);
    }

    #[test]
    fn forgotten_runs_leave_nothing() {
        let mut filtered = FilteredRuns::default();
        for round in 0..10 {
            let runs = (0..1000).map(|run| Uid::from(round * 1000 + run));
            runs.clone().for_each(|run| assert!(filtered.record(run, &name("a"))));
            assert!(filtered.by_subscription[&name("a")].len() <= 1000 / 64 + 1);
            runs.for_each(|run| filtered.forget(run));
            assert!(filtered.positions.is_empty() && filtered.free.is_empty() && filtered.by_subscription.is_empty());
        }
    }

    #[test]
    fn a_limited_number_of_unused_subscriptions_is_remembered() {
        let mut filtered = FilteredRuns::default();
        let run = Uid::from(1);
        for n in 0..=MAX_UNUSED {
            filtered.record(run, &name(&format!("s{n}")));
        }
        filtered.trim(|name| name.as_str() == "s7");
        assert_eq!(filtered.by_subscription.len(), MAX_UNUSED + 1, "one of them is in use");
        filtered.record(run, &name("another"));
        filtered.trim(|name| name.as_str() == "s7");
        assert!(!filtered.record(run, &name("s7")) && filtered.record(run, &name("s8")));
    }
}
