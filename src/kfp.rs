//! The adapter for Kubeflow's own API: which serving models a run produced. Kubeflow Pipelines 3 keeps tasks and artifacts
//! itself, without ML Metadata.
//!
//! - [`rules`]: what makes an artifact a run's model, as pure functions of plain data
//! - [`lookup`]: the sequence of calls; [`convert`] turns messages into plain data, [`spec`] finds a pipeline's name
//! - [`client`]: a call; [`limit`] says how many there are at a time, [`token`] has the account's token
//!
//! The connection, the limits of memory, and the cache are those of every source of models, in the module `lookup` of the
//! crate. An error is never read as "no model", and neither is a run that the server does not know.

mod client;
mod convert;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod limit;
mod lookup;
mod proto;
mod rules;
mod spec;
mod token;

pub use self::{
    lookup::Probe,
    rules::{UNFINISHED, UNFINISHED_CODE},
};
pub use crate::lookup::Error;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio::time::Instant;

use self::rules::{Collector, Verdicts};
use crate::{
    clock::WallClock,
    delivery::{ArtifactLookup, Explained, LookupError},
    lookup::{
        Memory, Peer,
        cache::Cache,
        client::Shared,
        endpoint::{self, Connection},
        error::within,
        meter::KFP_CONNECTION_WINDOW,
        metrics::Metrics,
        sources::OLD_SERVER,
    },
    model::{ArtifactTypes, RunId, RunModels, Uid, Workflow},
    telemetry::LimitHits,
};

/// Kubeflow's API, as errors name it.
const PEER: Peer = Peer { name: "Kubeflow's API", example: "http://ml-pipeline.kubeflow:8887" };
/// Silence of the connection, while a call is in flight, after which HTTP/2 sends a PING. The server closes connections
/// with more than one in five minutes, and calls end before. So calls notice a dead connection, see [`client`].
const KEEPALIVE: Duration = Duration::from_secs(330);
const _: () = assert!(KEEPALIVE.as_secs() > 300);
/// Time for which it is remembered that the server does not know tasks: Kubeflow may be upgraded at any time.
const OLD_SERVER_TTL: Duration = Duration::from_secs(60);
/// The id of a run that no server has.
const NO_RUN: &str = "00000000-0000-4000-8000-000000000000";
/// Tolerance of the clocks of the server and the Workflows, in seconds.
const CLOCK_TOLERANCE: i64 = 5;

/// The metrics of lookups in Kubeflow's API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LookupMetrics {
    metrics: Metrics,
    foreign: Counter,
    calls_limit: Gauge,
}

impl LookupMetrics {
    /// Creates the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Metrics::new(registry, "kfp", "Kubeflow's API");
        metrics.expect_calls(&[client::LIST_TASKS, client::GET_RUN]);
        let (foreign, calls_limit) = (Counter::default(), Gauge::default());
        let help = "Models of other namespaces in the records of runs, which were ignored";
        registry.register("kfp_foreign_models", help, foreign.clone());
        let help = "Calls to Kubeflow's API that are made at a time, which adapts to the server; 0 without --kfp-api";
        registry.register("kfp_calls_limit", help, calls_limit.clone());
        Self { metrics, foreign, calls_limit }
    }
}

/// Settings of the connection, and limits of time and memory.
#[derive(Clone, Debug)]
pub struct Options {
    /// A file of certificate authorities in PEM format that are trusted instead of the system's. Only for `https`.
    pub ca: Option<PathBuf>,
    /// A file with the token of the account, which has the audience `pipelines.kubeflow.org`.
    pub token: Option<PathBuf>,
    /// Maximum time to connect.
    pub connect_timeout: Duration,
    /// Maximum time of one call, connecting included.
    pub call_timeout: Duration,
    /// Maximum time of a lookup, waiting for the turn of its calls included.
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
            token: None,
            connect_timeout: Duration::from_secs(5),
            // The server loads the whole run twice for a call, and may wait for the Kubernetes API.
            call_timeout: Duration::from_secs(20),
            // A thousand lookups in flight, at five calls a second.
            lookup_timeout: Duration::from_secs(300),
            cache_bytes: 8 * 1024 * 1024,
            cache_ttl: Duration::from_secs(3600),
            clock: WallClock::default(),
            limit_hits: LimitHits::default(),
            memory: Memory::default(),
        }
    }
}

/// Checks the URL of Kubeflow's gRPC API, without connecting.
///
/// # Errors
/// [`Error::Url`] if it is invalid.
pub fn check_url(url: &str) -> Result<(), Error> {
    endpoint::uri(url, PEER).map(drop)
}

