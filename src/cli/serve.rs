//! `serve`: runs the server.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc};

use anyhow::{Context as _, bail};
use clap::{Args, builder::BoolishValueParser};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{LogArgs, signals::Signals, values};
use crate::{
    app::{self, Config, shutdown},
    delivery::WallClock,
    telemetry::{Traces, log},
};

/// Headings of `--help`.
const CONNECTIONS: &str = "Connections";
const SOURCES: &str = "Sources";
const DELIVERY: &str = "Delivery";

/// Runs the server until SIGTERM or SIGINT
///
/// Watches Workflows, looks up the models of succeeded runs in ML Metadata, and sends an event to every subscriber of
/// the run's namespace. Subscribers are generic EventSources of Argo Events.
///
/// The connection to the Kubernetes API is configured by KUBECONFIG, else by the Pod's service account. The server
/// needs the verbs list, watch and patch on workflows.argoproj.io.
///
/// Traces are exported over OTLP if OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set.
///
/// The first SIGTERM or SIGINT drains the server: within 10 s, events in flight are confirmed and marked, and streams
/// end. A second signal aborts at once.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  # In a cluster with Kubeflow in the namespace kubeflow
  model-update-eventsource serve

  # Two namespaces only, with a Role in each of them instead of a ClusterRole
  model-update-eventsource serve --namespaces team-a,team-b

  # On a developer's machine, with a port-forward to ML Metadata
  kubectl -n kubeflow port-forward svc/metadata-grpc-service 8081:8080 &
  model-update-eventsource serve --listen 127.0.0.1:50051 --metadata-store http://127.0.0.1:8081")]
pub(super) struct Serve {
    /// Address for subscribers (gRPC over plaintext HTTP/2). [::] is all IPv6 and IPv4 addresses
    #[arg(long, help_heading = CONNECTIONS, env = "MODEL_UPDATE_LISTEN", value_name = "IP:PORT", value_parser = values::address,
        default_value_t = Config::default().listen)]
    listen: SocketAddr,

    /// Address for health, readiness, metrics and a status page (HTTP)
    #[arg(long, help_heading = CONNECTIONS, env = "MODEL_UPDATE_ADMIN_LISTEN", value_name = "IP:PORT", value_parser = values::address,
        default_value_t = Config::default().admin_listen)]
    admin_listen: SocketAddr,

    /// Address for metrics alone; the admin port then has none [default: metrics are on the admin port]
    #[arg(long, help_heading = CONNECTIONS, env = "MODEL_UPDATE_METRICS_LISTEN", value_name = "IP:PORT",
        value_parser = values::address)]
    metrics_listen: Option<SocketAddr>,

    /// URL of ML Metadata's gRPC service
    #[arg(long, help_heading = SOURCES, env = "MODEL_UPDATE_METADATA_STORE", value_name = "URL", value_parser = values::metadata_store,
        default_value_t = Config::default().metadata_store)]
    metadata_store: String,

    /// Namespaces to serve, separated by commas; each has its own watch [default: all namespaces, with one watch]
    #[arg(long, help_heading = SOURCES, env = "MODEL_UPDATE_NAMESPACES", value_name = "NAMESPACE,...", value_delimiter = ',',
        value_parser = values::namespace)]
    namespaces: Vec<Arc<str>>,

    /// Label selector of the Workflows that are pipeline runs
    #[arg(long, help_heading = SOURCES, env = "MODEL_UPDATE_SELECTOR", value_name = "SELECTOR", default_value_t = Config::default().selector)]
    selector: String,

    /// Time for which a stream must stay open after it has acknowledged an event, to confirm the event
    #[arg(long, help_heading = DELIVERY, env = "MODEL_UPDATE_CONFIRM_AFTER", value_name = "DURATION", value_parser = values::confirm_after,
        default_value_t = Config::default().confirm_after.into())]
    confirm_after: humantime::Duration,

    /// Treat runs with the label pipelines.kubeflow.org/events-published=true as delivered
    ///
    /// For a migration from the Go server or from kfp-operator's own provider, which set this label: their runs are not
    /// sent again. This server never sets it.
    #[arg(long, help_heading = DELIVERY, env = "MODEL_UPDATE_SKIP_LABELLED", value_parser = BoolishValueParser::new())]
    skip_labelled: bool,

    /// Limit of mark patches per second; further marks wait, events do not
    #[arg(long, help_heading = DELIVERY, env = "MODEL_UPDATE_MARK_RATE", value_name = "NUMBER", default_value_t = Config::default().mark_rate)]
    mark_rate: NonZeroU32,

    #[command(flatten)]
    log: LogArgs,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let (traces, log) = self.log.start_with_traces(&runtime)?;
        raise_file_limit();
        let outcome = runtime.block_on(serve(Config { traces: traces.clone(), log, ..self.into() }));
        traces.flush(shutdown::SPANS);
        // Without waiting for tasks that still run after an abort.
        runtime.shutdown_background();
        outcome
    }
}

impl From<Serve> for Config {
    fn from(serve: Serve) -> Self {
        Self {
            listen: serve.listen,
            admin_listen: serve.admin_listen,
            metrics_listen: serve.metrics_listen,
            metadata_store: serve.metadata_store,
            namespaces: serve.namespaces,
            selector: serve.selector,
            confirm_after: serve.confirm_after.into(),
            skip_labelled: serve.skip_labelled,
            mark_rate: serve.mark_rate,
            kubernetes: None,
            log: log::Handle::default(),
            traces: Traces::default(),
            clock: WallClock::default(),
        }
    }
}

/// Raises the limit of open files to the hard limit. Each connection is an open file. Most shells and some container
/// runtimes set a soft limit of 1,024, for programs that use `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(%error, limit = limit.current, "cannot raise the limit of open files, which limits subscribers");
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Before the server is built, so that a signal does not kill the process meanwhile.
    let mut signals = Signals::new().context("cannot handle signals")?;
    let shutdown = CancellationToken::new();
    let running = async { app::build(config).await?.run(shutdown.clone()).await };
    let aborted = async {
        let first = signals.next().await;
        info!(signal = first, "shutting down, a second signal aborts");
        shutdown.cancel();
        signals.next().await
    };
    tokio::select! {
        outcome = running => outcome,
        second = aborted => bail!("{second} aborted the shutdown"),
    }
}
