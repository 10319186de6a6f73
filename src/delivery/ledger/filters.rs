//! The verdicts of the pipeline filters of a namespace's streams.
//!
//! Tenants choose the patterns and the names, and one comparison of 64 long patterns can take half a second. So equal
//! filters are shared, each name is compared with each of them at most once, and the comparisons of one turn are limited:
//! a verdict may stay open, and its comparison is continued in a later turn. Namespaces take turns: those that have waited
//! for the longest come first.

use std::{collections::HashMap, sync::Arc};

use crate::model::{PipelineFilter, glob};

/// Names whose verdicts are remembered. Beyond that, all are forgotten.
const MAX_NAMES: usize = 4096;
/// Steps of comparisons in a turn, about a millisecond. The last pattern may exceed them, in the worst case by 10 ms.
const STEPS_PER_TURN: usize = 100_000;
/// Steps below which a name is compared regardless of the limit, so that usual filters never wait for unusual ones.
const CHEAP: usize = 5_000;
/// The factor by which braces may extend a pattern.
const MAX_EXPANSION: usize = 16;

/// A filter of one or several streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FilterId(u64);

#[derive(Debug, Default)]
pub(super) struct Filters {
    ids: HashMap<PipelineFilter, FilterId>,
    filters: HashMap<FilterId, Shared>,
    /// The index of each name in [`Shared::verdicts`].
    names: HashMap<Arc<str>, usize>,
    last_id: u64,
    /// The turn since which an expensive comparison of the namespace waits.
    waiting_since: Option<u64>,
}

#[derive(Debug)]
struct Shared {
    filter: PipelineFilter,
    streams: usize,
    /// The sizes of all patterns.
    size: usize,
    verdicts: Vec<Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The number of patterns that were compared without a match.
    Open(u16),
    Decided(bool),
}

/// The steps that are left for expensive comparisons in a turn.
#[derive(Debug)]
pub(super) struct Steps {
    left: usize,
    turn: u64,
    /// The begins of the longest waits in this turn and in the two before. There are two kinds of turns, and a namespace
    /// may wait in only one of them.
    longest: [Option<u64>; 3],
}

impl Default for Steps {
    fn default() -> Self {
        Self { left: STEPS_PER_TURN, turn: 0, longest: [None; 3] }
    }
}

impl Steps {
    /// Begins the next turn.
    pub(super) fn begin_turn(&mut self) {
        let [this, last, _] = self.longest;
        *self = Self { left: STEPS_PER_TURN, turn: self.turn + 1, longest: [None, this, last] };
    }

    /// Returns whether expensive comparisons have to wait for the next turn.
    pub(super) fn are_used_up(&self) -> bool {
        self.left == 0
    }

    /// Returns whether a namespace may compare, which has waited since this turn: unless another one has waited for longer.
    fn may_compare(&mut self, waiting_since: &mut Option<u64>) -> bool {
        let since = waiting_since.unwrap_or(self.turn);
        let [longest, before @ ..] = &mut self.longest;
        let is_next = before.iter().flatten().all(|longest| since <= *longest);
        if is_next && self.left > 0 {
            *waiting_since = None;
            return true;
        }
        *waiting_since = Some(since);
        *longest = Some(longest.map_or(since, |longest| longest.min(since)));
        false
    }

    fn spend(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }
}

impl Filters {
    /// Adds the filter of a stream, and replaces it by an equal one that is there. Returns `None` if it is unlimited.
    pub(super) fn add(&mut self, filter: &mut PipelineFilter) -> Option<FilterId> {
        if filter.is_unlimited() {
            return None;
        }
        let id = *self.ids.entry(filter.clone()).or_insert_with(|| {
            self.last_id += 1;
            FilterId(self.last_id)
        });
        let shared = self.filters.entry(id).or_insert_with(|| Shared {
            filter: filter.clone(),
            streams: 0,
            size: filter.entries().iter().map(|pattern| size(pattern)).sum(),
            verdicts: Vec::new(),
        });
        shared.streams += 1;
        filter.clone_from(&shared.filter);
        Some(id)
    }

