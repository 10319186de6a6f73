//! What the server is told.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use crate::{delivery::WallClock, store::Scope, telemetry::Traces};

/// What the server is told. The default is what the command line documents.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where subscribers connect. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where health, readiness and metrics are served. Port 0 takes a free one.
    pub admin_listen: SocketAddr,
    /// The URL of ML Metadata's gRPC service.
    pub metadata_store: String,
    /// The namespaces to serve; none means all.
    pub namespaces: Vec<Arc<str>>,
    /// The label selector of the Workflows that count as runs.
    pub selector: String,
    /// How long a stream has to stay open after an acknowledgement for it to count.
    pub confirm_after: Duration,
    /// Whether runs with the label `pipelines.kubeflow.org/events-published=true` count as delivered.
    pub skip_labelled: bool,
    /// How many patches of marks are sent a second.
    pub mark_rate: NonZeroU32,
    /// The way to the Kubernetes API. `None`: `KUBECONFIG`, else the Pod's service account.
    pub kubernetes: Option<kube::Config>,
    /// Where traces go.
    pub traces: Traces,
    /// What tells the ages of runs.
    pub clock: WallClock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 50051)),
            admin_listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            metadata_store: "http://metadata-grpc-service.kubeflow:8080".to_owned(),
            namespaces: Vec::new(),
            selector: "pipeline/runid".to_owned(),
            confirm_after: Duration::from_secs(1),
            skip_labelled: false,
            mark_rate: const { NonZeroU32::new(100).expect("not zero") },
            kubernetes: None,
            traces: Traces::default(),
            clock: WallClock::default(),
        }
    }
}

impl Config {
    /// What is to be watched: each with one watch.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        let mut namespaces = self.namespaces.clone();
        namespaces.sort_unstable();
        namespaces.dedup();
        if namespaces.is_empty() { vec![Scope::All] } else { namespaces.into_iter().map(Scope::Namespace).collect() }
    }

    /// The namespaces for people.
    pub(super) fn namespaces_text(&self) -> String {
        if self.namespaces.is_empty() { "all".to_owned() } else { self.namespaces.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_watch_for_all_namespaces_and_one_for_each_listed_one() {
        let mut config = Config::default();
        assert_eq!(config.scopes(), [Scope::All]);
        config.namespaces = ["b", "a", "b"].map(Into::into).into();
        assert_eq!(config.scopes(), ["a", "b"].map(|name| Scope::Namespace(name.into())));
    }
}
