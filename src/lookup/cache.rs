//! Answers of a source of models by run, its outcome and artifact types, bounded in bytes and in time. Errors are not
//! cached, unless a retry is sure to fail again.
//!
//! Equal lookups do not run concurrently: delivery keeps one lookup for each run and types.
//!
//! A run that is restarted (`argo retry` keeps the UID) must not receive an earlier answer, not even one that is on the
//! way. So a lookup obtains the entry of its run before its first call, and stores its answer in that entry.
//! [`Cache::forget`] detaches the entry; a later lookup gets a new one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use moka::{ops::compute::Op, sync};

use super::metrics::Metrics;
use crate::{
    delivery::LookupError,
    model::{ArtifactTypes, RunModels, RunOutcome, Uid, Workflow},
};

/// Estimated bytes of an entry without answers: key, entry, and moka's own records.
const ENTRY_BYTES: usize = 300;
/// Estimated bytes of an answer without models: keys and table.
const ANSWER_BYTES: usize = 100;

/// The parts of a lookup on which its answer depends, beside the run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LookupKey {
    types: Arc<ArtifactTypes>,
    /// Only the pipeline's name is looked up for a failed run. A later success has models.
    outcome: Option<RunOutcome>,
}

impl LookupKey {
    fn of(run: &Workflow, types: &Arc<ArtifactTypes>) -> Self {
        Self { types: types.clone(), outcome: run.outcome() }
    }
}

/// An answer that a retry would give again.
type Answer = Result<Arc<RunModels>, TooLarge>;

/// The only failure that is final: [`LookupError::TooLarge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TooLarge;

impl From<TooLarge> for LookupError {
    fn from(TooLarge: TooLarge) -> Self {
        Self::TooLarge
    }
}

/// The answers of one run.
#[derive(Debug, Default)]
struct RunAnswers(Mutex<HashMap<LookupKey, Answer>>);

impl RunAnswers {
    fn get(&self, key: &LookupKey) -> Option<Answer> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LookupKey, Answer>> {
        // Every operation under this lock is complete or has no effect.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.lock().values().map(answer_bytes).sum::<usize>()
    }
}

/// The cache. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Cache(sync::Cache<Uid, Arc<RunAnswers>>);

impl Cache {
    /// A cache of at most this many bytes, estimated, each answer for at most this time.
    pub(crate) fn new(bytes: u64, time: Duration) -> Self {
        let cache = sync::Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, answers: &Arc<RunAnswers>| u32::try_from(answers.bytes()).unwrap_or(u32::MAX))
            .time_to_live(time)
            .build();
        Self(cache)
    }

    /// Returns the cached answer about a run, else that of `look_up`, which is cached if it is final.
    ///
    /// # Errors
    /// Those of `look_up`.
    pub(crate) async fn answer(
        &self,
        run: &Workflow,
        types: &Arc<ArtifactTypes>,
        metrics: &Metrics,
        look_up: impl Future<Output = Result<RunModels, LookupError>>,
    ) -> Result<Arc<RunModels>, LookupError> {
        let entry = self.entry(run.uid);
        let key = LookupKey::of(run, types);
        if let Some(answer) = entry.get(&key) {
            metrics.cache_hit();
            return answer.map_err(LookupError::from);
        }
        let answer = look_up.await.map(Arc::new);
        self.store(run.uid, &entry, key, &answer);
        answer
    }

    /// Returns the entry of a run, which may be empty. A lookup passes it to [`Cache::store`] afterwards.
    fn entry(&self, run: Uid) -> Arc<RunAnswers> {
        self.0.get_with(run, Arc::default)
    }

    /// Stores the answer of a lookup, if it is final. It is not cached if the entry was forgotten or evicted since the
    /// lookup obtained it.
    fn store(&self, run: Uid, entry: &Arc<RunAnswers>, key: LookupKey, answer: &Result<Arc<RunModels>, LookupError>) {
        let last = match answer {
            Ok(found) => Some(Ok(found.clone())),
            Err(LookupError::TooLarge) => Some(Err(TooLarge)),
            Err(_) => None,
        };
        if let Some(last) = last {
            entry.lock().insert(key, last);
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
    pub(crate) fn forget(&self, run: Uid) {
        // Unlike `invalidate`, this never runs between the two steps of a concurrent `store`.
        self.0.entry(run).and_compute_with(|_| Op::Remove);
    }
}

fn answer_bytes(answer: &Answer) -> usize {
    ANSWER_BYTES + answer.as_ref().map_or(0, |found| found.bytes())
}

#[cfg(test)]
mod tests;
