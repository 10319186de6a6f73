//! What ML Metadata has answered, by run: each run is asked for once, however many streams want to know.
//!
//! Equal questions share one lookup, an error is never remembered, and "no models" is an answer like any other. A run
//! that is restarted gets a new **generation**, which is part of the key: answers of the old one, those included
//! whose lookup is still under way at that moment, are never found again and age out.

use std::{
    collections::HashMap,
    future::Future,
    mem::size_of,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use moka::future::Cache as Moka;

use super::Options;
use crate::{
    delivery::LookupError,
    model::{Artifact, ArtifactTypes, RunModels, Uid},
};

/// What an entry costs beside its models: key, value, and moka's own book-keeping.
const ENTRY: usize = 400;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    run: Uid,
    generation: u64,
    types: Arc<ArtifactTypes>,
}

/// Remembers answers. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    answers: Moka<Key, Arc<RunModels>>,
    restarted: Arc<Mutex<Generations>>,
}

/// The runs that were restarted, which are few, with the generation that each is in. One that is not here is in
/// generation 0.
#[derive(Debug)]
struct Generations {
    by_run: HashMap<Uid, (u64, Instant)>,
    last: u64,
    /// After this time no answer of an older generation is left, so the generation need not be remembered either.
    keep: Duration,
    next_sweep: Instant,
}

impl Cache {
    pub(super) fn new(options: &Options) -> Self {
        let answers = Moka::builder()
            .max_capacity(options.cache_octets)
            .weigher(|_, answer: &Arc<RunModels>| weight(answer))
            .time_to_live(options.cache_ttl)
            .build();
        let keep = (options.cache_ttl + options.lookup_timeout) * 2;
        let next_sweep = Instant::now() + keep;
        let restarted = Generations { by_run: HashMap::new(), last: 0, keep, next_sweep };
        Self { answers, restarted: Arc::new(Mutex::new(restarted)) }
    }

    /// The remembered answer, or that of a lookup: a new one, or an equal one under way. Tells whether the lookup was
    /// spared. An answer to a question that was asked before the run was restarted is asked for again.
    pub(super) async fn get<F>(
        &self,
        run: Uid,
        types: &Arc<ArtifactTypes>,
        lookup: impl Fn() -> F,
    ) -> (Result<Arc<RunModels>, LookupError>, bool)
    where
        F: Future<Output = Result<RunModels, LookupError>> + Send,
    {
        let spared = AtomicBool::new(true);
        loop {
            let generation = self.generation(run);
            let key = Key { run, generation, types: types.clone() };
            let answer = self.answers.try_get_with(key, async {
                spared.store(false, Ordering::Relaxed);
                lookup().await.map(Arc::new)
            });
            let answer = answer.await.map_err(|error| LookupError::clone(&error));
            if answer.is_err() || self.generation(run) == generation {
                return (answer, spared.into_inner());
            }
        }
    }

    /// Forgets all answers for this run, whatever types they were asked for, and those under way.
    pub(super) fn forget(&self, run: Uid) {
        let now = Instant::now();
        let mut restarted = self.lock();
        if now >= restarted.next_sweep {
            let keep = restarted.keep;
            restarted.by_run.retain(|_, (_, since)| now.duration_since(*since) < keep);
            restarted.next_sweep = now + keep;
        }
        restarted.last += 1;
        let generation = restarted.last;
        restarted.by_run.insert(run, (generation, now));
    }

    fn generation(&self, run: Uid) -> u64 {
        self.lock().by_run.get(&run).map_or(0, |(generation, _)| *generation)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        // Nothing that is done under this lock leaves it half done.
        self.restarted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The octets that an answer takes, estimated.
fn weight(answer: &RunModels) -> u32 {
    let model = |model: &Artifact| {
        let name = model.name.as_deref().map_or(0, str::len);
        size_of::<Artifact>() + name + model.uri.len() + model.node.len() + model.key.len()
    };
    let pipeline = answer.pipeline.as_deref().map_or(0, str::len);
    let octets = ENTRY + pipeline + answer.models.iter().map(model).sum::<usize>();
    u32::try_from(octets).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
