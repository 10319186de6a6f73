//! The sources of models: ML Metadata, Kubeflow's own API, or both.
//!
//! With both, Kubeflow's API is asked first, and ML Metadata where that does not settle the run: an installation may be
//! older than the API, or may have been upgraded and keep earlier runs in ML Metadata. [`settled`] and [`combined`] are
//! the rules.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use futures::{FutureExt, future::BoxFuture};
use prometheus_client::registry::Registry;

use super::Config;
use crate::{
    delivery::{ArtifactLookup, LookupError},
    kfp::{self, Kfp},
    lookup::Memory,
    mlmd::{self, Mlmd},
    model::{ArtifactTypes, RunModels, Uid, Workflow},
    telemetry::LimitHits,
};

/// Maximum size of the cached answers of each of two sources in bytes.
const CACHE_OF_TWO: u64 = 8 * 1024 * 1024;

/// The sources of models that are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Artifacts {
    /// Kubeflow's API, then ML Metadata; without --kfp-api ML Metadata only
    #[default]
    Auto,
    /// ML Metadata: Kubeflow Pipelines up to 2.18
    Mlmd,
    /// Kubeflow's API: Kubeflow Pipelines 3
    Kfp,
}

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
    /// The last lookup found a server that does not know tasks, so that ML Metadata decides.
    is_old_server: AtomicBool,
}

impl Auto {
    fn new(kfp: Arc<dyn ArtifactLookup>, mlmd: Arc<dyn ArtifactLookup>) -> Self {
        Self { kfp, mlmd, is_old_server: AtomicBool::new(false) }
    }
}

type Answer = Result<Arc<RunModels>, LookupError>;

impl ArtifactLookup for Auto {
    fn find<'a>(&'a self, run: &'a Workflow, types: &'a Arc<ArtifactTypes>) -> BoxFuture<'a, Answer> {
        async move {
            let settled = settled(self.kfp.find(run, types).await);
            self.is_old_server.store(settled == Err(Open::OldServer), Ordering::Relaxed);
            match settled {
                Ok(answer) => answer,
                Err(open) => combined(open, self.mlmd.find(run, types).await),
            }
        }
        .boxed()
    }

    /// Kubeflow's API is asked a single question. ML Metadata is asked ahead only where it decides.
    fn look_ahead<'a>(&'a self, run: &'a Workflow) -> BoxFuture<'a, Result<(), LookupError>> {
        if self.is_old_server.load(Ordering::Relaxed) { self.mlmd.look_ahead(run) } else { self.kfp.look_ahead(run) }
    }

    fn forget(&self, run: Uid) {
        self.kfp.forget(run);
        self.mlmd.forget(run);
    }
}

/// What an answer of Kubeflow's API leaves open.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Open {
    /// The server is of a version with ML Metadata.
    OldServer,
    /// The server does not know the run. It may have ended before an upgrade.
    UnknownRun,
    /// There is no valid answer.
    Failed(LookupError),
}

/// Returns the answer of Kubeflow's API if it settles the run.
fn settled(answer: Answer) -> Result<Answer, Open> {
    match answer {
        Ok(_) | Err(LookupError::ForeignContext { .. } | LookupError::TooLarge) => Ok(answer),
        Err(LookupError::NoContext) => Err(Open::UnknownRun),
        Err(LookupError::Failed { code: kfp::OLD_SERVER, .. }) => Err(Open::OldServer),
        Err(error @ LookupError::Failed { .. }) => Err(Open::Failed(error)),
    }
}

