//! The composition root: [`build`] binds and wires, [`Bound::run`] runs and supervises.
//!
//! ```text
//!              ┌─ watch (one, or one a namespace) ─▶ store ─┐
//!   Kubernetes ┤                                            ▼
//!              └─ marker ◀──────────────────────────── delivery ◀─▶ eventsource ◀─▶ Argo Events
//!                                   ML Metadata ◀─ mlmd ◀───┘
//! ```
//!
//! Every task is supervised: one that ends without being told to, or panics, ends the process with an error, so that
//! whoever runs it starts a new one. A shutdown goes through these steps, in ten seconds at most:
//!
//! 1. Not ready, and no new streams.
//! 2. Nothing new is handed off; each stream ends when its last hand-off is confirmed, and the marks are written.
//! 3. The watch, the server and the admin port end.

mod config;
mod supervisor;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::config::Config;
use self::supervisor::Supervisor;
use crate::{
    admin::{self, Admin},
    delivery::{self, DeliveryMetrics, Driver},
    eventsource::{self, Server},
    k8s::{Client, PatchMarker, Watch},
    mlmd::{self, LookupMetrics, Mlmd},
    readiness::Readiness,
    store::Store,
    telemetry,
};

/// How long a shutdown may take. Pods are given 30 s by default, but 10 s where this runs beside kfp-operator.
const SHUTDOWN: Duration = Duration::from_millis(9500);

const DELIVERY: &str = "delivery";
const SERVER: &str = "server";

/// A server that is built and holds its ports, and has not begun to serve.
pub struct Bound {
    config: Config,
    listener: TcpListener,
    admin_listener: TcpListener,
    address: SocketAddr,
    admin_address: SocketAddr,
    registry: Registry,
    subscribers: Gauge,
    readiness: Readiness,
    store: Arc<Store>,
    watches: Vec<Watch>,
    server: Server,
    driver: Driver,
}

/// Binds the ports and wires everything up. Connects to nothing yet: neighbours may be down, and come later.
///
/// # Errors
/// Where a port cannot be had, or there is no usable configuration for Kubernetes or ML Metadata.
pub async fn build(config: Config) -> Result<Bound> {
    let (listener, address) = bind(config.listen, "--listen").await?;
    let (admin_listener, admin_address) = bind(config.admin_listen, "--admin-listen").await?;

    let (mut registry, metrics) = telemetry::registry();
    let lookup_metrics = LookupMetrics::new(registry.sub_registry_with_prefix(telemetry::PREFIX));
    let delivery_metrics = DeliveryMetrics::new(registry.sub_registry_with_prefix(telemetry::PREFIX));
    let subscribers = delivery_metrics.streams.clone();
    let readiness = Readiness::default();
    let store = Arc::<Store>::default();
    let kubernetes = match config.kubernetes.clone() {
        Some(cluster) => Client::new(cluster, metrics.kubernetes.clone())?,
        None => Client::infer(metrics.kubernetes.clone()).await?,
    };
    let lookup =
        Mlmd::new(&config.metadata_store, &mlmd::Options::default(), lookup_metrics).context("--metadata-store")?;
    let marker = PatchMarker::new(kubernetes.clone(), Some(config.mark_rate));
    let options = delivery::Options {
        confirm_after: config.confirm_after,
        skip_labelled: config.skip_labelled,
        traces: config.traces.clone(),
        ..delivery::Options::default()
    };
    let clock = config.clock.clone();
    let (deliveries, driver) =
        Driver::new(store.clone(), Arc::new(lookup), Arc::new(marker), options, clock, delivery_metrics);
    let namespaces = (!config.namespaces.is_empty()).then(|| config.namespaces.clone());
    let options = eventsource::Options { namespaces, traces: config.traces.clone() };
    let server = Server::new(deliveries, options, readiness.clone(), metrics.streams.clone());
    let watch = |scope| Watch::new(kubernetes.clone(), scope, config.selector.clone(), store.clone(), &readiness);
    let watches = config.scopes().into_iter().map(watch).collect();
    Ok(Bound {
        listener,
        admin_listener,
        address,
        admin_address,
        registry,
        subscribers,
        readiness,
        store,
        watches,
        server,
        driver,
        config,
    })
}

async fn bind(address: SocketAddr, flag: &str) -> Result<(TcpListener, SocketAddr)> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    bound.await.with_context(|| format!("cannot listen on {address}; choose another address with {flag}"))
}

impl Bound {
    /// Where subscribers connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where health, readiness and metrics are served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What the server waits for before it is ready.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Serves until `shutdown` is cancelled, and then until everything is drained.
    ///
    /// # Errors
    /// Where a task ends without being told to.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let facts = self.facts();
        info!(
            version = telemetry::VERSION,
            revision = telemetry::REVISION,
            listen = %self.address,
            admin = %self.admin_address,
            namespaces = self.config.namespaces_text(),
            selector = self.config.selector,
            metadata_store = self.config.metadata_store,
            "serving"
        );
        // Released before the first stream can come, blocks again when the server shuts down.
        let running = self.readiness.condition("shutdown", "the server is starting");
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = Supervisor::default();
        let admin = Admin {
            registry: self.registry,
            readiness: self.readiness.clone(),
            store: self.store,
            subscribers: self.subscribers,
            started: std::time::Instant::now(),
            facts,
        };
        let (admin_listener, admin_stop) = (self.admin_listener, stop.clone());
        tasks.spawn("admin", &stop, async {
            admin::serve(admin_listener, admin, admin_stop).await;
            Ok::<_, Infallible>(())
        });
        for watch in self.watches {
            let stopped = stop.clone();
            tasks.spawn("watch", &stop, async move {
                stopped.run_until_cancelled(watch.run()).await;
                Ok::<_, Infallible>(())
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
        match timeout(SHUTDOWN, drained).await {
            Ok(outcome) => outcome?,
            Err(_) => warn!(still_running = ?tasks.running(), "the shutdown took too long and is cut short"),
        }
        info!("stopped");
        Ok(())
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("version", format!("{} ({})", telemetry::VERSION, telemetry::REVISION)),
            ("subscribers connect to", self.address.to_string()),
            ("namespaces", self.config.namespaces_text()),
            ("selector", self.config.selector.clone()),
            ("ML Metadata", self.config.metadata_store.clone()),
        ]
    }
}
