//! The contexts and executions of runs that have not ended, asked ahead of their lookups.
//!
//! The rule: **what was asked ahead is never an answer, only a guess of the next calls.** A lookup that expects a
//! context asks for it by its name all the same, and at the same time for what the expected one contains. If both are
//! the same context, all of its answers were given after the run had ended, as without this. Otherwise (the store was
//! replaced, the record was removed, or one of another flavor exists by now) the listings end unread, and the lookup
//! begins with the right one. So a correct guess saves one round trip, and one for each flavor that the run is not of,
//! and costs no call; a wrong one costs the calls that it began.
//!
//! The executions are expected too: a task is recorded when it begins, so those of the last task are known before the
//! run ends, unlike its model. At the same time as the listings, the lookup asks for the events of the expected
//! executions. They are used where they are all that the lookup needs: each execution of the run that can produce a
//! model was expected, and each candidate is an output of one of them. Otherwise the events of the candidates are asked
//! for, as without this, so a wrong guess costs one call and no round trip. The executions are asked for again once the
//! Workflow has changed, because Argo changes it when a task begins and ends. Artifacts are not asked for ahead: a
//! model appears seconds before the end of its run, and no change of the Workflow lies in between.
//!
//! A context whose namespace is another one is not kept, because it would never be used. Nor are the executions of KFP
//! v1's metadata-writer, which records them after they have ended.

use std::sync::Arc;

use moka::{policy::EvictionPolicy, sync};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::rules::{RunContext, RunFlavor};
use crate::{
    delivery::{KnownAhead, LookupError},
    model::Uid,
};

/// Maximum number of the expected executions of a run: one page. A run with more is looked up without them.
pub(super) const MAX_EXECUTIONS: usize = 100;
/// Maximum size of all contexts in bytes, estimated: some thousand runs.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Estimated bytes of an entry without its texts: key, context, and moka's own records.
const ENTRY_BYTES: usize = 300;

/// The outcomes of lookups ahead.
const OUTCOMES: [&str; 4] = ["found", "no_context", "foreign_context", "failed"];
/// Results of lookups that expected executions.
const EVENTS: [&str; 2] = ["used", "unused"];
/// Results of lookups that expected a context.
const RESULTS: [&str; 2] = ["confirmed", "outdated"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Counts of lookups ahead, and of their use. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct AheadMetrics {
    lookups: Family<OutcomeLabel, Counter>,
    used: Family<ResultLabel, Counter>,
    events: Family<ResultLabel, Counter>,
}

impl AheadMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self { lookups: Family::default(), used: Family::default(), events: Family::default() };
        for outcome in OUTCOMES {
            drop(metrics.lookups.get_or_create(&OutcomeLabel { outcome }));
        }
        for result in RESULTS {
            drop(metrics.used.get_or_create(&ResultLabel { result }));
        }
        for result in EVENTS {
            drop(metrics.events.get_or_create(&ResultLabel { result }));
        }
        let help = "Lookups of the contexts and executions of runs that have not ended in ML Metadata, by outcome";
        registry.register("mlmd_lookups_ahead", help, metrics.lookups.clone());
        let help = "Lookups of ended runs in ML Metadata that expected a context, by whether it was the right one";
        registry.register("mlmd_contexts_expected", help, metrics.used.clone());
        let help = "Lookups of ended runs in ML Metadata that asked for the events of expected executions, by use";
        registry.register("mlmd_events_expected", help, metrics.events.clone());
        metrics
    }
}

/// The calls that the lookup of a run is expected to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) context: RunContext,
    /// Ids of executions, ordered. Empty where none are known, or too many.
    pub(super) executions: Box<[i64]>,
}

impl Expected {
    fn bytes(&self) -> usize {
        let RunContext { name, namespace, .. } = &self.context;
        ENTRY_BYTES + name.len() + namespace.as_ref().map_or(0, String::len) + size_of_val(&*self.executions)
    }
}

/// Expected outputs of runs that have not ended. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Ahead {
    runs: sync::Cache<Uid, Arc<Expected>>,
    metrics: AheadMetrics,
}

impl Ahead {
    pub(super) fn new(metrics: AheadMetrics) -> Self {
        let runs = sync::Cache::builder()
            .max_capacity(MAX_BYTES)
            .weigher(|_, expected: &Arc<Expected>| u32::try_from(expected.bytes()).unwrap_or(u32::MAX))
            // The oldest ones give way, however often other runs were looked up.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { runs, metrics }
    }

    /// Returns what is expected of a run.
    pub(super) fn get(&self, run: Uid) -> Option<Arc<Expected>> {
        self.runs.get(&run)
    }

    /// Handles the answer about the context of a run that has not ended.
    pub(super) fn found(&self, run: Uid, context: RunContext) -> Arc<Expected> {
        let expected = Arc::new(Expected { context, executions: Box::default() });
        self.runs.insert(run, expected.clone());
        expected
    }

    /// Handles the answer about the executions of a run that has not ended, up to [`MAX_EXECUTIONS`] of them, or `None`
    /// if there are more.
    pub(super) fn listed(&self, run: Uid, expected: &Expected, executions: Option<Vec<i64>>) -> KnownAhead {
        let known = if executions.is_some() { KnownAhead::SoFar } else { KnownAhead::All };
        let mut executions = executions.unwrap_or_default();
        executions.sort_unstable();
        let expected = Expected { context: expected.context.clone(), executions: executions.into() };
        self.runs.insert(run, expected.into());
        known
    }

    /// Counts a lookup of a run that has not ended.
    pub(super) fn asked(&self, answer: &Result<KnownAhead, LookupError>) {
        let outcome = match answer {
            Ok(_) => "found",
            Err(LookupError::NoContext) => "no_context",
            Err(LookupError::ForeignContext { .. }) => "foreign_context",
            Err(LookupError::TooLarge | LookupError::Failed { .. }) => "failed",
        };
        self.metrics.lookups.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts the use of an expected context.
    pub(super) fn used(&self, is_confirmed: bool) {
        let result = if is_confirmed { "confirmed" } else { "outdated" };
        self.metrics.used.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts the use of the events of expected executions.
    pub(super) fn events_used(&self, are_used: bool) {
        let result = if are_used { "used" } else { "unused" };
        self.metrics.events.get_or_create(&ResultLabel { result }).inc();
    }

    pub(super) fn forget(&self, run: Uid) {
        self.runs.invalidate(&run);
    }
}

/// Returns whether the executions of a run are recorded when they begin.
pub(super) fn are_recorded_early(context: &RunContext) -> bool {
    matches!(context.flavor, RunFlavor::Tfx | RunFlavor::KfpV2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many runs of however many tenants have not ended. The oldest ones give way.
    #[test]
    fn the_expected_contexts_have_a_bound_in_bytes() {
        let ahead = Ahead::new(AheadMetrics::new(&mut Registry::default()));
        let context = RunContext { id: 1, flavor: RunFlavor::Tfx, name: "x".repeat(253), namespace: None };
        for run in 0..20_000_u128 {
            let expected = ahead.found(run.into(), context.clone());
            ahead.listed(run.into(), &expected, Some((0..100).collect()));
        }
        ahead.runs.run_pending_tasks();
        assert!(ahead.runs.weighted_size() <= MAX_BYTES && ahead.runs.entry_count() > 2_500);
        assert!(ahead.get(19_999.into()).is_some() && ahead.get(0.into()).is_none());
    }
}
