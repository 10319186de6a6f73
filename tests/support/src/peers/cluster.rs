//! kube-apiserver on etcd. No controllers run, so a Deployment is stored and never started.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
};

use http::Request;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::process::Pid;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{Peers, START, Workflows, workflow};
use crate::{ChildProcess, SOON, eventually, free_port, metrics, plain_http};

/// The cluster administrator's token.
const ADMIN: &str = "admin";

/// The issuer of the tokens of service accounts, and the audience of those for the API server.
pub(super) const ISSUER: &str = "https://test";

/// Number of starts, each with a new port, before the test fails: another process may use a port that was free.
const START_ATTEMPTS: usize = 3;

impl Peers {
    /// Returns the cluster that all tests of a binary share, with the Workflow CRD. Each test uses a
    /// [`Cluster::namespace`] and leaves cluster-wide objects alone.
    pub async fn cluster(&self) -> SharedCluster {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SharedCluster(SHARED.get_or_init(|| self.private_cluster()).await)
    }

    /// Starts a cluster with the Workflow CRD, for tests with faults or cluster-wide objects.
    pub async fn private_cluster(&self) -> Cluster {
        let cluster = self.bare_cluster().await;
        cluster.install_kind(&workflow::resource()).await;
        cluster
    }

    async fn bare_cluster(&self) -> Cluster {
        let etcd = Etcd::start(self).await;
        let mut cluster = Cluster::new(self, etcd);
        for attempt in 1.. {
            if cluster.try_start().await {
                break;
            }
            cluster.api_server.print_log();
            assert!(attempt < START_ATTEMPTS, "kube-apiserver has ended, see its log above");
            cluster.port = free_port();
        }
        cluster
    }
}

/// A borrowed [`Cluster`] that prints its logs if the borrowing test fails.
#[derive(Debug)]
pub struct SharedCluster(&'static Cluster);

impl Deref for SharedCluster {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        self.0
    }
}

impl Drop for SharedCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.etcd.process.print_log();
            self.0.api_server.print_log();
        }
    }
}

/// kube-apiserver and its etcd.
#[derive(Debug)]
pub struct Cluster {
    api_server: ChildProcess,
    port: u16,
    etcd: Etcd,
}

impl Cluster {
    fn new(peers: &Peers, etcd: Etcd) -> Self {
        let api_server = ChildProcess::new("kube-apiserver", peers.program("kube-apiserver"));
        let key = rcgen::KeyPair::generate().expect("a key pair");
        let write = |name: &str, text: String| {
            fs::write(api_server.folder().join(name), text).expect("the folder is writable");
        };
        write("sa.key", key.serialize_pem());
        write("sa.pub", key.public_key_pem());
        write("tokens.csv", format!("{ADMIN},admin,admin,\"system:masters\"\n"));
        Self { api_server, port: free_port(), etcd }
    }

    /// `https://127.0.0.1:PORT`, the same after a restart.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The API server's certificate authority, in PEM.
    fn ca_file(&self) -> PathBuf {
        self.api_server.folder().join("certificates/apiserver.crt")
    }

    fn kubeconfig(&self, token: &str) -> Value {
        let cluster = json!({"server": self.url(), "certificate-authority": self.ca_file()});
        kubeconfig(&cluster, &json!({"token": token}))
    }

    /// Writes a kubeconfig file with this bearer token, removed with the cluster.
    pub fn kubeconfig_file(&self, token: &str) -> PathBuf {
        let path = self.api_server.folder().join(format!("kubeconfig-{}", uuid::Uuid::from_u128(rand::random())));
        fs::write(&path, self.kubeconfig(token).to_string()).expect("the folder is writable");
        path
    }

    /// The private key with which the API server signs the tokens of service accounts, in PEM.
    pub(super) fn signing_key(&self) -> String {
        fs::read_to_string(self.api_server.folder().join("sa.key")).expect("the key of the API server")
    }

