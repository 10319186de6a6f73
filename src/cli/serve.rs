//! `serve`: the server.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc};

use anyhow::{Context as _, bail};
use clap::{Args, builder::BoolishValueParser};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{LogArgs, signals::Signals, values};
use crate::{
    app::{self, Config},
    delivery::WallClock,
    telemetry::Traces,
};

/// Serves subscriptions until it is told to stop (SIGTERM, SIGINT)
///
/// Watches Workflows, asks ML Metadata which models succeeded runs have put out, and announces them to every stream
/// that Argo Events' generic EventSource has opened for the run's namespace.
///
/// The Kubernetes API is found as every client finds it: through KUBECONFIG, else through the Pod's service account. It
/// needs the verbs list, watch and patch on workflows.argoproj.io.
///
/// Traces are sent by OTLP where OTEL_EXPORTER_OTLP_ENDPOINT (or its variant for traces) is set.
///
/// The first SIGTERM or SIGINT drains: streams end after their last confirmations, and marks are written, within 10 s.
/// A second one aborts at once.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  # In a cluster with Kubeflow in its usual namespace: no flag is needed
  model-update-eventsource serve

  # Two tenants only, with a watch and rights in their namespaces instead of a cluster-wide one
  model-update-eventsource serve --namespaces team-a,team-b

  # From a developer's machine, through a port-forward to ML Metadata
  kubectl -n kubeflow port-forward svc/metadata-grpc-service 8081:8080 &
  model-update-eventsource serve --listen 127.0.0.1:50051 --metadata-store http://127.0.0.1:8081")]
pub(super) struct Serve {
    /// Where subscribers connect (gRPC over plaintext HTTP/2)
    #[arg(long, env = "MODEL_UPDATE_LISTEN", value_name = "IP:PORT", value_parser = values::address,
        default_value_t = Config::default().listen)]
    listen: SocketAddr,

    /// Where health, readiness, metrics and a status page are served (HTTP)
    #[arg(long, env = "MODEL_UPDATE_ADMIN_LISTEN", value_name = "IP:PORT", value_parser = values::address,
        default_value_t = Config::default().admin_listen)]
    admin_listen: SocketAddr,

    /// ML Metadata's gRPC service
    #[arg(long, env = "MODEL_UPDATE_METADATA_STORE", value_name = "URL", value_parser = values::metadata_store,
        default_value_t = Config::default().metadata_store)]
    metadata_store: String,

    /// The namespaces to serve, separated by commas, each with a watch of its own [default: all, with one watch]
    #[arg(long, env = "MODEL_UPDATE_NAMESPACES", value_name = "NAMESPACE,...", value_delimiter = ',',
        value_parser = values::namespace)]
    namespaces: Vec<Arc<str>>,

    /// The label selector of the Workflows that count as runs
    #[arg(long, env = "MODEL_UPDATE_SELECTOR", value_name = "SELECTOR", default_value_t = Config::default().selector)]
    selector: String,

    /// How long a stream must stay open after it acknowledged an event for that to count as delivered
    #[arg(long, env = "MODEL_UPDATE_CONFIRM_AFTER", value_name = "DURATION", value_parser = values::confirm_after,
        default_value_t = Config::default().confirm_after.into())]
    confirm_after: humantime::Duration,

    /// Count runs with the label pipelines.kubeflow.org/events-published=true as delivered
    ///
    /// For moving over from the Go server, or from kfp-operator's own provider: what they have announced is not
    /// announced again. This server never writes that label.
    #[arg(long, env = "MODEL_UPDATE_SKIP_LABELLED", value_parser = BoolishValueParser::new())]
    skip_labelled: bool,

    /// How many deliveries a second are marked on Workflows; more wait, without holding up events
    #[arg(long, env = "MODEL_UPDATE_MARK_RATE", value_name = "NUMBER", default_value_t = Config::default().mark_rate)]
    mark_rate: NonZeroU32,

    #[command(flatten)]
    log: LogArgs,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let traces = self.log.start_with_traces(&runtime)?;
        raise_file_limit();
        let outcome = runtime.block_on(serve(Config { traces: traces.clone(), ..self.into() }));
        traces.flush(app::SPAN_FLUSH);
        // What still runs after an abort is not waited for.
        runtime.shutdown_background();
        outcome
    }
}

impl From<Serve> for Config {
    fn from(serve: Serve) -> Self {
        Self {
            listen: serve.listen,
            admin_listen: serve.admin_listen,
            metadata_store: serve.metadata_store,
            namespaces: serve.namespaces,
            selector: serve.selector,
            confirm_after: serve.confirm_after.into(),
            skip_labelled: serve.skip_labelled,
            mark_rate: serve.mark_rate,
            kubernetes: None,
            traces: Traces::default(),
            clock: WallClock::default(),
        }
    }
}

/// Lets the process open as many files as the system allows it. A connection is one, and the limit that most shells and
/// some container runtimes start a program with is 1,024, kept low for programs that use `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(%error, limit = limit.current, "cannot raise the limit of open files, one of which each subscriber takes");
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // From here on a signal is ours to handle, also while the server is still being built.
    let mut signals = Signals::new().context("cannot handle signals")?;
    let shutdown = CancellationToken::new();
    let running = async { app::build(config).await?.run(shutdown.clone()).await };
    let aborted = async {
        let first = signals.next().await;
        info!("{first}: shutting down; a second signal aborts");
        shutdown.cancel();
        signals.next().await
    };
    tokio::select! {
        outcome = running => outcome,
        second = aborted => bail!("{second}: aborted before the shutdown was complete"),
    }
}