    /// Removes the filter of a stream that has ended.
    pub(super) fn remove(&mut self, id: FilterId) {
        let shared = self.filters.get_mut(&id).expect("the filter of a stream was added");
        shared.streams -= 1;
        if shared.streams == 0 {
            self.ids.remove(&shared.filter);
            self.filters.remove(&id);
        }
        if self.filters.is_empty() {
            self.names = HashMap::new();
        }
    }

    /// Returns whether a filter matches a name, or `None` if that is not known before a later turn.
    pub(super) fn matches(&mut self, id: FilterId, name: &Arc<str>, steps: &mut Steps) -> Option<bool> {
        if self.names.len() == MAX_NAMES && !self.names.contains_key(name) {
            self.names.clear();
            self.filters.values_mut().for_each(|shared| shared.verdicts.clear());
        }
        let next = self.names.len();
        let index = *self.names.entry(name.clone()).or_insert(next);
        let shared = self.filters.get_mut(&id).expect("the filter of a stream was added");
        if shared.verdicts.len() <= index {
            shared.verdicts.resize(index + 1, Verdict::Open(0));
        }
        match shared.verdicts[index] {
            Verdict::Decided(verdict) => Some(verdict),
            Verdict::Open(compared) => {
                let verdict = shared.compare(compared, name, steps, &mut self.waiting_since);
                shared.verdicts[index] = verdict;
                match verdict {
                    Verdict::Decided(verdict) => Some(verdict),
                    Verdict::Open(_) => None,
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.filters.len()
    }
}

impl Shared {
    fn compare(&self, mut compared: u16, name: &str, steps: &mut Steps, waiting_since: &mut Option<u64>) -> Verdict {
        let patterns = self.filter.entries();
        if compared == 0 && patterns.iter().any(|pattern| **pattern == *name) {
            return Verdict::Decided(true);
        }
        let is_cheap = self.size * name.len() <= CHEAP;
        if !is_cheap && !steps.may_compare(waiting_since) {
            return Verdict::Open(compared);
        }
        for pattern in &patterns[usize::from(compared)..] {
            if !is_cheap {
                if steps.are_used_up() {
                    return Verdict::Open(compared);
                }
                steps.spend(size(pattern) * name.len());
            }
            if glob::matches(pattern, name) {
                return Verdict::Decided(true);
            }
            compared += 1;
        }
        Verdict::Decided(false)
    }
}

/// The length of a pattern with its braces expanded, at most.
fn size(pattern: &str) -> usize {
    pattern.len() * if pattern.contains('{') { MAX_EXPANSION } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(patterns: &[&str]) -> PipelineFilter {
        PipelineFilter::matching(patterns.iter().copied()).unwrap()
    }

    /// Patterns and a name whose comparison takes many steps.
    fn expensive() -> (PipelineFilter, Arc<str>) {
        let patterns: Vec<_> = (180..244).map(|length| format!("*a{}b", "?".repeat(length))).collect();
        (filter(&patterns.iter().map(String::as_str).collect::<Vec<_>>()), "a".repeat(512).into())
    }

    /// The number of turns until there is a verdict.
    fn turns(filters: &mut Filters, id: FilterId, name: &Arc<str>) -> usize {
        (1..).find(|_| filters.matches(id, name, &mut Steps::default()).is_some()).unwrap()
    }

    #[test]
    fn equal_filters_are_shared_until_their_last_stream_ends() {
        let mut filters = Filters::default();
        let (mut first, mut second) = (filter(&["penguin*", "iris"]), filter(&["iris", "penguin*", "iris"]));
        let id = filters.add(&mut first).unwrap();
        assert_eq!(filters.add(&mut second), Some(id));
        assert!(std::ptr::eq(first.entries(), second.entries()), "the patterns are in memory once");
        assert_ne!(filters.add(&mut filter(&["iris"])), Some(id));
        assert_eq!(filters.add(&mut PipelineFilter::default()), None);
        filters.remove(id);
        assert_eq!(filters.matches(id, &"penguins".into(), &mut Steps::default()), Some(true));
        filters.remove(id);
        assert_eq!(filters.len(), 1);
    }

    #[test]
    fn a_verdict_is_that_of_the_filter() {
        let mut filters = Filters::default();
        let id = filters.add(&mut filter(&["[Demo] TFX", "penguin-*", "{a,b}?"])).unwrap();
        for _ in 0..2 {
            for (name, expected) in [("[Demo] TFX", true), ("penguin-a", true), ("b1", true), ("penguin", false)] {
                assert_eq!(filters.matches(id, &name.into(), &mut Steps::default()), Some(expected), "{name}");
            }
        }
    }

    /// It goes on where the last turn ended.
    #[test]
    fn an_expensive_verdict_takes_several_turns_and_is_remembered() {
        let mut filters = Filters::default();
        let (mut patterns, name) = expensive();
        let id = filters.add(&mut patterns).unwrap();
        let turns_of = turns(&mut filters, id, &name);
        assert!((32..=64).contains(&turns_of), "{turns_of} turns for 64 patterns");
        assert_eq!(turns(&mut filters, id, &name), 1, "remembered");
        assert_eq!(
            filters.matches(id, &name, &mut Steps { left: 0, ..Steps::default() }),
            Some(false),
            "without a step"
        );
    }

    #[test]
    fn a_cheap_verdict_waits_for_no_expensive_one() {
        let mut filters = Filters::default();
        let (mut patterns, name) = expensive();
        let (expensive, cheap) = (filters.add(&mut patterns).unwrap(), filters.add(&mut filter(&["iris"])).unwrap());
        let mut steps = Steps::default();
        while !steps.are_used_up() {
            assert_eq!(filters.matches(expensive, &name, &mut steps), None);
        }
        assert_eq!(filters.matches(cheap, &"penguin".into(), &mut steps), Some(false));
    }

    /// In each turn, the first namespace is asked first, and has more to compare than a turn allows.
    #[test]
    fn namespaces_take_turns_in_expensive_comparisons() {
        let mut namespaces: [Filters; 4] = Default::default();
        let (mut patterns, name) = expensive();
        let ids = namespaces.each_mut().map(|filters| filters.add(&mut patterns).unwrap());
        let (mut steps, mut decided) = (Steps::default(), [None; 4]);
        for turn in 0..800 {
            for (namespace, filters) in namespaces.iter_mut().enumerate() {
                if filters.matches(ids[namespace], &name, &mut steps).is_some() {
                    decided[namespace].get_or_insert(turn);
                }
            }
            steps.begin_turn();
        }
        let turns = decided.map(Option::unwrap);
        let [first, last] = [turns.iter().min(), turns.iter().max()].map(Option::unwrap);
        assert!(last - first <= 8, "{turns:?}");
    }

    #[test]
    fn a_namespace_that_no_longer_waits_holds_up_no_other() {
        let (mut steps, mut gone, mut other) = (Steps::default(), Some(0), None);
        steps.spend(STEPS_PER_TURN);
        assert!(!steps.may_compare(&mut gone));
        let waits = (0..10).take_while(|_| {
            steps.begin_turn();
            !steps.may_compare(&mut other)
        });
        assert_eq!(waits.count(), 2);
    }

    #[test]
    fn a_limited_number_of_names_is_remembered() {
        let mut filters = Filters::default();
        let id = filters.add(&mut filter(&["*7"])).unwrap();
        for n in 0..3 * MAX_NAMES {
            let expected = n % 10 == 7;
            assert_eq!(filters.matches(id, &n.to_string().into(), &mut Steps::default()), Some(expected));
            assert!(filters.names.len() <= MAX_NAMES && filters.filters[&id].verdicts.len() <= MAX_NAMES);
        }
        filters.remove(id);
        assert!(filters.names.is_empty() && filters.ids.is_empty());
    }
}
