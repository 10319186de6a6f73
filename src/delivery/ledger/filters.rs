//! The verdicts of the pipeline filters of a namespace's streams.
//!
//! Tenants choose the patterns and the names, and one comparison of 64 long patterns can take half a second. So equal
//! filters are shared, each name is compared with each of them at most once, and the comparisons of one turn are limited:
//! a verdict may stay open, and its comparison is continued in a later turn.

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

/// The steps that are left for comparisons in a turn.
#[derive(Debug)]
pub(super) struct Steps(usize);

impl Default for Steps {
    fn default() -> Self {
        Self(STEPS_PER_TURN)
    }
}

impl Steps {
    /// Returns whether expensive comparisons have to wait for the next turn.
    pub(super) fn are_used_up(&self) -> bool {
        self.0 == 0
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
                let verdict = shared.compare(compared, name, steps);
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
    fn compare(&self, mut compared: u16, name: &str, steps: &mut Steps) -> Verdict {
        let patterns = self.filter.entries();
        if compared == 0 && patterns.iter().any(|pattern| **pattern == *name) {
            return Verdict::Decided(true);
        }
        let is_cheap = self.size * name.len() <= CHEAP;
        for pattern in &patterns[usize::from(compared)..] {
            if !is_cheap {
                if steps.are_used_up() {
                    return Verdict::Open(compared);
                }
                steps.0 = steps.0.saturating_sub(size(pattern) * name.len());
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
        assert_eq!(filters.matches(id, &name, &mut Steps(0)), Some(false), "without a step");
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