/// Returns the answer for a run that Kubeflow's API left open, given that of ML Metadata.
fn combined(open: Open, stored: Answer) -> Answer {
    match (open, stored) {
        (Open::OldServer, stored) => stored,
        // After an upgrade, ML Metadata may be gone for good.
        (Open::UnknownRun, Err(LookupError::Failed { .. })) => Err(LookupError::NoContext),
        (Open::UnknownRun, stored) => stored,
        (Open::Failed(_), Ok(found)) if !found.models.is_empty() || found.pipeline.is_some() => Ok(found),
        (Open::Failed(error), _) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Artifact, PipelineName, fixtures::succeeded};

    fn found(uri: &str) -> Answer {
        let model =
            Artifact { id: 1.into(), name: None, uri: uri.into(), node: "push".into(), key: "model".into(), index: 0 };
        Ok(RunModels { models: vec![model], ..RunModels::default() }.into())
    }

    fn none() -> Answer {
        Ok(Arc::default())
    }

    fn failed(code: &'static str) -> Answer {
        Err(LookupError::Failed { code, message: String::new() })
    }

    fn foreign() -> Answer {
        Err(LookupError::ForeignContext { namespace: "other".to_owned() })
    }

    /// Every pair of answers, with the answer that follows from them. `None`: ML Metadata is not asked.
    #[test]
    fn the_answers_of_both_sources_are_combined() {
        let (unknown, large) = (|| Err(LookupError::NoContext), || Err(LookupError::TooLarge));
        let (down, old) = (|| failed("unavailable"), || failed("unimplemented"));
        let stored = || [found("mlmd"), none(), unknown(), foreign(), large(), failed("timeout")];
        for answer in [found("kfp"), none(), foreign(), large()] {
            assert_eq!(settled(answer.clone()), Ok(answer));
        }
        for (native, expected) in [
            (old(), stored()),
            (unknown(), [found("mlmd"), none(), unknown(), foreign(), large(), unknown()]),
            (down(), [found("mlmd"), down(), down(), down(), down(), down()]),
        ] {
            for (stored, expected) in stored().into_iter().zip(expected) {
                let open = settled(native.clone()).unwrap_err();
                assert_eq!(combined(open, stored.clone()), expected, "{native:?}, then {stored:?}");
            }
        }
        let named: Answer = Ok(RunModels { pipeline: Some("penguin".into()), ..RunModels::default() }.into());
        assert_eq!(combined(settled(down()).unwrap_err(), named.clone()), named, "all that a failed run needs");
    }

    struct Source(Answer);

    impl ArtifactLookup for Source {
        fn find<'a>(&'a self, _: &'a Workflow, _: &'a Arc<ArtifactTypes>) -> BoxFuture<'a, Answer> {
            futures::future::ready(self.0.clone()).boxed()
        }

        fn look_ahead<'a>(&'a self, _: &'a Workflow) -> BoxFuture<'a, Result<(), LookupError>> {
            futures::future::ready(self.0.clone().map(drop)).boxed()
        }

        fn forget(&self, _: Uid) {}
    }

    #[tokio::test]
    async fn ml_metadata_is_asked_for_what_is_open() {
        let run = succeeded(PipelineName::Unknown);
        for (native, expected) in
            [(found("kfp"), found("kfp")), (none(), none()), (failed("unimplemented"), found("mlmd"))]
        {
            let auto = Auto::new(Arc::new(Source(native)), Arc::new(Source(found("mlmd"))));
            assert_eq!(auto.find(&run, &Arc::default()).await, expected);
        }
    }

    /// Before anything is known, and from an upgrade on, ML Metadata may be gone.
    #[tokio::test]
    async fn ml_metadata_is_asked_ahead_only_where_it_decides() {
        let run = succeeded(PipelineName::Unknown);
        for (native, asked) in [(failed("unimplemented"), true), (found("kfp"), false), (failed("timeout"), false)] {
            let auto = Auto::new(Arc::new(Source(native)), Arc::new(Source(foreign())));
            let foreign = foreign().map(drop);
            assert_ne!(auto.look_ahead(&run).await, foreign);
            auto.find(&run, &Arc::default()).await.ok();
            assert_eq!(auto.look_ahead(&run).await == foreign, asked);
        }
    }
}
