//! The token of an EventSource, which Argo Events reads from a mounted Secret.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{PIPELINE, Peers, START, ServiceAccount, can_have_root, eventually, examples, manifests, report};

use crate::{DELIVERY, Harness, RECONNECT, with_url};

/// The chart's ClusterRole, named in the example.
const ROLE: &str = "kfp-operator-system-kfp-operator-model-update-eventsource-subscriber";
/// The time for which the API server remembers a valid token, and a reconnect.
const REVOCATION: Duration = Duration::from_secs(40);

/// The Secret `model-updates-token`, mounted as the kubelet does: with symbolic links that it replaces at once.
struct Mounted {
    folder: TempDir,
    versions: u32,
}

impl Mounted {
    fn new(token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("model-updates-token")).unwrap();
        let mut mounted = Self { folder, versions: 0 };
        mounted.replace(token);
        symlink("..data/token", mounted.path("token")).unwrap();
        mounted
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("model-updates-token").join(name)
    }

    fn replace(&mut self, token: &str) {
        self.versions += 1;
        let version = format!("..{}", self.versions);
        fs::create_dir(self.path(&version)).unwrap();
        fs::write(self.path(&version).join("token"), token).unwrap();
        symlink(&version, self.path("..data_tmp")).unwrap();
        fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
    }

    fn secrets(&self) -> &Path {
        self.folder.path()
    }
}

/// Refusals tell what to do, and a Secret is replaced without a restart.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_token_in_a_secret_admits_and_can_be_rotated() {
    if !can_have_root() {
        report(
            "skipped: Argo Events reads tokens below /argo-events, and `unshare --user --mount` is not allowed here",
        );
        return;
    }
    let (harness, kubectl) = (Harness::start().await, Peers::with(&["kubectl"]).await);
    let cluster = &harness.cluster;
    let namespace = cluster.namespace("with-token").await;
    let objects = manifests(&examples::text("eventsource/auth-secret.yaml").replace("team-a", &namespace));
    let without_right: Vec<_> = objects.iter().filter(|object| object["kind"] != "RoleBinding").cloned().collect();
    harness.apply_accounts(&without_right).await;
    let rule = json!({"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["subscribe"]});
    let version = "rbac.authorization.k8s.io/v1";
    let role = json!({"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": ROLE}, "rules": [rule]});
    cluster.apply("helm", &role).await.unwrap();
    let account = ServiceAccount { namespace: namespace.clone(), name: "model-updates".to_owned() };
    let (first, second) = (cluster.bound_token(&account, "first").await, cluster.bound_token(&account, "second").await);
    let role = format!("--subscriber-role={ROLE}");
    let server = harness
        .serve_with(&["--auth=token", "--auth-cache-token=1s", "--auth-cache-allow=1s", "--auth-cache-deny=1s", &role])
        .await;

    let mut secret = Mounted::new("not-a-token\n");
    let bus = harness.peers.jet_stream().await;
    let event_source = with_url(&examples::find(&objects, "EventSource"), harness.listen).to_string();
    let mut source = harness.peers.argo_events_with_secrets(&bus, &event_source, secret.secrets());
    source.logged(START, &["code = Unauthenticated", "the token is not valid"]).await;
    secret.replace(&first);
    let refusal = source.logged(RECONNECT, &["code = PermissionDenied", "grant it: "]).await;
    let refusal: Value = serde_json::from_str(&refusal).unwrap();
    let (_, command) = refusal["error"].as_str().unwrap().split_once("grant it: ").unwrap();
    let shell = kubectl.shell(&cluster.admin_kubeconfig_file(), &["kubectl"]);
    shell.succeeds(command).await;

    let admitted = async |times: usize| {
        eventually(REVOCATION, &format!("{times} admissions"), async || {
            let log = server.process.log();
            if log.matches("\"admitted subscription\"").count() == times { Ok(()) } else { Err(log) }
        })
        .await;
    };
    let received = async |times: usize| {
        eventually(DELIVERY, &format!("{times} events"), async || {
            source.log().matches("received an event from server").count() == times
        })
        .await;
    };
    let subscription = format!("with-token.{namespace}");
    admitted(1).await;
    harness.succeed(&namespace, PIPELINE, "token-1").await;
    received(1).await;
    harness.marked(&namespace, "token-1", &subscription).await;

    // The new token is in the Secret before the old one is revoked.
    secret.replace(&second);
    cluster.delete_secret(&namespace, "first").await;
    admitted(2).await;
    harness.succeed(&namespace, PIPELINE, "token-2").await;
    received(2).await;
    harness.marked(&namespace, "token-2", &subscription).await;
    for token in [first, second] {
        assert!(!source.log().contains(&token) && !server.process.log().contains(&token));
    }
    server.stop().await;
}