    /// Writes the cluster administrator's kubeconfig file.
    pub fn admin_kubeconfig_file(&self) -> PathBuf {
        self.kubeconfig_file(ADMIN)
    }

    /// Returns a client configuration with this bearer token.
    pub async fn config(&self, token: &str) -> Config {
        let options = KubeConfigOptions::default();
        let kubeconfig: Kubeconfig = serde_json::from_value(self.kubeconfig(token)).expect("a kubeconfig");
        Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a client configuration")
    }

    /// Returns the cluster administrator's client configuration.
    pub async fn admin_config(&self) -> Config {
        self.config(ADMIN).await
    }

    /// Returns a new client of the cluster administrator, bound to the runtime of the calling test.
    pub async fn client(&self) -> Client {
        Client::try_from(self.admin_config().await).expect("a client")
    }

    /// Returns a client with this bearer token.
    pub async fn client_with(&self, token: &str) -> Client {
        Client::try_from(self.config(token).await).expect("a client")
    }

    /// Creates a namespace with this name prefix and returns its name.
    pub async fn namespace(&self, prefix: &str) -> String {
        let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
        self.create_namespace_with(metadata).await.metadata.name.expect("a generated name")
    }

    /// Creates a namespace of this name.
    pub async fn create_namespace(&self, name: &str) {
        self.create_namespace_with(ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }).await;
    }

    async fn create_namespace_with(&self, metadata: ObjectMeta) -> Namespace {
        let namespaces = Api::all(self.client().await);
        let namespace = Namespace { metadata, ..Namespace::default() };
        namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace")
    }

    /// Deletes a namespace and waits until it is gone. No controller deletes what it contains.
    pub async fn delete_namespace(&self, name: &str) {
        let client = self.client().await;
        let namespaces = Api::<Namespace>::all(client.clone());
        namespaces.delete(name, &DeleteParams::default()).await.expect("the namespace exists");
        let finalized = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []},
        });
        let request = Request::put(format!("/api/v1/namespaces/{name}/finalize"));
        let request = request.header("content-type", "application/json").body(finalized.to_string().into_bytes());
        client.request_text(request.expect("a request")).await.expect("it is finalized");
        eventually(SOON, "the namespace is gone", async || {
            namespaces.get_opt(name).await.is_ok_and(|namespace| namespace.is_none())
        })
        .await;
    }

    /// Returns access to the Workflows of a namespace, as cluster administrator.
    pub async fn workflows(&self, namespace: &str) -> Workflows {
        Workflows::new(self.client().await, namespace)
    }

    /// Open watches of this resource (`workflows`), counted by the API server.
    pub async fn open_watches(&self, resource: &str) -> u64 {
        let page = self.request_text("/metrics").await.expect("metrics");
        let labels = [&*format!("resource=\"{resource}\""), "verb=\"WATCH\""];
        metrics::sum(&page, "apiserver_longrunning_requests", &labels) as u64
    }

    /// Returns the processes of the API server and of etcd.
    pub fn pids(&self) -> [Pid; 2] {
        [self.api_server.pid(), self.etcd.process.pid()]
    }

    /// Sends SIGKILL to the API server; etcd continues.
    pub fn kill_api_server(&mut self) {
        self.api_server.kill();
    }

    /// Restarts the API server on its port and waits until it is ready.
    ///
    /// # Panics
    /// If it ends or is not ready in time.
    pub async fn start_api_server(&mut self) {
        assert!(self.try_start().await, "kube-apiserver has ended");
    }

    /// Sends SIGSTOP to the API server: connections stay open without a response.
    pub fn pause_api_server(&self) {
        self.api_server.pause();
    }

    /// Sends SIGCONT to the API server.
    pub fn resume_api_server(&self) {
        self.api_server.resume();
    }

    /// Compacts etcd up to the current revision, as a cluster does every few minutes. A running API server still serves
    /// what its watch cache contains: compact while it is down, after a change. (After a restart an earlier version is
    /// mostly too old even without this: the watch cache begins with its own first list.)
    pub async fn compact_etcd(&self) {
        self.etcd.compact().await;
    }

    /// Starts the API server and waits; returns whether it is ready (true) or has ended.
    async fn try_start(&mut self) -> bool {
        let args = self.api_server_args();
        self.api_server.set_args(args);
        self.api_server.start();
        let up = eventually(START, "kube-apiserver is ready", async || {
            if !self.api_server.is_running() {
                return Ok(false);
            }
            if !self.ca_file().exists() {
                return Err("no certificate yet".to_owned());
            }
            self.request_text("/readyz").await.map(|_ok| true).map_err(|error| error.to_string())
        });
        up.await
    }

    async fn request_text(&self, path: &str) -> kube::Result<String> {
        let request = Request::get(path).body(Vec::new()).expect("a request");
        self.client().await.request_text(request).await
    }

    fn api_server_args(&self) -> Vec<String> {
        let folder = self.api_server.folder();
        let file = |name: &str| folder.join(name).display().to_string();
        let flags = [
            ("etcd-servers", self.etcd.url()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("advertise-address", "127.0.0.1".to_owned()),
            ("secure-port", self.port.to_string()),
            ("cert-dir", file("certificates")),
            ("service-account-issuer", ISSUER.to_owned()),
            ("service-account-key-file", file("sa.pub")),
            ("service-account-signing-key-file", file("sa.key")),
            ("service-cluster-ip-range", "10.0.0.0/24,fd00:10::/112".to_owned()),
            ("authorization-mode", "RBAC".to_owned()),
            ("token-auth-file", file("tokens.csv")),
            ("endpoint-reconciler-type", "none".to_owned()),
            // No controller creates the default service account of a namespace, and no Pod runs.
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ];
        flags.into_iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
    }
}

