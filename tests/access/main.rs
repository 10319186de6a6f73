//! Access control of subscribers, on a real API server with real service accounts, and TLS through the real program.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

mod certificates;
mod load;
mod marks;
mod matrix;
mod reviews;
mod secrets;
mod subscriber;
mod tls;
mod withdrawn;

use std::path::PathBuf;

use test_support::{Cluster, Grant, Peers, RunningServer, ServerProcess, ServiceAccount, SharedCluster, rule};
use tokio::sync::OnceCell;

/// Flags with which an answer of the API server is remembered for the shortest possible time.
const SHORT_CACHES: [&str; 3] = ["--auth-cache-token=1s", "--auth-cache-allow=1s", "--auth-cache-deny=1s"];
/// An ML Metadata that is not there, for tests without events.
const NO_STORE: &str = "http://127.0.0.1:9";

/// Two namespaces of the cluster that all tests of this binary share.
struct Env {
    cluster: SharedCluster,
    /// The namespace of the accounts, to which some of them have a right.
    team: String,
    /// A namespace to which no account has a right.
    other: String,
}

impl Env {
    async fn start() -> Self {
        let peers = Peers::find().await;
        let cluster = peers.cluster().await;
        let (team, other) = (cluster.namespace("team").await, cluster.namespace("other").await);
        Self { cluster, team, other }
    }

    /// Creates an account in the namespace of the team.
    async fn account(&self, name: &str) -> ServiceAccount {
        self.cluster.service_account(&self.team, name).await
    }

    /// Grants a verb on the Workflows of the team's namespace.
    async fn grant(&self, account: &ServiceAccount, verb: &str) -> Grant {
        self.cluster.grant(account, Some(&self.team), vec![rule("argoproj.io", "workflows", &[verb])]).await
    }

    /// Creates an account with the right to subscribe, and returns it with a token.
    async fn subscriber(&self, name: &str) -> (ServiceAccount, String) {
        let account = self.account(name).await;
        self.grant(&account, "subscribe").await;
        let token = self.cluster.token(&account, &[]).await;
        (account, token)
    }

    /// Starts a server without ML Metadata, whose account has the rights of the chart's.
    async fn server(&self, flags: &[&str]) -> RunningServer {
        let kubeconfig = server_kubeconfig(&self.cluster).await;
        let server = ServerProcess::start(&kubeconfig, NO_STORE, flags).listening().await;
        server.ready().await;
        server
    }

    /// The configuration of a subscription to the team's namespace.
    fn config(&self) -> String {
        config(&self.team)
    }
}

fn config(namespace: &str) -> String {
    format!("kfpNamespace: {namespace}\nsubscription: deploy")
}

/// Returns a kubeconfig of an account with the rights that the chart gives to the server.
async fn server_kubeconfig(cluster: &Cluster) -> PathBuf {
    static TOKEN: OnceCell<String> = OnceCell::const_new();
    let token = TOKEN.get_or_init(|| async {
        let namespace = cluster.namespace("system").await;
        let account = cluster.service_account(&namespace, "server").await;
        let rules = vec![
            rule("argoproj.io", "workflows", &["list", "watch", "patch"]),
            rule("authentication.k8s.io", "tokenreviews", &["create"]),
            rule("authorization.k8s.io", "subjectaccessreviews", &["create"]),
        ];
        cluster.grant(&account, None, rules).await;
        cluster.token(&account, &[]).await
    });
    cluster.kubeconfig_file(token.await)
}
