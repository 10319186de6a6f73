//! What must hold, at any time and at the end.

use super::*;
use crate::delivery::ledger::lookups::SLOW_FOR_EACH_PLACE;

impl World {
    pub(in super::super) fn check_bounds(&self) {
        assert!(self.questions.len() <= LOOKUPS.1, "{} lookups are under way", self.questions.len());
        let mut by_namespace: HashMap<_, usize> = HashMap::new();
        self.questions.iter().for_each(|question| *by_namespace.entry(&question.workflow.namespace).or_default() += 1);
        let at_most = LOOKUPS.0 * (1 + SLOW_FOR_EACH_PLACE);
        assert!(by_namespace.values().all(|lookups| *lookups <= at_most), "{by_namespace:?}");
        assert!(self.patches.len() <= PATCHES);
        let mut patched: Vec<_> = self.patches.iter().map(|patch| patch.uid).collect();
        patched.sort_unstable();
        assert!(patched.windows(2).all(|pair| pair[0] != pair[1]), "two patches of one Workflow are under way");
        for timer in self.ledger.timers.running() {
            let has_reason = match timer {
                Timer::Confirm(stream) | Timer::HandOff(stream) | Timer::Shared(stream) => {
                    self.streams.contains(stream)
                }
                Timer::Departed(uid) => self.ledger.departed.contains(*uid),
                Timer::Idle(namespace) => {
                    self.ledger.namespaces.get(namespace).is_some_and(|namespace| namespace.streams.is_empty())
                }
                Timer::Lookup(id) | Timer::Slow(id) => self.ledger.lookups.contains(*id),
                // Nobody here has a limit of age.
                Timer::Clock => false,
                Timer::Mark(uid) => self.ledger.marks.contains(*uid),
            };
            assert!(has_reason, "{timer:?} has no reason");
        }
        for namespace in self.ledger.namespaces.values() {
            let empty = namespace.subscriptions.iter().find(|(_, consumer)| consumer.is_empty());
            assert!(empty.is_none(), "{empty:?}");
        }
    }

    pub(in super::super) fn check_everything_delivered(&self) {
        for object in self.api.values().filter(|object| has_model(object.workflow.uid)) {
            self.witness.check_delivered(&object.workflow);
        }
        self.witness.check_departed();
        let census = self.ledger.census();
        assert_eq!((census.pending, census.marks), (0, 0), "pending runs and marks");
        assert!(self.ledger.lookups.is_empty(), "{:#?}", self.ledger.lookups);
        assert_eq!(self.ledger.departed.len(), 0);
    }

    pub(in super::super) fn check_nothing_left(&self) {
        let ledger = &self.ledger;
        assert_eq!(ledger.timers.running().collect::<Vec<_>>(), Vec::<&Timer>::new());
        assert!(ledger.namespaces.is_empty() && ledger.streams.is_empty(), "{ledger:#?}");
        assert!(ledger.lookups.is_empty() && ledger.dirty.is_empty());
        assert_eq!((ledger.marks.len(), ledger.departed.len()), (0, 0));
    }
}
