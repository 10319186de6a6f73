//! The adapter for ML Metadata: which serving models a run produced.
//!
//! - [`rules`]: what makes an artifact a run's model, as pure functions of plain data
//! - [`lookup`]: the sequence of calls
//! - [`reader`]: the calls of one lookup, its listings by [`pages`], and what it keeps; [`convert`] turns messages into
//!   plain data by [`wire`]
//! - [`client`]: a call, its span and its metric; [`error`] its failures; [`endpoint`] the connection
//! - [`meter`] and [`budget`]: the memory that answers may take; [`require_grpc`] refuses what is not gRPC
//! - [`cache`]: the answers by run
//! - [`metrics`]: lookups, calls and cache hits
//!
//! Only calls that ML Metadata supports since 1.2 (Kubeflow Pipelines 1.8) are used. An error is never read as "no
//! model": it is returned to the caller, who retries.

mod budget;
mod cache;
mod client;
mod convert;
mod endpoint;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod lookup;
mod meter;
mod metrics;
mod pages;
mod proto;
mod reader;
mod require_grpc;
mod rules;
mod wire;

pub use metrics::LookupMetrics;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::{
    clock::WallClock,
    delivery::{ArtifactLookup, Explained, LookupError},
    model::{ArtifactTypes, RunModels, Uid, Workflow},
    telemetry::LimitHits,
};
use cache::Question;
use error::CallError;
use metrics::Outcome;
use rules::{Collector, Verdicts};

/// Settings of the connection, and limits of time and memory.
#[derive(Clone, Debug)]
pub struct Options {
    /// A file of certificate authorities in PEM format that are trusted instead of the system's. Only for `https`.
    pub ca: Option<PathBuf>,
    /// Maximum time to connect.
    pub connect_timeout: Duration,
    /// Maximum time of one call, connecting included.
    pub call_timeout: Duration,
    /// Maximum time of all calls of one lookup together.
    pub lookup_timeout: Duration,
    /// Maximum size of the cached answers in bytes, estimated.
    pub cache_bytes: u64,
    /// Time for which an answer is cached.
    pub cache_ttl: Duration,
    /// The clock for the time since a run's end.
    pub clock: WallClock,
    /// The metric of limits.
    pub limit_hits: LimitHits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ca: None,
            connect_timeout: Duration::from_secs(5),
            // A store that needs ten seconds for each response is overloaded: aborting and retrying would add load.
            // The longest lookup is a chain of six responses.
            call_timeout: Duration::from_secs(20),
            lookup_timeout: Duration::from_secs(90),
            cache_bytes: 16 * 1024 * 1024,
            cache_ttl: Duration::from_secs(3600),
            clock: WallClock::default(),
            limit_hits: LimitHits::default(),
        }
    }
}

/// The reason why no client could be created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be one of ML Metadata's gRPC service.
    #[error("not a URL of a gRPC service such as http://metadata-grpc-service.kubeflow:8080: {reason}")]
    Url {
        /// The problem. It does not contain the URL, which may include secrets.
        reason: &'static str,
    },
    /// The file of certificate authorities is not usable.
    #[error("the certificate authorities in {path:?} are not usable: {reason}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// There is a file of certificate authorities, but the connection does not use TLS.
    #[error("certificate authorities are only for TLS; write the URL of ML Metadata with https://")]
    CaWithoutTls,
    /// The transport could not be set up; for `https`, mostly because the machine has no root certificates.
    #[error("the transport to ML Metadata could not be set up")]
    Transport(#[from] tonic::transport::Error),
}

/// Checks the URL of ML Metadata's gRPC service, without connecting.
///
/// # Errors
/// [`Error::Url`] if it is invalid.
pub fn check_url(url: &str) -> Result<(), Error> {
    endpoint::uri(url).map(drop)
}

/// Looks up the models of runs in ML Metadata, and caches the answers.
#[derive(Clone, Debug)]
pub struct Mlmd {
    lookup: lookup::Lookup,
    cache: cache::Cache,
    lookup_timeout: Duration,
    metrics: LookupMetrics,
}

impl Mlmd {
    /// Creates a client of the gRPC service under `url` (`http` or `https`, a host and a port, or `HOST:PORT` for
    /// `http`). It connects on first use, and again after a connection is lost.
    ///
    /// # Errors
    /// If the URL is invalid, or if it requires TLS and there are no usable certificate authorities.
    pub fn new(url: &str, options: &Options, metrics: LookupMetrics) -> Result<Self, Error> {
        let endpoint = endpoint::endpoint(url, options)?;
        Ok(Self::over(&endpoint, endpoint.connect_lazy(), options, metrics))
    }

    fn over(endpoint: &Endpoint, channel: Channel, options: &Options, metrics: LookupMetrics) -> Self {
        let client = client::Client::new(endpoint, channel, options, metrics.clone());
        Self {
            lookup: lookup::Lookup::new(client, options.clock.clone()),
            cache: cache::Cache::new(options),
            lookup_timeout: options.lookup_timeout,
            metrics,
        }
    }

    /// Asks for a context that no run has: a question that every version answers.
    ///
    /// # Errors
    /// There is no valid answer.
    pub async fn probe(&self) -> Result<(), LookupError> {
        tokio::time::timeout(self.lookup_timeout, self.lookup.probe())
            .await
            .unwrap_or_else(|_| Err(CallError::timeout("the probe", self.lookup_timeout).into()))
    }

    /// Looks up the models of a run without the cache, and collects the verdict about each artifact that was seen.
    pub async fn explain(&self, run: &Workflow, types: &ArtifactTypes) -> Explained {
        let mut collector = Collector::default();
        let found = self.look_up_within_limit(run, types, &mut collector).await;
        collector.explained(found)
    }

    async fn look_up_within_limit(
        &self,
        run: &Workflow,
        types: &ArtifactTypes,
        verdicts: &mut dyn Verdicts,
    ) -> Result<RunModels, LookupError> {
        tokio::time::timeout(self.lookup_timeout, self.lookup.models(run, types, verdicts))
            .await
            .unwrap_or_else(|_| Err(CallError::timeout("the lookup as a whole", self.lookup_timeout).into()))
    }

    async fn look_up(&self, run: &Workflow, types: &ArtifactTypes) -> Result<RunModels, LookupError> {
        let started = Instant::now();
        let answer = self.look_up_within_limit(run, types, &mut ()).await;
        let outcome = match &answer {
            Ok(found) if found.models.is_empty() => Outcome::NoModel,
            Ok(_) => Outcome::Found,
            Err(LookupError::NoContext) => Outcome::NoContext,
            Err(LookupError::ForeignContext { .. }) => Outcome::ForeignContext,
            Err(LookupError::TooLarge) => Outcome::TooLarge,
            Err(LookupError::Failed { .. }) => Outcome::Failed,
        };
        self.metrics.lookup_ended(outcome, started.elapsed());
        answer
    }
}

impl ArtifactLookup for Mlmd {
    fn find<'a>(
        &'a self,
        run: &'a Workflow,
        types: &'a Arc<ArtifactTypes>,
    ) -> BoxFuture<'a, Result<Arc<RunModels>, LookupError>> {
        async move {
            let entry = self.cache.entry(run.uid);
            let question = Question::of(run, types);
            if let Some(answer) = entry.get(&question) {
                self.metrics.cache_hit();
                return answer.map_err(LookupError::from);
            }
            let answer = self.look_up(run, types).await.map(Arc::new);
            self.cache.store(run.uid, &entry, question, &answer);
            answer
        }
        .boxed()
    }

    fn forget(&self, run: Uid) {
        self.cache.forget(run);
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