#[derive(Debug)]
struct Etcd {
    process: ChildProcess,
    port: u16,
}

impl Etcd {
    async fn start(peers: &Peers) -> Self {
        for attempt in 1.. {
            let mut etcd = Self { process: ChildProcess::new("etcd", peers.program("etcd")), port: free_port() };
            let data = etcd.process.folder().join("data");
            etcd.process.set_args(etcd_args(&etcd.url(), &data));
            etcd.process.start();
            let up = eventually(START, "etcd is healthy", async || {
                if !etcd.process.is_running() {
                    return Ok(false);
                }
                plain_http::get(&format!("{}/health", etcd.url())).await.map(|_ok| true)
            });
            if up.await {
                return etcd;
            }
            etcd.process.print_log();
            assert!(attempt < START_ATTEMPTS, "etcd has ended, see its log above");
        }
        unreachable!("the attempts are counted")
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn compact(&self) {
        let any_key = json!({"key": "AA=="});
        let answer =
            plain_http::post_json(&format!("{}/v3/kv/range", self.url()), &any_key).await.expect("etcd answers");
        let revision = answer["header"]["revision"].as_str().expect("a revision");
        let compaction = json!({"revision": revision, "physical": true});
        plain_http::post_json(&format!("{}/v3/kv/compaction", self.url()), &compaction).await.expect("etcd compacts");
    }
}

fn etcd_args(client: &str, data: &Path) -> Vec<String> {
    let peer = format!("http://127.0.0.1:{}", free_port());
    let flags = [
        ("data-dir", data.display().to_string()),
        ("listen-client-urls", client.to_owned()),
        ("advertise-client-urls", client.to_owned()),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("default={peer}")),
    ];
    let mut args: Vec<_> = flags.into_iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
    args.push("--unsafe-no-fsync".to_owned());
    args
}

fn kubeconfig(cluster: &Value, user: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
    })
}

/// Writes a kubeconfig file for a server without TLS and without credentials into this folder.
pub fn plain_kubeconfig(folder: &Path, server: &str) -> PathBuf {
    let path = folder.join("kubeconfig");
    let text = kubeconfig(&json!({"server": server}), &json!({})).to_string();
    fs::write(&path, text).expect("the folder is writable");
    path
}
