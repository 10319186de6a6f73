//! A real API server on a real etcd. No controllers run: a Deployment is stored, never started.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
};

use http::Request;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::sync::OnceCell;

use super::{Peers, START, Workflows, eventually, plain_http, ports::free_port, process::Neighbour};

/// The cluster administrator's token.
const ADMIN: &str = "admin";

/// How often a start is tried with new ports: another process may have taken one meanwhile.
const START_ATTEMPTS: usize = 3;

impl Peers {
    /// The cluster that all tests of this binary share; the Workflow CRD is there. Each test takes a
    /// [`Cluster::namespace`] of its own, and leaves what belongs to all as it is.
    pub async fn cluster(&self) -> SharedCluster {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SharedCluster(SHARED.get_or_init(|| self.private_cluster()).await)
    }

    /// A cluster of the test's own, for faults; the Workflow CRD is there.
    pub async fn private_cluster(&self) -> Cluster {
        let cluster = self.bare_cluster().await;
        cluster.install_workflow_crd().await;
        cluster
    }

    /// As [`Peers::private_cluster`], without the Workflow CRD.
    pub async fn bare_cluster(&self) -> Cluster {
        let etcd = Etcd::start(self).await;
        let mut cluster = Cluster::new(self, etcd);
        for attempt in 1.. {
            if cluster.try_start().await {
                break;
            }
            cluster.api_server.print_log();
            assert!(attempt < START_ATTEMPTS, "kube-apiserver ends as soon as it starts: its log is above");
            cluster.port = free_port();
        }
        cluster
    }
}

/// A borrowed [`Cluster`] that prints its logs when the test that borrowed it fails.
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
    api_server: Neighbour,
    port: u16,
    etcd: Etcd,
}

impl Cluster {
    fn new(peers: &Peers, etcd: Etcd) -> Self {
        let api_server = Neighbour::new("kube-apiserver", peers.program("kube-apiserver"));
        let key = rcgen::KeyPair::generate().expect("a key pair");
        let write = |name: &str, text: String| {
            fs::write(api_server.folder().join(name), text).expect("its folder can be written");
        };
        write("sa.key", key.serialize_pem());
        write("sa.pub", key.public_key_pem());
        write("tokens.csv", format!("{ADMIN},admin,admin,\"system:masters\"\n"));
        Self { api_server, port: free_port(), etcd }
    }

