//! The rendered objects on a real API server, and the permissions of the service account.

use http::StatusCode;
use kube::api::{Patch, PatchParams};
use model_update_eventsource::model::workflow::MARK_PREFIX;
use serde_json::json;
use test_support::{Cluster, NewWorkflow, SOON, ServerProcess, ServiceAccount, Task, Workflows, eventually};

use super::*;

async fn create_namespaces(cluster: &Cluster, names: &[&str]) {
    for name in names {
        cluster.create_namespace(name).await;
    }
}

/// Applies rendered objects except hooks, as Helm does.
async fn apply(cluster: &Cluster, objects: &[Value]) {
    for object in objects.iter().filter(|object| object["metadata"]["annotations"]["helm.sh/hook"].is_null()) {
        cluster.apply("helm", object).await.unwrap_or_else(|refusal| panic!("{refusal}: {object}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_api_server_accepts_every_variant() {
    let peers = peers().await;
    let cluster = peers.private_cluster().await;
    create_namespaces(&cluster, &[NAMESPACE, "team-a", "team-b"]).await;
    for definition in manifests(include_str!("monitoring-crds.yaml")) {
        cluster.apply("test", &definition).await.unwrap();
    }
    for kind in ["servicemonitors", "prometheusrules"] {
        let path = format!("/apis/monitoring.coreos.com/v1/{kind}");
        eventually(SOON, kind, async || {
            let request = http::Request::get(&path).body(Vec::new()).unwrap();
            cluster.client().await.request_text(request).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
    for variant in variants() {
        let objects = rendered(&peers, &["--values", variant.to_str().unwrap()]);
        apply(&cluster, &objects).await;
        // The hook.
        let test = objects.iter().find(|object| object["kind"] == "Pod").unwrap();
        cluster.apply("helm", test).await.unwrap_or_else(|refusal| panic!("{variant:?}: {refusal}"));
    }
}

/// Returns the Workflows of a namespace, with the permissions of the chart's account.
async fn as_account(cluster: &Cluster, namespace: &str) -> Workflows {
    let account = ServiceAccount { namespace: NAMESPACE.to_owned(), name: FULLNAME.to_owned() };
    let token = cluster.token(&account, &[]).await;
    Workflows::new(cluster.client_with(&token).await, namespace)
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_account_may_change_only_the_marks_of_a_workflow() {
    let peers = peers().await;
    let cluster = peers.private_cluster().await;
    create_namespaces(&cluster, &[NAMESPACE]).await;
    apply(&cluster, &rendered(&peers, &[])).await;
    let team = cluster.namespace("team").await;
    let workflows = cluster.workflows(&team).await;
    let run = NewWorkflow::tfx_v1("run", "penguin").annotation("example.com/theirs", "kept").phase("Succeeded");
    workflows.create(run).await;
    let ours = as_account(&cluster, &team).await;

    // A policy is enforced with a delay.
    let refusal = eventually(SOON, "the policy is enforced", async || {
        let foreign = json!({"metadata": {"annotations": {"example.com/ours": rand::random::<u32>().to_string()}}});
        ours.try_merge("run", &foreign).await.err()
    })
    .await;
    assert!(refusal.message.contains("may only change annotations that"), "{refusal:?}");
    for (patch, message) in [
        (json!({"spec": {"entrypoint": "evil"}}), "a Workflow's spec"),
        (json!({"spec": null}), "a Workflow's spec"),
        (json!({"status": {"phase": "Failed"}}), "a Workflow's status"),
        (json!({"metadata": {"labels": {"workflows.argoproj.io/phase": "Failed"}}}), "a Workflow's labels"),
        (json!({"metadata": {"labels": null}}), "a Workflow's labels"),
        (json!({"metadata": {"finalizers": ["example.com/never"]}}), "a Workflow's finalizers"),
        (
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x"}]}}),
            "a Workflow's ownerReferences",
        ),
        (json!({"metadata": {"annotations": {"example.com/theirs": "changed"}}}), "may only change annotations that"),
        (json!({"metadata": {"annotations": {"example.com/theirs": null}}}), "may only change annotations that"),
    ] {
        let refusal = ours.try_merge("run", &patch).await.expect_err("refused");
        assert!(refusal.message.contains(message), "{patch}: {refusal:?}");
        assert_eq!(refusal.code, StatusCode::UNPROCESSABLE_ENTITY.as_u16(), "{patch}");
    }
    let mark = format!("{MARK_PREFIX}deployer");
    for value in [Some("a-uid"), Some("another"), None] {
        ours.annotate("run", &mark, value).await;
    }
    // The policy also applies to server-side apply.
    let applied = json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": {"entrypoint": "evil"}});
    let applied = ours.api().patch("run", &PatchParams::apply("us").force(), &Patch::Apply(&applied)).await;
    assert!(applied.is_err_and(|error| error.to_string().contains("a Workflow's spec")));

    // Other accounts are not restricted.
    workflows.merge("run", &json!({"spec": {"entrypoint": "other"}})).await;
    workflows.label("run", "example.com/label", "yes").await;
    assert_eq!(workflows.annotations("run", "example.com/theirs").await["example.com/theirs"], "kept");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn listed_namespaces_have_roles_and_others_have_none() {
    let peers = peers().await;
    let cluster = peers.private_cluster().await;
    create_namespaces(&cluster, &[NAMESPACE, "team-a", "team-b", "team-c"]).await;
    apply(&cluster, &rendered(&peers, &["--values", "helm/ci/namespaces-values.yaml"])).await;
    let account = ServiceAccount { namespace: NAMESPACE.to_owned(), name: FULLNAME.to_owned() };
    let token = cluster.token(&account, &[]).await;
    let kubeconfig = cluster.kubeconfig_file(&token);
    let store = peers.metadata_store().await;

    let server = ServerProcess::start(&kubeconfig, &store.url(), &["--namespaces=team-a,team-b"]).listening().await;
    server.ready().await;
    let mut client = peers.grpc_go_client(server.listen, "kfpNamespace: team-b").start();
    let workflows = cluster.workflows("team-b").await;
    store.writer().await.tfx_run("penguin", "run-b").await.task(Task::pusher("gs://root/b")).await;
    workflows.create(NewWorkflow::tfx_v1("run-b", "penguin").phase("Succeeded")).await;
    assert!(client.payload(SOON).await.contains("gs://root/b"));
    // The policy admits the mark.
    eventually(SOON, "the mark", async || workflows.annotations("run-b", MARK_PREFIX).await.len() == 1).await;

    let elsewhere = ServerProcess::start(&kubeconfig, &store.url(), &["--namespaces=team-c"]).listening().await;
    elsewhere.not_ready("forbidden").await;
}
