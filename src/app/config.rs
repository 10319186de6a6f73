//! The server's configuration.

use std::{
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{
    access,
    admin::{HostNames, TraceUrl},
    clock::WallClock,
    eventsource::{Limits, TlsFiles},
    lookup::Artifacts,
    model::workflow::RUN_ID_LABEL,
    store::Scope,
    telemetry::{Traces, log},
};

/// The server's configuration. The default values are those of the command line.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address for subscribers. Port 0 selects a free port.
    pub listen: SocketAddr,
    /// The address of health, readiness and metrics. Port 0 selects a free port.
    pub admin_listen: SocketAddr,
    /// The address of metrics alone, which are then not on the admin port. Port 0 selects a free port.
    pub metrics_listen: Option<SocketAddr>,
    /// The admin port serves the status.
    pub status_page: bool,
    /// Further host names of the status, for browsers.
    pub status_page_hosts: HostNames,
    /// The addresses of traces, for the status.
    pub trace_url_template: Option<TraceUrl>,
    /// The URL of ML Metadata's gRPC service, or its `HOST:PORT`.
    pub metadata_store: String,
    /// The file of certificate authorities for ML Metadata, instead of the system's.
    pub metadata_store_ca: Option<PathBuf>,
    /// The sources of models.
    pub artifacts: Artifacts,
    /// The URL of Kubeflow's gRPC API, or its `HOST:PORT`. `None`: it is not asked.
    pub kfp_api: Option<String>,
    /// The file of certificate authorities for Kubeflow's API, instead of the system's.
    pub kfp_ca: Option<PathBuf>,
    /// The file with the token for Kubeflow's API. `None`: calls have no token.
    pub kfp_token_file: Option<PathBuf>,
    /// The namespaces that are served; empty: all.
    pub namespaces: Vec<Arc<str>>,
    /// The label selector of runs.
    pub selector: String,
    /// Time for which a stream must stay open after it acknowledged an event, until the event is confirmed.
    pub confirm_after: Duration,
    /// The age at which a stream ends while nothing is open for it. `None`: streams do not age.
    pub max_connection_age: Option<Duration>,
    /// Count runs with the label `pipelines.kubeflow.org/events-published=true` as delivered.
    pub skip_labelled: bool,
    /// Reports of runs as Kubernetes Events on their Workflows.
    pub kubernetes_events: bool,
    /// The limit of mark patches per second.
    pub mark_rate: NonZeroU32,
    /// Access control of subscriptions.
    pub access: access::Options,
    /// The files for TLS on the address for subscribers; `None`: plaintext.
    pub tls: Option<TlsFiles>,
    /// The limits of subscribers' connections, streams and requests.
    pub limits: Limits,
    /// The connection to the Kubernetes API. `None`: `KUBECONFIG`, else the Pod's service account.
    pub kubernetes: Option<kube::Config>,
    /// The log of the process, for changes of its level.
    pub log: log::Handle,
    /// The destination of spans.
    pub traces: Traces,
    /// The clock for the age of runs.
    pub clock: WallClock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 50051)),
            admin_listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8080)),
            metrics_listen: None,
            status_page: true,
            status_page_hosts: HostNames::default(),
            trace_url_template: None,
            metadata_store: "http://metadata-grpc-service.kubeflow:8080".to_owned(),
            metadata_store_ca: None,
            artifacts: Artifacts::default(),
            kfp_api: None,
            kfp_ca: None,
            kfp_token_file: None,
            namespaces: Vec::new(),
            selector: RUN_ID_LABEL.to_owned(),
            confirm_after: Duration::from_secs(1),
            max_connection_age: None,
            skip_labelled: false,
            kubernetes_events: false,
            // A quarter of what a small API server gives, see "Marks" in docs/performance.md.
            mark_rate: const { NonZeroU32::new(100).expect("not zero") },
            access: access::Options::default(),
            tls: None,
            limits: Limits::default(),
            kubernetes: None,
            log: log::Handle::default(),
            traces: Traces::default(),
            clock: WallClock::default(),
        }
    }
}

impl Config {
    /// Returns the scope of each watch.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        let mut namespaces = self.namespaces.clone();
        namespaces.sort_unstable();
        namespaces.dedup();
        if namespaces.is_empty() { vec![Scope::All] } else { namespaces.into_iter().map(Scope::Namespace).collect() }
    }

    /// Returns the sources of models as text for the status page.
    pub(super) fn sources_text(&self) -> String {
        let mlmd = &self.metadata_store;
        match (self.artifacts, &self.kfp_api) {
            (Artifacts::Auto, Some(kfp)) => format!("Kubeflow's API {kfp}, then ML Metadata {mlmd}"),
            (Artifacts::Kfp, Some(kfp)) => format!("Kubeflow's API {kfp}"),
            _ => format!("ML Metadata {mlmd}"),
        }
    }

    /// Returns the namespaces as text for the log and the status page.
    pub(super) fn namespaces_text(&self) -> String {
        if self.namespaces.is_empty() { "all".to_owned() } else { self.namespaces.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_watch_for_all_namespaces_or_one_per_listed_namespace() {
        let mut config = Config::default();
        assert_eq!(config.scopes(), [Scope::All]);
        config.namespaces = ["b", "a", "b"].map(Into::into).into();
        assert_eq!(config.scopes(), ["a", "b"].map(|name| Scope::Namespace(name.into())));
    }
}