    /// `https://127.0.0.1:PORT`; it stays the same over restarts.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// What is signed by this is the API server; PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.api_server.folder().join("certificates/apiserver.crt")
    }

    /// A kubeconfig with this bearer token, as a value.
    pub fn kubeconfig(&self, token: &str) -> Kubeconfig {
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url(), "certificate-authority": self.ca_file()}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
        });
        serde_json::from_value(kubeconfig).expect("a kubeconfig")
    }

    /// A kubeconfig file with this bearer token, for `KUBECONFIG` (JSON is YAML). It goes with the cluster.
    pub fn kubeconfig_file(&self, token: &str) -> PathBuf {
        let path = self.api_server.folder().join(format!("kubeconfig-{}", uuid::Uuid::from_u128(rand::random())));
        let text = serde_json::to_string(&self.kubeconfig(token)).expect("a kubeconfig as JSON");
        fs::write(&path, text).expect("its folder can be written");
        path
    }

    /// The cluster administrator's kubeconfig file.
    pub fn admin_kubeconfig_file(&self) -> PathBuf {
        self.kubeconfig_file(ADMIN)
    }

    /// A client configuration with this bearer token.
    pub async fn config(&self, token: &str) -> Config {
        let options = KubeConfigOptions::default();
        Config::from_custom_kubeconfig(self.kubeconfig(token), &options).await.expect("a client configuration")
    }

    /// The cluster administrator's client configuration.
    pub async fn admin_config(&self) -> Config {
        self.config(ADMIN).await
    }

    /// A client as cluster administrator. Each call makes a new one, bound to the runtime of the calling test.
    pub async fn client(&self) -> Client {
        Client::try_from(self.admin_config().await).expect("a client")
    }

    /// A client with this bearer token.
    pub async fn client_with(&self, token: &str) -> Client {
        Client::try_from(self.config(token).await).expect("a client")
    }

    /// A new namespace whose name begins so.
    pub async fn namespace(&self, prefix: &str) -> String {
        let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        let namespaces = Api::<Namespace>::all(self.client().await);
        let created = namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace");
        created.metadata.name.expect("a generated name")
    }

    /// The Workflows of a namespace.
    pub async fn workflows(&self, namespace: &str) -> Workflows {
        Workflows::new(self.client().await, namespace)
    }

    /// The API server's own metrics, in the text format.
    pub async fn metrics(&self) -> String {
        self.request_text("/metrics").await.expect("the API server's metrics")
    }

    /// How many watches of this resource (`workflows`) are open, by the API server's own count.
    pub async fn open_watches(&self, resource: &str) -> u64 {
        let resource = format!("resource=\"{resource}\"");
        let metrics = self.metrics().await;
        let mut watches = 0;
        for line in metrics.lines().filter(|line| line.starts_with("apiserver_longrunning_requests{")) {
            if line.contains(&resource) && line.contains("verb=\"WATCH\"") {
                let count = line.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok());
                watches += count.unwrap_or_else(|| panic!("no count: {line}"));
            }
        }
        watches
    }

    /// SIGKILL to the API server; etcd goes on.
    pub fn kill_api_server(&mut self) {
        self.api_server.kill();
    }

    /// Starts the API server again, on the port that it had, and waits until it is ready.
    ///
    /// # Panics
    /// If it ends, or is not ready in time.
    pub async fn start_api_server(&mut self) {
        assert!(self.try_start().await, "kube-apiserver ends as soon as it starts");
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub fn pause_api_server(&self) {
        self.api_server.pause();
    }

    /// SIGCONT.
    pub fn resume_api_server(&self) {
        self.api_server.resume();
    }

    /// Forgets every revision before the current one, as etcd does in a cluster every few minutes. What an API server
    /// still has in memory, it still serves: compact while it is away, and after something has changed. (After a restart
    /// an earlier version is mostly too old even without this: its watch cache begins with its own first list.)
    pub async fn compact_etcd(&self) {
        self.etcd.compact().await;
    }

    /// Whether it came up; not, if it ended.
    async fn try_start(&mut self) -> bool {
        let args = self.api_server_args();
        self.api_server.set_args(args);
        self.api_server.start();
        let up = eventually(START, "kube-apiserver is ready", async || {
            if !self.api_server.is_running() {
                return Ok(false);
            }
            if !self.ca_file().exists() {
                return Err("it has no certificate yet".to_owned());
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
            ("service-account-issuer", "https://test".to_owned()),
            ("service-account-key-file", file("sa.pub")),
            ("service-account-signing-key-file", file("sa.key")),
            ("service-cluster-ip-range", "10.0.0.0/24".to_owned()),
            ("authorization-mode", "RBAC".to_owned()),
            ("token-auth-file", file("tokens.csv")),
            ("endpoint-reconciler-type", "none".to_owned()),
            // No controller makes the default service account of a namespace, and no pod runs.
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ];
        flags.into_iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
    }
}

#[derive(Debug)]
struct Etcd {
    process: Neighbour,
    port: u16,
}

impl Etcd {
    async fn start(peers: &Peers) -> Self {
        for attempt in 1.. {
            let mut etcd = Self { process: Neighbour::new("etcd", peers.program("etcd")), port: free_port() };
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
            assert!(attempt < START_ATTEMPTS, "etcd ends as soon as it starts: its log is above");
        }
        unreachable!("the attempts are counted")
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn compact(&self) {
        let nothing = json!({"key": "AA=="});
        let answer =
            plain_http::post_json(&format!("{}/v3/kv/range", self.url()), &nothing).await.expect("etcd answers");
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
