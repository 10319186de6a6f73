//! `serve`: runs the server.

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use clap::{
    Args,
    builder::{BoolishValueParser, NonEmptyStringValueParser},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{LogArgs, signals::Signals, values};
use crate::{
    access::{self, Mode},
    admin::{HostName, TraceUrl},
    app::{self, Config, shutdown},
    clock::WallClock,
    eventsource::{Limits, TlsFiles},
    lookup::Artifacts,
    telemetry::{Traces, log},
};

/// Headings of `--help`.
const CONNECTIONS: &str = "Connections";
const SOURCES: &str = "Sources";
const DELIVERY: &str = "Delivery";
const ACCESS: &str = "Access";
const LIMITS: &str = "Limits";

/// Runs the server until SIGTERM or SIGINT
///
/// Watches Workflows, looks up the models of succeeded runs in ML Metadata or Kubeflow's API, and sends an event to
/// every subscriber of the run's namespace. Subscribers are generic EventSources of Argo Events.
///
/// The connection to the Kubernetes API is configured by KUBECONFIG, else by the Pod's service account. The server
/// needs the verbs list, watch and patch on workflows.argoproj.io, and with --kubernetes-events also create on
/// events.events.k8s.io.
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

  # Several replicas behind a Service: streams spread over them within six hours of a roll-out
  model-update-eventsource serve --max-connection-age 6h

  # Kubeflow Pipelines 3, or an upgrade to it
  model-update-eventsource serve --kfp-api ml-pipeline.kubeflow:8887 --kfp-token-file /var/run/secrets/kfp/token

  # On a developer's machine, with a port-forward to ML Metadata
  kubectl -n kubeflow port-forward svc/metadata-grpc-service 8081:8080 &
  model-update-eventsource serve --listen 127.0.0.1:50051 --metadata-store http://127.0.0.1:8081")]
pub(super) struct Serve {
    /// Address for subscribers (gRPC over HTTP/2, plaintext without --tls-cert). `[::]` is all IPv6 and IPv4 addresses
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

    /// Status on the admin port: a page, and /statusz.json
    ///
    /// Both name runs, subscriptions and their addresses. With --auth token, a reader needs the token of an account
    /// that may subscribe.
    #[arg(long, help_heading = CONNECTIONS, env = "MODEL_UPDATE_STATUS_PAGE", value_name = "ON|OFF", value_enum,
        default_value_t = values::Switch::On)]
    status_page: values::Switch,

    /// Further host names of the status, such as that of an Ingress, separated by commas; may be repeated
    ///
    /// Without --auth token, the status is for requests to an IP address, localhost, or the name of a Service, so that
    /// no web site can read it in the browser of a person who reaches the port.
    #[arg(long, help_heading = CONNECTIONS, env = "MODEL_UPDATE_STATUS_PAGE_HOST", value_name = "NAME,...", value_delimiter = ',')]
    status_page_host: Vec<HostName>,

    /// Address of a run's trace, to which the status links; {trace_id} is replaced
    ///
    /// For example `https://jaeger.example/trace/{trace_id}`.
    #[arg(long, help_heading = CONNECTIONS, env = "MODEL_UPDATE_TRACE_URL_TEMPLATE", value_name = "URL")]
    trace_url_template: Option<TraceUrl>,

    /// URL of ML Metadata's gRPC service, or its HOST:PORT
    #[arg(long, help_heading = SOURCES, env = "MODEL_UPDATE_METADATA_STORE", value_name = "URL", value_parser = values::metadata_store,
        default_value_t = Config::default().metadata_store)]
    metadata_store: String,

    /// File of certificate authorities (PEM) for an https URL of ML Metadata [default: those of the system]
    #[arg(long, help_heading = SOURCES, env = "MODEL_UPDATE_METADATA_STORE_CA", value_name = "FILE")]
    metadata_store_ca: Option<PathBuf>,

    /// Sources of models
    ///
    /// Without --kfp-api, `auto` is ML Metadata only.
    #[arg(long, help_heading = SOURCES, env = "MODEL_UPDATE_ARTIFACTS", value_name = "SOURCE", value_enum,
        default_value_t = Config::default().artifacts)]
    artifacts: Artifacts,

    /// URL of Kubeflow's own gRPC API, or its HOST:PORT, such as ml-pipeline.kubeflow:8887 [default: it is not asked]
    ///
    /// Kubeflow Pipelines 3 has no ML Metadata. While an installation may have runs of both kinds, --artifacts auto
    /// asks this API first, and ML Metadata about runs that it does not know.
    #[arg(long, help_heading = SOURCES, env = "MODEL_UPDATE_KFP_API", value_name = "URL", value_parser = values::kfp_api,
        required_if_eq("artifacts", "kfp"))]
    kfp_api: Option<String>,

    /// File of certificate authorities (PEM) for an https URL of --kfp-api [default: those of the system]
    #[arg(long, help_heading = SOURCES, env = "MODEL_UPDATE_KFP_CA", value_name = "FILE", requires = "kfp_api")]
    kfp_ca: Option<PathBuf>,

    /// File with a token of the audience pipelines.kubeflow.org for --kfp-api; a changed file is read within ten
    /// seconds
    ///
    /// Needed where Kubeflow serves several users. The token's account needs the verb get on
    /// runs.pipelines.kubeflow.org.
    #[arg(long, help_heading = SOURCES, env = "MODEL_UPDATE_KFP_TOKEN_FILE", value_name = "FILE", requires = "kfp_api")]
    kfp_token_file: Option<PathBuf>,

    /// Namespaces to serve, separated by commas; each has its own watch [default: all namespaces, with one watch]
    #[arg(long, help_heading = SOURCES, env = "MODEL_UPDATE_NAMESPACES", value_name = "NAMESPACE,...", value_delimiter = ',',
        value_parser = values::namespace)]
    namespaces: Vec<Arc<str>>,

    /// Label selector of the Workflows that are pipeline runs
    #[arg(long, help_heading = SOURCES, env = "MODEL_UPDATE_SELECTOR", value_name = "SELECTOR", value_parser = values::selector,
        default_value_t = Config::default().selector)]
    selector: String,

    /// Time for which a stream must stay open after it has acknowledged an event, to confirm the event
    #[arg(long, help_heading = DELIVERY, env = "MODEL_UPDATE_CONFIRM_AFTER", value_name = "DURATION", value_parser = values::confirm_after,
        default_value_t = Config::default().confirm_after.into())]
    confirm_after: humantime::Duration,

    /// Age at which a stream ends, so that subscribers spread over the replicas after a roll-out [default: streams do
    /// not age]
    ///
    /// For several replicas, hours: Argo Events is away for 5 s then. Only streams without anything open end, at most
    /// one in a hundred at a time, and ages differ by a tenth; so no event is sent twice. With one replica it would
    /// only cost.
    #[arg(long, help_heading = DELIVERY, env = "MODEL_UPDATE_MAX_CONNECTION_AGE", value_name = "DURATION",
        value_parser = values::connection_age)]
    max_connection_age: Option<humantime::Duration>,

    /// Treat runs with the label pipelines.kubeflow.org/events-published=true as delivered
    ///
    /// For a migration from the Go server or from kfp-operator's own provider, which set this label: their runs are not
    /// sent again. This server never sets it.
    #[arg(long, help_heading = DELIVERY, env = "MODEL_UPDATE_SKIP_LABELLED", value_parser = BoolishValueParser::new())]
    skip_labelled: bool,

    /// Report what becomes of a run by Kubernetes Events on its Workflow, for `kubectl describe workflow`
    ///
    /// Needs the verb create on events.events.k8s.io. At most ten a second are created; deliveries never wait for them.
    #[arg(long, help_heading = DELIVERY, env = "MODEL_UPDATE_KUBERNETES_EVENTS", value_parser = BoolishValueParser::new())]
    kubernetes_events: bool,

    /// Limit of mark patches per second; further marks wait, events do not
    #[arg(long, help_heading = DELIVERY, env = "MODEL_UPDATE_MARK_RATE", value_name = "NUMBER", default_value_t = Config::default().mark_rate)]
    mark_rate: NonZeroU32,

    /// Access control of subscribers
    #[arg(long, help_heading = ACCESS, env = "MODEL_UPDATE_AUTH", value_name = "MODE", value_enum,
        default_value_t = Config::default().access.mode)]
    auth: Mode,

    /// Audiences, of which a token must have one; without it, those of the API server, which tokens in Secrets have
    #[arg(long, help_heading = ACCESS, env = "MODEL_UPDATE_AUTH_AUDIENCE", value_name = "AUDIENCE,...", value_delimiter = ',')]
    auth_audience: Vec<String>,

    /// Time for which a valid token is not reviewed again
    #[arg(long, help_heading = ACCESS, env = "MODEL_UPDATE_AUTH_CACHE_TOKEN", value_name = "DURATION",
        value_parser = values::cache_time, default_value_t = Config::default().access.cache_token.into())]
    auth_cache_token: humantime::Duration,

    /// Time for which a right is not reviewed again
    #[arg(long, help_heading = ACCESS, env = "MODEL_UPDATE_AUTH_CACHE_ALLOW", value_name = "DURATION",
        value_parser = values::cache_time, default_value_t = Config::default().access.cache_allow.into())]
    auth_cache_allow: humantime::Duration,

    /// Time for which an invalid token or a missing right is not reviewed again
    #[arg(long, help_heading = ACCESS, env = "MODEL_UPDATE_AUTH_CACHE_DENY", value_name = "DURATION",
        value_parser = values::cache_time, default_value_t = Config::default().access.cache_deny.into())]
    auth_cache_deny: humantime::Duration,

    /// ClusterRole with the right to subscribe, for the advice in refusals
    #[arg(long, help_heading = ACCESS, env = "MODEL_UPDATE_SUBSCRIBER_ROLE", value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new())]
    subscriber_role: Option<String>,

    /// Certificate for TLS on the address for subscribers, in PEM; read again when it changes
    #[arg(long, help_heading = ACCESS, env = "MODEL_UPDATE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM
    #[arg(long, help_heading = ACCESS, env = "MODEL_UPDATE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Authorities of the certificates that clients must present, in PEM; without it, clients need none
    #[arg(long, help_heading = ACCESS, env = "MODEL_UPDATE_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// Open streams of subscribers; each needs about 38 KiB of memory
    #[arg(long, env = "MODEL_UPDATE_MAX_STREAMS", value_name = "NUMBER", help_heading = LIMITS,
        default_value_t = default_limit(|limits| limits.streams))]
    max_streams: NonZeroUsize,

    /// Open streams of subscribers to one namespace
    #[arg(long, env = "MODEL_UPDATE_MAX_STREAMS_PER_NAMESPACE", value_name = "NUMBER", help_heading = LIMITS,
        default_value_t = default_limit(|limits| limits.streams_per_namespace))]
    max_streams_per_namespace: NonZeroUsize,

    /// Open streams of one peer address; a proxy or NAT gateway combines many subscribers under its own
    #[arg(long, env = "MODEL_UPDATE_MAX_STREAMS_PER_PEER", value_name = "NUMBER", help_heading = LIMITS,
        default_value_t = default_limit(|limits| limits.streams_per_peer))]
    max_streams_per_peer: NonZeroUsize,

    #[command(flatten)]
    log: LogArgs,
}

