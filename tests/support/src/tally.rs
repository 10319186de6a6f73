//! The result of a fault test: events expected, delivered, duplicated, lost, and foreign.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::Write as _,
};

/// Events of one fault, each identified by its subscription and the location of its model.
#[derive(Debug)]
pub struct Tally {
    fault: Cow<'static, str>,
    expected: BTreeSet<String>,
    delivered: BTreeMap<String, usize>,
}

impl Tally {
    /// An empty tally.
    pub fn new(fault: impl Into<Cow<'static, str>>) -> Self {
        Self { fault: fault.into(), expected: BTreeSet::new(), delivered: BTreeMap::new() }
    }

    /// Adds an event that must be delivered.
    pub fn expect(&mut self, subscription: &str, location: &str) {
        self.expected.insert(key(subscription, location));
    }

    /// Adds a delivery.
    pub fn delivered(&mut self, subscription: &str, location: &str) {
        *self.delivered.entry(key(subscription, location)).or_default() += 1;
    }

    /// Adds a delivery of this payload to the subscription `model-update`.
    ///
    /// # Panics
    /// If the payload is not that of an event.
    pub fn delivered_payload(&mut self, payload: &str) {
        self.delivered("model-update", &model_location(payload));
    }

    /// Returns whether every expected event was delivered.
    pub fn is_complete(&self) -> bool {
        self.lost().next().is_none()
    }

    /// Returns whether every expected event of this subscription was delivered.
    pub fn has_all_of(&self, subscription: &str) -> bool {
        let prefix = key(subscription, "");
        !self.lost().any(|event| event.starts_with(&prefix))
    }

    /// Deliveries beyond the first of each event.
    pub fn duplicated(&self) -> usize {
        self.delivered.values().map(|times| times - 1).sum()
    }

    /// Model locations of the events that were delivered more than this number of times.
    pub fn delivered_more_than(&self, times: usize) -> impl Iterator<Item = String> {
        let often = self.delivered.iter().filter(move |&(_, &count)| count > times);
        often.filter_map(|(event, _)| event.split_once(' ').map(|(_, location)| location.to_owned()))
    }

    /// Expected events without a delivery.
    fn lost(&self) -> impl Iterator<Item = &String> {
        self.expected.iter().filter(|&event| !self.delivered.contains_key(event))
    }

    /// Delivered events that were not expected.
    fn foreign(&self) -> Vec<&String> {
        self.delivered.keys().filter(|&event| !self.expected.contains(event)).collect()
    }

    /// Prints the result and checks it: nothing lost, nothing foreign, and no more duplicates than the fault explains.
    ///
    /// # Panics
    /// If a check fails.
    #[track_caller]
    pub fn conclude(self, allowed_duplicates: usize) {
        report(&self);
        let lost: Vec<_> = self.lost().collect();
        assert!(lost.is_empty(), "{}: lost: {lost:?}", self.fault);
        assert!(self.foreign().is_empty(), "{}: foreign: {:?}", self.fault, self.foreign());
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
        let (expected, duplicated, lost) = (self.expected.len(), self.duplicated(), self.lost().count());
        let delivered = expected - lost;
        write!(
            f,
            "fault: {}: expected {expected}, delivered {delivered}, duplicated {duplicated}, lost {lost}",
            self.fault
        )
    }
}

/// Prints a figure to stderr past the test runner, which captures `println!` and `eprintln!` of passing tests.
pub fn report(figure: impl fmt::Display) {
    writeln!(std::io::stderr(), "{figure}").expect("stderr can be written");
}

/// Returns the location of the first model in an event's payload.
///
/// # Panics
/// If there is none.
pub fn model_location(payload: &str) -> String {
    let payload: serde_json::Value = serde_json::from_str(payload).expect("JSON");
    payload["servingModelArtifacts"][0]["location"].as_str().expect("a location").to_owned()
}

fn key(subscription: &str, location: &str) -> String {
    format!("{subscription} {location}")
}

#[test]
fn lost_foreign_and_unexplained_duplicates_fail() {
    let tally = |expected: &[&str], delivered: &[&str]| {
        let mut tally = Tally::new("a test of the tally");
        expected.iter().for_each(|event| tally.expect("s", event));
        delivered.iter().for_each(|event| tally.delivered("s", event));
        tally
    };
    let fails = |tally: Tally, duplicates| std::panic::catch_unwind(|| tally.conclude(duplicates)).is_err();
    assert!(!fails(tally(&["a", "b"], &["b", "a", "a"]), 1));
    assert!(fails(tally(&["a", "b"], &["b", "a", "a"]), 0));
    assert!(fails(tally(&["a", "b"], &["b"]), 0));
    assert!(fails(tally(&["a"], &["a", "c"]), 0));
}
