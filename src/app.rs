//! The composition root: [`build`] binds the ports and connects the parts, [`Bound::run`] runs and supervises them.
//!
//! ```text
//!              ┌─ watch (one, or one per namespace) ─▶ store ─┐
//!   Kubernetes ┤                                              ▼
//!              └─ marker ◀────────────────────────────── delivery ◀─▶ eventsource ◀─▶ Argo Events
//!           ML Metadata ◀─ mlmd ┐
//!          Kubeflow API ◀─ kfp ─┴◀─ sources ◀────┘
//! ```
//!
//! Every task is supervised: the end or panic of a task before its stop signal ends the process with an error, and the
//! container is restarted. A shutdown has these steps; `shutdown.rs` has their time limits:
//!
//! 1. Readiness fails, and new streams are refused.
//! 2. No further events are handed off. Each stream ends when its last hand-off is confirmed and marked.
//! 3. The watches, the subscribers' server and the admin server end.

mod config;
pub(crate) mod shutdown;
mod sources;
mod supervisor;

use std::{convert::Infallible, env, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::config::Config;
use self::supervisor::Supervisor;
use crate::{
    access::{Access, AccessMetrics},
    admin::{self, Admin},
    delivery::{self, DeliveryMetrics, Driver, NoticeSink, StatusReader},
    eventsource::{self, Server, StreamMetrics, Tls, TlsMetrics},
    k8s::{ApiReviewer, Client, EventRecorder, KubernetesMetrics, PatchMarker, Watch, Watches},
    model::SubscriptionsInUse,
    net,
    readiness::{Heartbeat, Readiness},
    store::Store,
    telemetry::{self, LimitHits},
};

const DELIVERY: &str = "delivery";
const SERVER: &str = "server";

/// A server whose ports are bound and that does not serve yet.
pub struct Bound {
    config: Config,
    listener: TcpListener,
    admin_listener: TcpListener,
    metrics_listener: Option<(TcpListener, SocketAddr)>,
    address: SocketAddr,
    admin_address: SocketAddr,
    registry: Registry,
    readiness: Readiness,
    heartbeat: Heartbeat,
    limits: LimitHits,
    store: Arc<Store>,
    access: Access,
    status: StatusReader,
    watches: Vec<Watch>,
    server: Server,
    driver: Driver,
    event_recorder: Option<EventRecorder>,
}

/// Binds the ports and connects the parts. Makes no connection: Kubernetes and the sources of models may be unavailable.
///
/// # Errors
/// A port is not available, or the configuration of Kubernetes or of a source of models is not usable.
pub async fn build(config: Config) -> Result<Bound> {
    let (listener, address) = bind(config.listen, "--listen")?;
    let (admin_listener, admin_address) = bind(config.admin_listen, "--admin-listen")?;
    let metrics_listener = config.metrics_listen.map(|address| bind(address, "--metrics-listen")).transpose()?;

    let mut registry = telemetry::registry();
    let product = telemetry::product(&mut registry);
    let limits = LimitHits::new(product);
    let delivery_metrics = DeliveryMetrics::new(product);
    let kubernetes_metrics = KubernetesMetrics::new(product);
    let lookup = sources::sources(&config, &limits, product)?;
    let stream_metrics = StreamMetrics::new(product);
    let in_use = SubscriptionsInUse::default();
    let (readiness, heartbeat) = (Readiness::default(), Heartbeat::default());
    let store = Arc::new(Store::new(config.clock.clone()));
    let kubernetes = match config.kubernetes.clone() {
        Some(cluster) => Client::new(cluster, kubernetes_metrics)?,
        None => Client::infer(kubernetes_metrics).await?,
    };
    let marker = PatchMarker::new(kubernetes.clone());
    let event_recorder =
        config.kubernetes_events.then(|| EventRecorder::new(kubernetes.clone(), env::var("POD_NAME").ok()));
    let notices = event_recorder.clone().map(|recorder| Arc::new(recorder) as Arc<dyn NoticeSink>);
    let options = delivery::Options {
        confirm_after: config.confirm_after,
        max_connection_age: config.max_connection_age,
        skip_labelled: config.skip_labelled,
        mark_rate: Some(config.mark_rate),
        limits: limits.clone(),
        in_use: in_use.clone(),
        notices,
        drain_confirmations: shutdown::CONFIRMATIONS,
        drain_marks: shutdown::MARKS,
        traces: config.traces.clone(),
        ..delivery::Options::default()
    };
    let (deliveries, driver) = Driver::new(
        store.clone(),
        lookup,
        Arc::new(marker),
        options,
        config.clock.clone(),
        delivery_metrics,
        heartbeat.clone(),
    );
    let status = driver.status();
    let access = Access::new(config.access.clone(), ApiReviewer::new(kubernetes.clone()), AccessMetrics::new(product));
    let tls_metrics = TlsMetrics::new(product);
    let tls = config.tls.clone().map(|files| Tls::load(files, tls_metrics)).transpose();
    let tls = tls.context("--tls-cert, --tls-key and --tls-client-ca")?;
    let options = eventsource::Options {
        namespaces: (!config.namespaces.is_empty()).then(|| config.namespaces.clone()),
        access: access.clone(),
        limits: config.limits,
        limit_hits: limits.clone(),
        drain: shutdown::SERVER,
        traces: config.traces.clone(),
    };
    let server = Server::new(deliveries, store.clone(), options, readiness.clone(), stream_metrics).with_tls(tls);
    let watches =
        Watches::new(kubernetes, config.selector.clone(), store.clone(), readiness.clone(), in_use, limits.clone());
    let watches = config.scopes().into_iter().map(|scope| watches.watch(scope)).collect();
    Ok(Bound {
        listener,
        admin_listener,
        metrics_listener,
        address,
        admin_address,
        registry,
        readiness,
        heartbeat,
        limits,
        store,
        access,
        status,
        watches,
        server,
        driver,
        event_recorder,
        config,
    })
}

fn bind(address: SocketAddr, flag: &str) -> Result<(TcpListener, SocketAddr)> {
    let bound = net::listen(address).and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.with_context(|| format!("cannot listen on {address}; choose another address with {flag}"))
}

impl Bound {
    /// The address for subscribers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of health, readiness and metrics.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The address of metrics, where they have a listener of their own.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_listener.as_ref().map(|(_, address)| *address)
    }

    /// The conditions of the server's readiness.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Serves until `shutdown` is cancelled, and then until the drain is complete or its time limit is reached.
    ///
    /// # Errors
    /// A task failed, or ended before the shutdown.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let facts = self.facts();
        info!(
            version = telemetry::VERSION,
            revision = telemetry::REVISION,
            listen = %self.address,
            admin = %self.admin_address,
            metrics = self.metrics_address().map(tracing::field::display),
            namespaces = self.config.namespaces_text(),
            selector = self.config.selector,
            metadata_store = self.config.metadata_store,
            kfp_api = self.config.kfp_api,
            "serving"
        );
        // Released before the first stream can attach; blocks again during the shutdown.
        let running = self.readiness.condition("shutdown", "the server is starting");
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = Supervisor::default();
        let admin = Admin {
            registry: self.registry,
            readiness: self.readiness.clone(),
            heartbeat: self.heartbeat,
            log: self.config.log.clone(),
            limits: self.limits,
            has_status: self.config.status_page,
            hosts: self.config.status_page_hosts.clone(),
            access: self.access,
            delivery: self.status,
            store: self.store,
            scopes: self.config.scopes(),
            namespaces: self.config.namespaces.clone(),
            selector: self.config.selector.clone(),
            trace_url: self.config.trace_url_template.clone(),
            clock: self.config.clock.clone(),
            started: std::time::Instant::now(),
            facts,
        };
        let (admin_listener, admin_stop) = (self.admin_listener, stop.clone());
        let metrics_listener = self.metrics_listener.map(|(listener, _)| listener);
        tasks.spawn("admin", &stop, async {
            admin::serve(admin_listener, metrics_listener, admin, admin_stop, shutdown::LAST_ANSWERS).await;
            Ok::<_, Infallible>(())
        });
        for watch in self.watches {
            let stopped = stop.clone();
            tasks.spawn("watch", &stop, async move {
                stopped.run_until_cancelled(watch.run()).await;
                Ok::<_, Infallible>(())
            });
        }
        if let Some(recorder) = self.event_recorder {
            let stopped = stop.clone();
            tasks.spawn("Kubernetes Events", &stop, async move {
                stopped.run_until_cancelled(recorder.run()).await.unwrap_or(Ok(()))
            });
        }
        tasks.spawn(DELIVERY, &drain, self.driver.run(drain.clone()));
        tasks.spawn(SERVER, &drain, self.server.serve(self.listener, drain.clone()));
        running.release();
        tokio::select! {
            ended = tasks.all_ended() => return ended,
            () = shutdown.cancelled() => {}
        }

        running.block("the server is shutting down");
        drain.cancel();
        let drained = async {
            tasks.ended(DELIVERY).await?;
            tasks.ended(SERVER).await?;
            stop.cancel();
            tasks.all_ended().await
        };
        match timeout(shutdown::TASKS, drained).await {
            Ok(outcome) => outcome?,
            Err(_) => warn!(running = ?tasks.running(), "shutdown time limit reached, dropping running tasks"),
        }
        info!("stopped");
        Ok(())
    }

    /// The rows of the status page that describe the configuration.
    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("version", format!("{} ({})", telemetry::VERSION, telemetry::REVISION)),
            ("subscriber address", self.address.to_string()),
            ("namespaces", self.config.namespaces_text()),
            ("selector", self.config.selector.clone()),
            ("models from", self.config.sources_text()),
        ]
    }
}
