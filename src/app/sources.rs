//! The sources of models: ML Metadata, Kubeflow's own API, or both, by the rule of [`crate::lookup::sources`].

use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::{FutureExt, future::BoxFuture};
use prometheus_client::registry::Registry;

use super::Config;
use crate::{
    delivery::{ArtifactLookup, LookupError},
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
        Some(kfp) => Arc::new(Auto { kfp: Arc::new(kfp), mlmd: Arc::new(mlmd) }),
        None => Arc::new(mlmd),
    })
}

/// Both sources.
struct Auto {
    kfp: Arc<dyn ArtifactLookup>,
    mlmd: Arc<dyn ArtifactLookup>,
}

impl ArtifactLookup for Auto {
    fn find<'a>(
        &'a self,
        run: &'a Workflow,
        types: &'a Arc<ArtifactTypes>,
    ) -> BoxFuture<'a, Result<Arc<RunModels>, LookupError>> {
        async move { sources::in_turn(self.kfp.find(run, types), || self.mlmd.find(run, types)).await.1 }.boxed()
    }

    fn forget(&self, run: Uid) {
        self.kfp.forget(run);
        self.mlmd.forget(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PipelineName, fixtures::succeeded};

    struct Source(Result<Arc<RunModels>, LookupError>);

    impl ArtifactLookup for Source {
        fn find<'a>(
            &'a self,
            _: &'a Workflow,
            _: &'a Arc<ArtifactTypes>,
        ) -> BoxFuture<'a, Result<Arc<RunModels>, LookupError>> {
            futures::future::ready(self.0.clone()).boxed()
        }

        fn forget(&self, _: Uid) {}
    }

    #[tokio::test]
    async fn both_sources_are_asked_in_their_order() {
        let run = succeeded(PipelineName::Unknown);
        let named = |name: &str| RunModels { pipeline: Some(name.into()), ..RunModels::default() };
        let old = LookupError::Failed { code: sources::OLD_SERVER, message: String::new() };
        for (native, expected) in [(Ok(named("kfp").into()), "kfp"), (Err(old), "mlmd")] {
            let auto = Auto { kfp: Arc::new(Source(native)), mlmd: Arc::new(Source(Ok(named("mlmd").into()))) };
            assert_eq!(*auto.find(&run, &Arc::default()).await.unwrap(), named(expected));
        }
    }
}
