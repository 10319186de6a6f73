//! The contexts of runs that have not ended, asked ahead of their lookups.
//!
//! The rule: **what was asked ahead is never an answer, only a guess of the next calls.** A lookup that expects a context
//! asks for it by its name all the same, and at the same time for what the expected one contains. If both are the same
//! context, all of its answers were given after the run had ended, as without this. Otherwise (the store was replaced, the
//! record was removed, or one of another flavor exists by now) the listings end unread, and the lookup begins with the
//! right one. So a correct guess saves one round trip, and one for each flavor that the run is not of, and costs no call; a
//! wrong one costs the calls that it began.
//!
//! Only contexts are asked for ahead: executions and artifacts change until the run ends. A context whose namespace is
//! another one is not kept, because it would never be used.

use std::sync::Arc;

use moka::{policy::EvictionPolicy, sync};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::rules::RunContext;
use crate::{delivery::LookupError, model::Uid};

/// Maximum size of all contexts in bytes, estimated: some ten thousand runs.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Estimated bytes of an entry without its texts: key, context, and moka's own records.
const ENTRY_BYTES: usize = 300;

/// The outcomes of lookups ahead.
const OUTCOMES: [&str; 4] = ["found", "no_context", "foreign_context", "failed"];
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
}

impl AheadMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self { lookups: Family::default(), used: Family::default() };
        for outcome in OUTCOMES {
            drop(metrics.lookups.get_or_create(&OutcomeLabel { outcome }));
        }
        for result in RESULTS {
            drop(metrics.used.get_or_create(&ResultLabel { result }));
        }
        let help = "Lookups of the contexts of runs that have not ended in ML Metadata, by outcome";
        registry.register("mlmd_lookups_ahead", help, metrics.lookups.clone());
        let help = "Lookups of ended runs in ML Metadata that expected a context, by whether it was the right one";
        registry.register("mlmd_contexts_expected", help, metrics.used.clone());
        metrics
    }
}

/// The contexts of runs that have not ended. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Ahead {
    contexts: sync::Cache<Uid, Arc<RunContext>>,
    metrics: AheadMetrics,
}

impl Ahead {
    pub(super) fn new(metrics: AheadMetrics) -> Self {
        let contexts = sync::Cache::builder()
            .max_capacity(MAX_BYTES)
            .weigher(|_, context: &Arc<RunContext>| u32::try_from(bytes(context)).unwrap_or(u32::MAX))
            // The oldest ones give way, however often other runs were looked up.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { contexts, metrics }
    }

    /// Returns the expected context of a run.
    pub(super) fn get(&self, run: Uid) -> Option<Arc<RunContext>> {
        self.contexts.get(&run)
    }

    /// Handles the answer about a run that has not ended.
    pub(super) fn asked(&self, run: Uid, answer: Result<RunContext, LookupError>) -> Result<(), LookupError> {
        let outcome = match &answer {
            Ok(_) => "found",
            Err(LookupError::NoContext) => "no_context",
            Err(LookupError::ForeignContext { .. }) => "foreign_context",
            Err(LookupError::TooLarge | LookupError::Failed { .. }) => "failed",
        };
        self.metrics.lookups.get_or_create(&OutcomeLabel { outcome }).inc();
        self.contexts.insert(run, answer?.into());
        Ok(())
    }

    /// Counts the use of an expected context.
    pub(super) fn used(&self, is_confirmed: bool) {
        let result = if is_confirmed { "confirmed" } else { "outdated" };
        self.metrics.used.get_or_create(&ResultLabel { result }).inc();
    }

    pub(super) fn forget(&self, run: Uid) {
        self.contexts.invalidate(&run);
    }
}

fn bytes(context: &RunContext) -> usize {
    ENTRY_BYTES + context.name.len() + context.namespace.as_ref().map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlmd::rules::RunFlavor;

    /// However many runs of however many tenants have not ended. The oldest ones give way.
    #[test]
    fn the_expected_contexts_have_a_bound_in_bytes() {
        let ahead = Ahead::new(AheadMetrics::new(&mut Registry::default()));
        let context = RunContext { id: 1, flavor: RunFlavor::Tfx, name: "x".repeat(253), namespace: None };
        for run in 0..20_000_u128 {
            ahead.asked(run.into(), Ok(context.clone())).unwrap();
        }
        ahead.contexts.run_pending_tasks();
        assert!(ahead.contexts.weighted_size() <= MAX_BYTES && ahead.contexts.entry_count() > 5_000);
        assert!(ahead.get(19_999.into()).is_some() && ahead.get(0.into()).is_none());
    }
}
