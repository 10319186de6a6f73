//! Checks of what must hold at any time, and at the end.

use super::*;
use crate::delivery::ledger::{lookups::SLOW_PER_PLACE, marks::turns};

impl TestEnv {
    pub(in super::super) fn check_bounds(&mut self) {
        self.check_limits();
        self.check_timers();
        self.check_turns();
        self.check_held();
        let registry = &self.ledger.registry;
        for namespace in registry.namespaces.values() {
            let empty = namespace.subscriptions.iter().find(|(_, state)| state.is_empty());
            assert!(empty.is_none(), "{empty:?}");
        }
        for stream in registry.streams.values() {
            let types = &stream.subscription.artifact_types;
            let without = stream.awaiting_lookup().find(|run| !self.ledger.lookups.has_lookup(*run, types));
            assert!(without.is_none(), "{without:?} awaits a lookup that does not exist");
        }
    }

    fn check_limits(&self) {
        assert!(self.lookups.len() <= LOOKUPS.total, "{} lookups are in flight", self.lookups.len());
        let mut by_namespace: HashMap<_, usize> = HashMap::new();
        self.lookups.iter().for_each(|lookup| *by_namespace.entry(&lookup.workflow.namespace).or_default() += 1);
        let at_most = LOOKUPS.per_namespace * (1 + SLOW_PER_PLACE);
        assert!(by_namespace.values().all(|lookups| *lookups <= at_most), "{by_namespace:?}");
        let at_most = PATCHES.per_namespace * (1 + turns::SLOW_PER_PLACE);
        let mut by_namespace: HashMap<_, usize> = HashMap::new();
        self.patches.iter().for_each(|patch| *by_namespace.entry(&patch.patch.namespace).or_default() += 1);
        assert!(by_namespace.values().all(|patches| *patches <= at_most), "{by_namespace:?}");
        let mut patched: Vec<_> = self.patches.iter().map(|patch| patch.patch.uid).collect();
        patched.sort_unstable();
        assert!(patched.windows(2).all(|pair| pair[0] != pair[1]), "two patches of one Workflow are in flight");
    }

    fn check_timers(&self) {
        for timer in self.ledger.timers.running() {
            let has_reason = match timer {
                Timer::Confirm(stream)
                | Timer::HandOff(stream)
                | Timer::CheckShared(stream)
                | Timer::MaxAge(stream)
                | Timer::EndOfAge(stream) => self.streams.contains(stream),
                Timer::DropDeleted(run) => self.ledger.deleted.contains(*run),
                Timer::ForgetSubscriptions(namespace) => self.ledger.registry.namespaces.contains_key(namespace),
                Timer::DropNamespace(namespace) => {
                    self.ledger.registry.namespaces.get(namespace).is_some_and(|namespace| namespace.streams.is_empty())
                }
                Timer::RetryLookup(id) | Timer::SlowLookup(id) => self.ledger.lookups.get(*id).is_some(),
                // No subscription here has a `maxAge`.
                Timer::CheckClock => false,
                Timer::RetryMark(run) | Timer::SlowPatch(run) => self.ledger.marks.contains(*run),
                Timer::CheckReaders => self.ledger.flow.unacknowledged.is_exhausted(),
                Timer::LookAhead(namespace, run) => self.ledger.ahead.is_young(namespace, *run),
                // It ends by itself after a fraction of a second.
                Timer::LookAheadRate => true,
                // The rate is not limited here.
                Timer::MarkRate => false,
            };
            assert!(has_reason, "{timer:?} has no reason");
        }
    }

    pub(in super::super) fn check_everything_delivered(&self) {
        for object in self.api.values().filter(|object| has_model(object.workflow.uid)) {
            self.oracle.check_delivered(&object.workflow);
        }
        self.oracle.check_deleted();
        let stats = self.ledger.stats();
        assert_eq!((stats.pending_runs(), stats.pending_marks), (0, 0), "pending runs and marks");
        assert!(self.ledger.lookups.is_empty(), "{:#?}", self.ledger.lookups);
        assert_eq!(self.ledger.deleted.len(), 0);
    }

    pub(in super::super) fn check_nothing_left(&self) {
        assert_empty(&self.ledger);
    }
}
