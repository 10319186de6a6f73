//! The adapter for ML Metadata: which serving models a run produced.
//!
//! - [`rules`]: what makes an artifact a run's model, as pure functions of plain data
//! - [`lookup`]: the sequence of calls
//! - [`client`]: the calls; [`convert`] turns their responses into plain data, [`error`] their failures;
//!   [`require_grpc`] refuses responses that are not gRPC
//! - [`cache`]: the answers by run
//! - [`metrics`]: lookups, calls and cache hits
//!
//! Only calls that ML Metadata supports since 1.2 (Kubeflow Pipelines 1.8) are used. An error is never read as "no
//! model": it is returned to the caller, who retries.

mod cache;
mod client;
mod convert;
mod error;
mod lookup;
mod metrics;
mod proto;
mod require_grpc;
mod rules;

pub use metrics::LookupMetrics;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{
    delivery::{ArtifactLookup, LookupError},
    model::{ArtifactTypes, RunModels, Uid, Workflow},
};
use error::CallError;
use metrics::Outcome;

/// Limits of time and memory.
#[derive(Clone, Debug)]
pub struct Options {
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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            // A store that needs ten seconds for each response is overloaded: aborting and retrying would add load.
            // The longest lookup is a chain of six responses.
            call_timeout: Duration::from_secs(20),
            lookup_timeout: Duration::from_secs(90),
            cache_bytes: 32 * 1024 * 1024,
            cache_ttl: Duration::from_secs(3600),
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
    /// The transport could not be set up; for `https`, mostly because the machine has no root certificates.
    #[error("the transport to ML Metadata could not be set up")]
    Transport(#[from] tonic::transport::Error),
}

/// Checks the URL of ML Metadata's gRPC service, without connecting.
///
/// # Errors
/// [`Error::Url`] if it is invalid.
pub fn check_url(url: &str) -> Result<(), Error> {
    client::uri(url).map(drop)
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
    /// Creates a client of the gRPC service under `url` (`http` or `https`, a host and a port). It connects on first
    /// use, and again after a connection is lost.
    ///
    /// # Errors
    /// If the URL is invalid, or if it requires TLS and there are no root certificates.
    pub fn new(url: &str, options: &Options, metrics: LookupMetrics) -> Result<Self, Error> {
        Ok(Self::over(client::endpoint(url, options)?.connect_lazy(), options, metrics))
    }

    fn over(channel: Channel, options: &Options, metrics: LookupMetrics) -> Self {
        Self {
            lookup: lookup::Lookup::new(client::Client::new(channel, options, metrics.clone())),
            cache: cache::Cache::new(options),
            lookup_timeout: options.lookup_timeout,
            metrics,
        }
    }

    async fn look_up(&self, run: &Workflow, types: &ArtifactTypes) -> Result<RunModels, LookupError> {
        let started = Instant::now();
        let answer = tokio::time::timeout(self.lookup_timeout, self.lookup.models(run, types))
            .await
            .unwrap_or_else(|_| Err(CallError::timeout("the lookup as a whole", self.lookup_timeout).into()));
        let outcome = match &answer {
            Ok(found) if found.models.is_empty() => Outcome::NoModel,
            Ok(_) => Outcome::Found,
            Err(LookupError::NoContext) => Outcome::NoContext,
            Err(LookupError::ForeignContext { .. }) => Outcome::ForeignContext,
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
            if let Some(found) = entry.get(types) {
                self.metrics.cache_hit();
                return Ok(found);
            }
            let answer = self.look_up(run, types).await.map(Arc::new);
            self.cache.store(run.uid, &entry, types, answer.as_ref().ok());
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
