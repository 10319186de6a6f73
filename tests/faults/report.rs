//! What a fault cost: events expected, delivered, duplicated, lost, and those that were not this subscriber's.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::Write as _,
};

/// The books of one fault. An event is known by its subscription and its model's location.
#[derive(Debug)]
pub(crate) struct Tally {
    fault: Cow<'static, str>,
    expected: BTreeSet<String>,
    delivered: BTreeMap<String, usize>,
}

impl Tally {
    pub(crate) fn new(fault: impl Into<Cow<'static, str>>) -> Self {
        Self { fault: fault.into(), expected: BTreeSet::new(), delivered: BTreeMap::new() }
    }

    /// This event has to come.
    pub(crate) fn expect(&mut self, subscription: &str, location: &str) {
        self.expected.insert(key(subscription, location));
    }

    /// This event came.
    pub(crate) fn delivered(&mut self, subscription: &str, location: &str) {
        *self.delivered.entry(key(subscription, location)).or_default() += 1;
    }

    /// This event came to a subscriber named `model-update`, with this payload.
    ///
    /// # Panics
    /// If the payload is not one of an event.
    pub(crate) fn delivered_payload(&mut self, payload: &str) {
        self.delivered("model-update", &location(payload));
    }

    /// Whether everything expected has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.lost() == 0
    }

    /// Whether everything that this subscription expects has come.
    pub(crate) fn has_all_of(&self, subscription: &str) -> bool {
        let own = key(subscription, "");
        self.expected.iter().filter(|event| event.starts_with(&own)).all(|event| self.delivered.contains_key(event))
    }

    pub(crate) fn lost(&self) -> usize {
        self.expected.iter().filter(|&event| !self.delivered.contains_key(event)).count()
    }

    /// Deliveries beyond the first of an event.
    pub(crate) fn duplicated(&self) -> usize {
        self.delivered.values().map(|times| times - 1).sum()
    }

    /// Where the models are of events that came more often than that.
    pub(crate) fn delivered_more_than(&self, times: usize) -> impl Iterator<Item = String> {
        let often = self.delivered.iter().filter(move |&(_, &count)| count > times);
        often.filter_map(|(event, _)| event.split_once(' ').map(|(_, location)| location.to_owned()))
    }

    /// Events that nobody expected.
    fn foreign(&self) -> Vec<&String> {
        self.delivered.keys().filter(|&event| !self.expected.contains(event)).collect()
    }

    /// Prints the line of this fault, and holds it to what is promised: nothing lost, nothing foreign, and no more
    /// duplicates than the fault explains.
    ///
    /// # Panics
    /// If the promise is broken.
    #[track_caller]
    pub(crate) fn conclude(self, allowed_duplicates: usize) {
        say(&self);
        let lost: Vec<_> = self.expected.iter().filter(|&event| !self.delivered.contains_key(event)).collect();
        assert!(lost.is_empty(), "{}: lost: {lost:?}", self.fault);
        assert!(self.foreign().is_empty(), "{}: nobody's: {:?}", self.fault, self.foreign());
        let twice: Vec<_> = self.delivered.iter().filter(|&(_, &times)| times > 1).collect();
        assert!(
            self.duplicated() <= allowed_duplicates,
            "{}: {allowed_duplicates} may be duplicated: {twice:?}",
            self.fault
        );
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delivered = self.expected.iter().filter(|&event| self.delivered.contains_key(event)).count();
        let (expected, duplicated, lost) = (self.expected.len(), self.duplicated(), self.lost());
        write!(
            f,
            "fault: {}: expected {expected}, delivered {delivered}, duplicated {duplicated}, lost {lost}",
            self.fault
        )
    }
}

/// Prints a figure where a test runner's capture of a passing test's output does not swallow it.
pub(crate) fn say(what: impl fmt::Display) {
    writeln!(std::io::stderr(), "{what}").expect("stderr can be written");
}

/// Where the first model of an event's payload is.
pub(crate) fn location(payload: &str) -> String {
    let payload: serde_json::Value = serde_json::from_str(payload).expect("JSON");
    payload["servingModelArtifacts"][0]["location"].as_str().expect("a location").to_owned()
}

fn key(subscription: &str, location: &str) -> String {
    format!("{subscription} {location}")
}

#[test]
fn a_lost_event_a_foreign_one_and_an_unexplained_duplicate_each_break_the_promise() {
    let tally = |expected: &[&str], delivered: &[&str]| {
        let mut tally = Tally::new("a test of the report");
        expected.iter().for_each(|event| tally.expect("s", event));
        delivered.iter().for_each(|event| tally.delivered("s", event));
        tally
    };
    let breaks = |tally: Tally, duplicates| std::panic::catch_unwind(|| tally.conclude(duplicates)).is_err();
    assert!(!breaks(tally(&["a", "b"], &["b", "a", "a"]), 1));
    assert!(breaks(tally(&["a", "b"], &["b", "a", "a"]), 0));
    assert!(breaks(tally(&["a", "b"], &["b"]), 0));
    assert!(breaks(tally(&["a"], &["a", "c"]), 0));
}
