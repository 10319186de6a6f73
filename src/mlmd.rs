//! The side of ML Metadata: which serving models a run has put out.
//!
//! - [`rules`]: what makes an artifact a run's model; pure functions of plain data
//! - [`lookup`]: which questions answer that, in which order
//! - [`client`]: the calls; [`convert`] turns their answers into plain data, [`error`] their failures; [`only_grpc`] sees to
//!   it that an answer is one of a gRPC server
//! - [`cache`]: one lookup a run, however many ask
//!
//! Only calls that ML Metadata has had since 1.2 (Kubeflow Pipelines 1.8) are used. An error is never read as "no
//! model": whoever asked gets it, and asks again when it thinks fit.

mod cache;
mod client;
mod convert;
mod error;
mod lookup;
mod only_grpc;
mod proto;
mod rules;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{
    delivery::{ArtifactLookup, LookupError},
    model::{ArtifactTypes, RunModels, Uid, Workflow},
    telemetry::metrics::{LookupMetrics, Metrics, lookups::Outcome},
};

/// Limits of time and memory.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long it may take to connect.
    pub connect_timeout: Duration,
    /// How long one call may take, connecting included.
    pub call_timeout: Duration,
    /// How long all calls of one lookup may take together.
    pub lookup_timeout: Duration,
    /// How many octets of answers are remembered, estimated.
    pub cache_octets: u64,
    /// How long an answer is remembered.
    pub cache_ttl: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            // A store that needs ten seconds for each answer is slow, and to be borne: to give up and ask again would
            // only keep it busy. The longest lookup is a chain of six answers.
            call_timeout: Duration::from_secs(20),
            lookup_timeout: Duration::from_secs(90),
            cache_octets: 32 * 1024 * 1024,
            cache_ttl: Duration::from_secs(3600),
        }
    }
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be one of ML Metadata's gRPC service.
    #[error("not a URL of a gRPC service such as http://metadata-grpc-service.kubeflow:8080: {why}")]
    Url {
        /// What is wrong with it. The URL itself is not repeated: it may hold what should not be logged.
        why: &'static str,
    },
    /// The transport could not be set up; for `https`, mostly because the machine has no root certificates.
    #[error("the transport to ML Metadata could not be set up")]
    Transport(#[from] tonic::transport::Error),
}

/// Whether this can be the URL of ML Metadata's gRPC service. Connects to nothing.
///
/// # Errors
/// Where it cannot.
pub fn check_url(url: &str) -> Result<(), Error> {
    client::uri(url).map(drop)
}

/// Finds the models of runs in ML Metadata, and remembers the answers.
#[derive(Clone, Debug)]
pub struct Mlmd {
    lookup: lookup::Lookup,
    cache: cache::Cache,
    lookup_timeout: Duration,
    metrics: LookupMetrics,
}

impl Mlmd {
    /// A client of the gRPC service under `url` (`http` or `https`, a host and a port). Connects when it is first
    /// asked something, and again whenever the connection is lost.
    ///
    /// # Errors
    /// Where the URL is none of such a service, or TLS is asked for and there are no root certificates.
    pub fn new(url: &str, options: &Options, metrics: &Metrics) -> Result<Self, Error> {
        Ok(Self::over(client::endpoint(url, options)?.connect_lazy(), options, metrics))
    }

    fn over(channel: Channel, options: &Options, metrics: &Metrics) -> Self {
        let metrics = metrics.lookups.clone();
        Self {
            lookup: lookup::Lookup::new(client::Client::new(channel, options, metrics.clone())),
            cache: cache::Cache::new(options),
            lookup_timeout: options.lookup_timeout,
            metrics,
        }
    }

    async fn look_up(&self, run: &Workflow, types: &ArtifactTypes) -> Result<RunModels, LookupError> {
        let begun = Instant::now();
        let answer = tokio::time::timeout(self.lookup_timeout, self.lookup.models(run, types))
            .await
            .unwrap_or_else(|_| Err(error::timeout("the lookup as a whole", self.lookup_timeout)));
        let outcome = match &answer {
            Ok(found) if found.models.is_empty() => Outcome::NoModel,
            Ok(_) => Outcome::Found,
            Err(LookupError::NoContext) => Outcome::NoContext,
            Err(LookupError::ForeignContext { .. }) => Outcome::ForeignContext,
            Err(LookupError::Failed { .. }) => Outcome::Failed,
        };
        self.metrics.looked_up(outcome, begun.elapsed());
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
            let (answer, spared) = self.cache.get(run.uid, types, || self.look_up(run, types).boxed()).await;
            if spared {
                self.metrics.answered_from_memory();
            }
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
