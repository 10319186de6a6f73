//! The adapter for ML Metadata: which serving models a run produced.
//!
//! - [`rules`]: what makes an artifact a run's model, as pure functions of plain data
//! - [`lookup`]: the sequence of calls; [`ahead`]: what is expected of runs that have not ended
//! - [`early`]: the events of expected executions
//! - [`reader`]: the calls of one lookup, its listings by [`pages`], and what it keeps; [`convert`] turns messages into
//!   plain data by [`wire`]
//! - [`method`]: the calls, made by the module `lookup` of the crate, which also bounds and caches the answers
//!
//! Only calls that ML Metadata supports since 1.2 (Kubeflow Pipelines 1.8) are used. An error is never read as "no
//! model": it is returned to the caller, who retries.

mod ahead;
mod convert;
mod early;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod lookup;
mod method;
mod proto;
mod reader;
mod rules;

pub use crate::lookup::Error;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::{
    clock::WallClock,
    delivery::{ArtifactLookup, Explained, KnownAhead, LookupError},
    lookup::{
        Memory, Peer, allowance,
        cache::Cache,
        client::{Client, Shared},
        endpoint::{self, Connection},
        error::{self, within},
        meter::CONNECTION_WINDOW,
        metrics::Metrics,
        pages, wire,
    },
    model::{ArtifactTypes, RunModels, Uid, Workflow},
    telemetry::LimitHits,
};
use ahead::{Ahead, AheadMetrics, Expected};
use rules::{Collector, Verdicts};

/// Full name of the service.
const SERVICE: &str = "ml_metadata.MetadataStoreService";
/// ML Metadata, as errors name it.
const PEER: Peer = Peer { name: "ML Metadata", example: "http://metadata-grpc-service.kubeflow:8080" };
/// Silence of the connection, while a call is in flight, after which HTTP/2 sends a PING. ML Metadata's gRPC library
/// closes connections with PINGs while idle, or with many PINGs between two responses.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The metrics of lookups in ML Metadata. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LookupMetrics {
    metrics: Metrics,
    ahead: AheadMetrics,
}

impl LookupMetrics {
    /// Creates the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        Self { metrics: Metrics::new(registry, "mlmd", "ML Metadata"), ahead: AheadMetrics::new(registry) }
    }
}

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
    /// The memory that lookups in all sources share.
    pub memory: Memory,
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
            memory: Memory::default(),
        }
    }
}

/// Checks the URL of ML Metadata's gRPC service, without connecting.
///
/// # Errors
/// [`Error::Url`] if it is invalid.
pub fn check_url(url: &str) -> Result<(), Error> {
    endpoint::uri(url, PEER).map(drop)
}

/// Looks up the models of runs in ML Metadata, and caches the answers.
#[derive(Clone, Debug)]
pub struct Mlmd {
    lookup: lookup::Lookup,
    cache: Cache,
    ahead: Ahead,
    lookup_timeout: Duration,
    metrics: Metrics,
}

impl Options {
    fn client(&self, endpoint: &Endpoint, channel: Channel, metrics: Metrics) -> Client {
        let shared = Shared { memory: self.memory.clone(), hits: self.limit_hits.clone(), metrics };
        Client::new(SERVICE, endpoint, channel, self.call_timeout, shared)
    }

    fn connection(&self) -> Connection<'_> {
        Connection {
            peer: PEER,
            ca: self.ca.as_deref(),
            connect_timeout: self.connect_timeout,
            keepalive: KEEPALIVE,
            window: CONNECTION_WINDOW,
        }
    }
}

impl Mlmd {
    /// Creates a client of the gRPC service under `url` (`http` or `https`, a host and a port, or `HOST:PORT` for
    /// `http`). It connects on first use, and again after a connection is lost.
    ///
    /// # Errors
    /// If the URL is invalid, or if it requires TLS and there are no usable certificate authorities.
    pub fn new(url: &str, options: &Options, metrics: LookupMetrics) -> Result<Self, Error> {
        let endpoint = endpoint::endpoint(url, &options.connection())?;
        Ok(Self::over(&endpoint, endpoint.connect_lazy(), options, metrics))
    }

    fn over(endpoint: &Endpoint, channel: Channel, options: &Options, metrics: LookupMetrics) -> Self {
        let LookupMetrics { metrics, ahead } = metrics;
        let ahead = Ahead::new(ahead);
        let client = options.client(endpoint, channel, metrics.clone());
        Self {
            lookup: lookup::Lookup::new(client, options.clock.clone(), ahead.clone()),
            cache: Cache::new(options.cache_bytes, options.cache_ttl),
            ahead,
            lookup_timeout: options.lookup_timeout,
            metrics,
        }
    }

    /// Asks for a context that no run has: a request that every version answers.
    ///
    /// # Errors
    /// There is no valid answer.
    pub async fn probe(&self) -> Result<(), LookupError> {
        within(self.lookup_timeout, "the probe", self.lookup.probe().boxed()).await
    }

    /// Looks up the models of a run without the cache, and collects the verdict about each artifact that was seen.
    pub async fn explain(&self, run: &Workflow, types: &ArtifactTypes) -> Explained {
        let mut collector = Collector::default();
        let found = self.look_up_within_limit(run, types, None, &mut collector).await;
        collector.explained(found)
    }

    async fn look_up_within_limit(
        &self,
        run: &Workflow,
        types: &ArtifactTypes,
        expected: Option<&Expected>,
        verdicts: &mut dyn Verdicts,
    ) -> Result<RunModels, LookupError> {
        let models = self.lookup.models(run, types, expected, verdicts);
        within(self.lookup_timeout, "the lookup as a whole", models.boxed()).await
    }

    async fn look_up(&self, run: &Workflow, types: &ArtifactTypes) -> Result<RunModels, LookupError> {
        let started = Instant::now();
        let expected = self.ahead.get(run.uid);
        let answer = self.look_up_within_limit(run, types, expected.as_deref(), &mut ()).await;
        if answer.is_ok() {
            // Further lookups are rare: they are of other artifact types.
            self.ahead.forget(run.uid);
        }
        self.metrics.answered(&answer, started.elapsed());
        answer
    }
}

impl ArtifactLookup for Mlmd {
    fn find<'a>(
        &'a self,
        run: &'a Workflow,
        types: &'a Arc<ArtifactTypes>,
    ) -> BoxFuture<'a, Result<Arc<RunModels>, LookupError>> {
        self.cache.answer(run, types, &self.metrics, self.look_up(run, types)).boxed()
    }

    fn look_ahead<'a>(&'a self, run: &'a Workflow) -> BoxFuture<'a, Result<KnownAhead, LookupError>> {
        async {
            let asked = self.lookup.ahead(run).boxed();
            let answer = within(self.lookup_timeout, "the lookup ahead", asked).await;
            self.ahead.asked(&answer);
            answer
        }
        .boxed()
    }

    fn forget(&self, run: Uid) {
        self.ahead.forget(run);
        self.cache.forget(run);
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
