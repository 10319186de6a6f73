//! The bytes that one lookup may read and keep. Tenants decide how much there is to read about a run, so both are
//! limited, and what all lookups keep at once is limited by a budget.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    budget::{Limits, Permit},
    error::CallError,
    meter::Memory,
};
use crate::telemetry::{Limit, LimitHits};

/// Maximum number of bytes that a lookup reads: some thousand executions with large parameters.
const MAX_READ: usize = 64 * 1024 * 1024;
/// Maximum number of bytes that a lookup keeps: some thousand executions.
pub(crate) const MAX_KEPT: usize = 1024 * 1024;
/// Bytes that a lookup keeps outside the budget, so that runs with few tasks never fail because of others.
const KEPT_FREELY: usize = 1024;
/// The same for as many lookups as delivery has in flight.
pub(crate) const MAX_KEPT_FREELY: usize = 1024 * KEPT_FREELY;
/// Maximum number of bytes that a lookup keeps of an answer that it may not use.
pub(crate) const KEPT_EARLY: usize = 40 * 1024;
/// The budget of what lookups keep. The share of a namespace is one lookup of the maximum size, with such an answer.
pub(crate) const KEPT: Limits =
    Limits { total: 4 * MAX_KEPT, per_namespace: MAX_KEPT + KEPT_EARLY, waiting: 0, waiting_per_namespace: 0 };
/// Bytes that are taken from the budget at once.
const KEPT_STEP: usize = 2048;

/// The allowance of one lookup.
#[derive(Debug)]
pub(crate) struct Allowance<'a> {
    memory: &'a Memory,
    hits: &'a LimitHits,
    namespace: &'a Arc<str>,
    read: AtomicUsize,
    kept: Mutex<Kept>,
}

/// The bytes that a lookup keeps.
#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    permit: Option<Permit>,
}

impl<'a> Allowance<'a> {
    /// The allowance of a lookup for a run of this namespace.
    pub(crate) fn new(memory: &'a Memory, hits: &'a LimitHits, namespace: &'a Arc<str>) -> Self {
        Self { memory, hits, namespace, read: AtomicUsize::new(0), kept: Mutex::default() }
    }

    /// Notes that the lookup has read this many bytes more.
    pub(crate) fn read(&self, bytes: usize) -> Result<(), CallError> {
        let before = self.read.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > MAX_READ {
            self.hits.hit(Limit::MetadataAnswer);
            return Err(CallError::too_large(format!("the run has more than {MAX_READ} bytes of metadata")));
        }
        Ok(())
    }

    /// Notes that the lookup keeps this many bytes more.
    pub(crate) fn keep(&self, bytes: usize) -> Result<(), CallError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += bytes;
        if kept.bytes > MAX_KEPT {
            self.hits.hit(Limit::MetadataAnswer);
            return Err(CallError::too_large(format!(
                "the run's models and executions need more than {MAX_KEPT} bytes"
            )));
        }
        let reserved = KEPT_FREELY + kept.permit.as_ref().map_or(0, Permit::units);
        if kept.bytes <= reserved {
            return Ok(());
        }
        let missing = (kept.bytes - reserved).next_multiple_of(KEPT_STEP);
        let Some(more) = self.memory.kept.try_acquire(self.namespace, missing) else {
            self.hits.hit(Limit::MetadataBytes);
            return Err(CallError::overloaded("other lookups keep too many bytes"));
        };
        match &mut kept.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// Reserves this many bytes beside those that the lookup keeps, if they are available.
    pub(crate) fn reserve(&self, bytes: usize) -> Option<Permit> {
        self.memory.kept.try_acquire(self.namespace, bytes)
    }

    /// Resets the bytes that were read and kept. The caller has dropped them.
    pub(crate) fn reset(&self) {
        self.read.store(0, Ordering::Relaxed);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }

    /// Returns whether a smaller page may be requested: it was the page that was too large, not the run.
    pub(crate) fn is_within_limits(&self) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).bytes;
        kept <= MAX_KEPT && self.read.load(Ordering::Relaxed) <= MAX_READ
    }
}