/// An observation that the server does not know tasks.
#[derive(Clone, Debug)]
struct OldServer {
    at: Instant,
    /// The same in seconds since the Unix epoch.
    time: i64,
    error: LookupError,
}

/// Looks up the models of runs in Kubeflow's API, and caches the answers.
#[derive(Clone, Debug)]
pub struct Kfp {
    lookup: lookup::Lookup,
    cache: Cache,
    lookup_timeout: Duration,
    metrics: Metrics,
    clock: WallClock,
    old_server: Arc<Mutex<Option<OldServer>>>,
}

impl Kfp {
    /// Creates a client of the gRPC service under `url` (`http` or `https`, a host and a port, or `HOST:PORT` for
    /// `http`). It connects on first use, and again after a connection is lost.
    ///
    /// # Errors
    /// If the URL is invalid, or if it requires TLS and there are no usable certificate authorities.
    pub fn new(url: &str, options: &Options, metrics: LookupMetrics) -> Result<Self, Error> {
        let connection = Connection {
            peer: PEER,
            ca: options.ca.as_deref(),
            connect_timeout: options.connect_timeout,
            keepalive: KEEPALIVE,
            window: KFP_CONNECTION_WINDOW,
        };
        let endpoint = endpoint::endpoint(url, &connection)?;
        let shared = Shared {
            memory: options.memory.clone(),
            hits: options.limit_hits.clone(),
            metrics: metrics.metrics.clone(),
        };
        let calls = limit::Calls::new(metrics.calls_limit.clone());
        let token = options.token.clone().map(token::Token::new);
        let connect: client::Connect = {
            let endpoint = endpoint.clone();
            Arc::new(move || endpoint.connect_lazy())
        };
        let client = client::Client::new(&endpoint, connect, options.call_timeout, shared, calls, token);
        Ok(Self {
            metrics: metrics.metrics.clone(),
            lookup: lookup::Lookup::new(client, options.clock.clone(), metrics),
            cache: Cache::new(options.cache_bytes, options.cache_ttl),
            lookup_timeout: options.lookup_timeout,
            clock: options.clock.clone(),
            old_server: Arc::default(),
        })
    }

    /// Asks for the tasks of this run, or of one that no server knows.
    ///
    /// # Errors
    /// There is no valid answer, or the server does not know tasks ([`OLD_SERVER`]).
    pub async fn probe(&self, run: Option<(&Arc<str>, &RunId)>) -> Result<Probe, LookupError> {
        let (namespace, run_id) = match run {
            Some((namespace, run_id)) => (namespace.clone(), run_id.to_string()),
            None => ("".into(), NO_RUN.to_owned()),
        };
        within(self.lookup_timeout, "the probe", self.lookup.probe(&namespace, &run_id).boxed()).await
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
        within(self.lookup_timeout, "the lookup as a whole", self.lookup.models(run, types, verdicts).boxed()).await
    }

    async fn look_up(&self, run: &Workflow, types: &ArtifactTypes) -> Result<RunModels, LookupError> {
        let started = Instant::now();
        let answer = self.look_up_within_limit(run, types, &mut ()).await;
        self.metrics.answered(&answer, started.elapsed());
        let observed = match &answer {
            Err(error @ LookupError::Failed { code: OLD_SERVER, .. }) => {
                Some(OldServer { at: Instant::now(), time: self.clock.now(), error: error.clone() })
            }
            _ => None,
        };
        *self.old_server.lock().unwrap_or_else(PoisonError::into_inner) = observed;
        answer
    }

    /// Returns the failure of a server that does not know tasks, if that was observed a moment ago and after the run has
    /// ended. A run that ended later may have been recorded by another version.
    fn is_old_for(&self, run: &Workflow) -> Option<LookupError> {
        let observed = self.old_server.lock().unwrap_or_else(PoisonError::into_inner);
        let observed = observed.as_ref().filter(|observed| observed.at.elapsed() < OLD_SERVER_TTL)?;
        (observed.time >= run.finished.saturating_add(CLOCK_TOLERANCE)).then(|| observed.error.clone())
    }
}

impl ArtifactLookup for Kfp {
    fn find<'a>(
        &'a self,
        run: &'a Workflow,
        types: &'a Arc<ArtifactTypes>,
    ) -> BoxFuture<'a, Result<Arc<RunModels>, LookupError>> {
        let look_up = async {
            match self.is_old_for(run) {
                Some(error) => Err(error),
                None => self.look_up(run, types).await,
            }
        };
        self.cache.answer(run, types, &self.metrics, look_up).boxed()
    }

    fn forget(&self, run: Uid) {
        self.cache.forget(run);
    }
}
