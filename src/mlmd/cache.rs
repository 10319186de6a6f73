//! Answers of ML Metadata by run and artifact types, bounded in bytes and in time. Errors are not cached.
//!
//! Equal lookups do not run concurrently: delivery keeps one lookup for each run and types.
//!
//! A run that is restarted (`argo retry` keeps the UID) must not receive an earlier answer, not even one that is on the
//! way. So a lookup obtains the entry of its run before its first call, and stores its answer in that entry.
//! [`Cache::forget`] detaches the entry; a later lookup gets a new one.

use std::{
    collections::HashMap,
    mem::size_of,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use moka::{ops::compute::Op, sync};

use super::Options;
use crate::model::{Artifact, ArtifactTypes, RunModels, Uid};

/// Estimated bytes of an entry without answers: key, entry, and moka's own records.
const ENTRY_BYTES: usize = 300;
/// Estimated bytes of an answer without models: keys and table.
const ANSWER_BYTES: usize = 100;

/// The answers of one run.
#[derive(Debug, Default)]
pub(super) struct RunAnswers(Mutex<HashMap<Arc<ArtifactTypes>, Arc<RunModels>>>);

impl RunAnswers {
    pub(super) fn get(&self, types: &ArtifactTypes) -> Option<Arc<RunModels>> {
        self.lock().get(types).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<ArtifactTypes>, Arc<RunModels>>> {
        // Every operation under this lock is complete or has no effect.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.lock().values().map(|answer| answer_bytes(answer)).sum::<usize>()
    }
}

/// The cache. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Cache(sync::Cache<Uid, Arc<RunAnswers>>);

impl Cache {
    pub(super) fn new(options: &Options) -> Self {
        let cache = sync::Cache::builder()
            .max_capacity(options.cache_bytes)
            .weigher(|_, answers: &Arc<RunAnswers>| u32::try_from(answers.bytes()).unwrap_or(u32::MAX))
            .time_to_live(options.cache_ttl)
            .build();
        Self(cache)
    }

    /// Returns the entry of a run, which may be empty. A lookup passes it to [`Cache::store`] afterwards.
    pub(super) fn entry(&self, run: Uid) -> Arc<RunAnswers> {
        self.0.get_with(run, Arc::default)
    }

    /// Stores the answer of a lookup, `None` after an error. It is not cached if the entry was forgotten or evicted since
    /// the lookup obtained it.
    pub(super) fn store(
        &self,
        run: Uid,
        entry: &Arc<RunAnswers>,
        types: &Arc<ArtifactTypes>,
        found: Option<&Arc<RunModels>>,
    ) {
        if let Some(found) = found {
            entry.lock().insert(types.clone(), found.clone());
        }
        self.0.entry(run).and_compute_with(|current| match current {
            Some(current) if Arc::ptr_eq(current.value(), entry) => {
                // Put again, because the weight has changed.
                if entry.lock().is_empty() { Op::Remove } else { Op::Put(entry.clone()) }
            }
            _ => Op::Nop,
        });
    }

    /// Forgets all answers for this run, including those of lookups that are in flight.
    pub(super) fn forget(&self, run: Uid) {
        // Unlike `invalidate`, this never runs between the two steps of a concurrent `store`.
        self.0.entry(run).and_compute_with(|_| Op::Remove);
    }
}

fn answer_bytes(answer: &RunModels) -> usize {
    let model = |model: &Artifact| {
        let name = model.name.as_deref().map_or(0, str::len);
        size_of::<Artifact>() + name + model.uri.len() + model.node.len() + model.key.len()
    };
    let pipeline = answer.pipeline.as_deref().map_or(0, str::len);
    ANSWER_BYTES + pipeline + answer.models.iter().map(model).sum::<usize>()
}

#[cfg(test)]
mod tests;
