//! The sources of models: ML Metadata, Kubeflow's own API, or both, by the rule of [`crate::lookup::sources`].

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result};
use futures::{FutureExt, future::BoxFuture};
use prometheus_client::registry::Registry;

use super::Config;
use crate::{
    delivery::{ArtifactLookup, KnownAhead, LookupError, ModelSource},
    kfp::{self, Kfp},
    lookup::{
        Memory,
        sources::{self, Artifacts},
    },
    mlmd::{self, Mlmd},
    model::{ArtifactTypes, RunModels, Uid, Workflow},
    telemetry::LimitHits,
};

/// Maximum size of the cached answers of each of two sources in bytes.
const CACHE_OF_TWO: u64 = 8 * 1024 * 1024;

/// Connects the sources of the configuration.
pub(super) fn sources(config: &Config, limits: &LimitHits, registry: &mut Registry) -> Result<Arc<dyn ArtifactLookup>> {
    let (mlmd_metrics, kfp_metrics) = (mlmd::LookupMetrics::new(registry), kfp::LookupMetrics::new(registry));
    let memory = Memory::default();
    let kfp = match (config.artifacts, &config.kfp_api) {
        (Artifacts::Auto | Artifacts::Kfp, Some(url)) => {
            let options = kfp::Options {
                ca: config.kfp_ca.clone(),
                token: config.kfp_token_file.clone(),
                clock: config.clock.clone(),
                limit_hits: limits.clone(),
                memory: memory.clone(),
                ..kfp::Options::default()
            };
            Some(Kfp::new(url, &options, kfp_metrics).context("--kfp-api")?)
        }
        (Artifacts::Kfp, None) => anyhow::bail!("--artifacts kfp needs --kfp-api"),
        (Artifacts::Mlmd, _) | (Artifacts::Auto, None) => None,
    };
    if config.artifacts == Artifacts::Kfp
        && let Some(kfp) = kfp
    {
        return Ok(Arc::new(kfp));
    }
    let mut options = mlmd::Options {
        ca: config.metadata_store_ca.clone(),
        clock: config.clock.clone(),
        limit_hits: limits.clone(),
        memory,
        ..mlmd::Options::default()
    };
    if kfp.is_some() {
        options.cache_bytes = CACHE_OF_TWO;
    }
    let mlmd = Mlmd::new(&config.metadata_store, &options, mlmd_metrics).context("--metadata-store")?;
    Ok(match kfp {
        Some(kfp) => Arc::new(Auto::new(Arc::new(kfp), Arc::new(mlmd))),
        None => Arc::new(mlmd),
    })
}

/// Both sources.
struct Auto {
    kfp: Arc<dyn ArtifactLookup>,
    mlmd: Arc<dyn ArtifactLookup>,
    /// ML Metadata gave the last answer.
    mlmd_decides: AtomicBool,
}

impl Auto {
    fn new(kfp: Arc<dyn ArtifactLookup>, mlmd: Arc<dyn ArtifactLookup>) -> Self {
        Self { kfp, mlmd, mlmd_decides: AtomicBool::new(false) }
    }
}

impl ArtifactLookup for Auto {
    fn find<'a>(
        &'a self,
        run: &'a Workflow,
        types: &'a Arc<ArtifactTypes>,
    ) -> BoxFuture<'a, Result<Arc<RunModels>, LookupError>> {
        async move {
            let (source, answer) = sources::in_turn(self.kfp.find(run, types), || self.mlmd.find(run, types)).await;
            // Kubeflow's API was not asked about a Workflow without a run id.
            if run.run_id.as_ref().is_some_and(|id| !id.is_empty()) {
                self.mlmd_decides.store(source == ModelSource::Mlmd, Ordering::Relaxed);
            }
            answer
        }
        .boxed()
    }

    /// A lookup in Kubeflow's API is a single call. ML Metadata is asked ahead only where it decides.
    fn look_ahead<'a>(&'a self, run: &'a Workflow) -> BoxFuture<'a, Result<KnownAhead, LookupError>> {
        if self.mlmd_decides.load(Ordering::Relaxed) { self.mlmd.look_ahead(run) } else { self.kfp.look_ahead(run) }
    }

    fn forget(&self, run: Uid) {
        self.kfp.forget(run);
        self.mlmd.forget(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PipelineName, RunId, fixtures::succeeded};

    struct Source(Result<Arc<RunModels>, LookupError>);

    impl ArtifactLookup for Source {
        fn find<'a>(
            &'a self,
            _: &'a Workflow,
            _: &'a Arc<ArtifactTypes>,
        ) -> BoxFuture<'a, Result<Arc<RunModels>, LookupError>> {
            futures::future::ready(self.0.clone()).boxed()
        }

        fn look_ahead<'a>(&'a self, _: &'a Workflow) -> BoxFuture<'a, Result<KnownAhead, LookupError>> {
            futures::future::ready(self.0.clone().map(|_| KnownAhead::All)).boxed()
        }

        fn forget(&self, _: Uid) {}
    }

    #[tokio::test]
    async fn both_sources_are_asked_in_their_order() {
        let run = succeeded(PipelineName::Unknown);
        let named = |name: &str| RunModels { pipeline: Some(name.into()), ..RunModels::default() };
        let old = LookupError::Failed { code: sources::OLD_SERVER, message: String::new() };
        for (native, expected) in [(Ok(named("kfp").into()), "kfp"), (Err(old), "mlmd")] {
            let auto = Auto::new(Arc::new(Source(native)), Arc::new(Source(Ok(named("mlmd").into()))));
            assert_eq!(*auto.find(&run, &Arc::default()).await.unwrap(), named(expected));
        }
    }

    /// Before anything is known, and from an upgrade on, ML Metadata may be gone.
    #[tokio::test]
    async fn ml_metadata_is_asked_ahead_only_where_it_decides() {
        let unidentified = succeeded(PipelineName::Unknown);
        let run = Workflow { run_id: Some(RunId::new("r")), ..unidentified.clone() };
        let old = || LookupError::Failed { code: sources::OLD_SERVER, message: String::new() };
        for (native, asked) in [(Err(old()), true), (Ok(Arc::default()), false)] {
            let auto = Auto::new(Arc::new(Source(native.clone())), Arc::new(Source(Err(LookupError::TooLarge))));
            assert_eq!(auto.look_ahead(&run).await, native.clone().map(|_| KnownAhead::All));
            drop(auto.find(&unidentified, &Arc::default()).await);
            assert_eq!(auto.look_ahead(&run).await, native.clone().map(|_| KnownAhead::All), "it may be of any source");
            assert!(auto.find(&run, &Arc::default()).await.is_ok() != asked);
            assert_eq!(auto.look_ahead(&run).await == Err(LookupError::TooLarge), asked);
        }
    }
}