fn default_limit(of: impl FnOnce(Limits) -> usize) -> NonZeroUsize {
    NonZeroUsize::new(of(Config::default().limits)).expect("the default limits are not zero")
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
            status_page: serve.status_page == values::Switch::On,
            status_page_hosts: serve.status_page_host.into_iter().collect(),
            trace_url_template: serve.trace_url_template,
            metadata_store: serve.metadata_store,
            metadata_store_ca: serve.metadata_store_ca,
            artifacts: serve.artifacts,
            kfp_api: serve.kfp_api,
            kfp_ca: serve.kfp_ca,
            kfp_token_file: serve.kfp_token_file,
            namespaces: serve.namespaces,
            selector: serve.selector,
            confirm_after: serve.confirm_after.into(),
            max_connection_age: serve.max_connection_age.map(Into::into),
            skip_labelled: serve.skip_labelled,
            kubernetes_events: serve.kubernetes_events,
            mark_rate: serve.mark_rate,
            access: access::Options {
                mode: serve.auth,
                audiences: serve.auth_audience,
                cache_token: serve.auth_cache_token.into(),
                cache_allow: serve.auth_cache_allow.into(),
                cache_deny: serve.auth_cache_deny.into(),
                subscriber_role: serve.subscriber_role,
                ..access::Options::default()
            },
            tls: serve.tls_cert.zip(serve.tls_key).map(|(cert, key)| TlsFiles {
                cert,
                key,
                client_ca: serve.tls_client_ca,
            }),
            limits: Limits {
                streams: serve.max_streams.get(),
                streams_per_namespace: serve.max_streams_per_namespace.get(),
                streams_per_peer: serve.max_streams_per_peer.get(),
                ..Limits::default()
            },
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
