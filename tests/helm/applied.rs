//! The rendered objects on a real API server, and the permissions of the service account.

use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use model_update_eventsource::model::workflow::MARK_PREFIX;
use serde_json::json;
use test_support::{CATCH_UP, Cluster, NewWorkflow, SOON, ServerProcess, ServiceAccount, Task, Workflows, eventually};

use super::{access::define_kinds, *};

pub(crate) async fn create_namespaces(cluster: &Cluster, names: &[&str]) {
    for name in names {
        cluster.create_namespace(name).await;
    }
}

/// Applies rendered objects except hooks, as Helm does.
pub(crate) async fn apply(cluster: &Cluster, objects: &[Value]) {
    for object in objects.iter().filter(|object| object["metadata"]["annotations"]["helm.sh/hook"].is_null()) {
        cluster.apply("helm", object).await.unwrap_or_else(|refusal| panic!("{refusal}: {object}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_api_server_accepts_every_variant() {
    let peers = peers().await;
    let cluster = peers.private_cluster().await;
    create_namespaces(&cluster, &[NAMESPACE, "kubeflow", "team-a", "team-b"]).await;
    for definition in manifests(include_str!("monitoring-crds.yaml")) {
        cluster.apply("test", &definition).await.unwrap();
    }
    for kind in ["servicemonitors", "podmonitors", "prometheusrules"] {
        let path = format!("/apis/monitoring.coreos.com/v1/{kind}");
        eventually(SOON, kind, async || {
            let request = http::Request::get(&path).body(Vec::new()).unwrap();
            cluster.client().await.request_text(request).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
    define_kinds(&cluster).await;
    for variant in variants() {
        let objects = rendered(&peers, &["--values", variant.to_str().unwrap()]);
        apply(&cluster, &objects).await;
        // The hook. The test has no certificate for a server that requires one.
        let test = objects.iter().find(|object| object["kind"] == "Pod");
        assert_eq!(test.is_none(), variant.ends_with("tls-cert-manager-values.yaml"), "{variant:?}");
        if let Some(test) = test {
            cluster.apply("helm", test).await.unwrap_or_else(|refusal| panic!("{variant:?}: {refusal}"));
            // As Helm before the next test: the volumes of a Pod cannot be changed.
            let pods = Api::<Pod>::namespaced(cluster.client().await, NAMESPACE);
            pods.delete(test["metadata"]["name"].as_str().unwrap(), &DeleteParams::default().grace_period(0))
                .await
                .unwrap();
        }
    }
}

/// A cluster with the chart, and a namespace of a team.
async fn installed(peers: &Peers) -> (Cluster, String) {
    let cluster = peers.private_cluster().await;
    create_namespaces(&cluster, &[NAMESPACE]).await;
    apply(&cluster, &rendered(peers, &[])).await;
    let team = cluster.namespace("team").await;
    (cluster, team)
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
    let (cluster, team) = installed(&peers).await;
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
    let labels = "may only change labels that begin with";
    for (patch, message) in [
        (json!({"spec": {"entrypoint": "evil"}}), "a Workflow's spec"),
        (json!({"spec": null}), "a Workflow's spec"),
        (json!({"status": {"phase": "Failed"}}), "a Workflow's status"),
        (json!({"metadata": {"labels": {"workflows.argoproj.io/phase": "Failed"}}}), labels),
        (json!({"metadata": {"labels": {"workflows.argoproj.io/phase": null}}}), labels),
        (json!({"metadata": {"labels": {"example.com/ours": "new"}}}), labels),
        (json!({"metadata": {"labels": null}}), labels),
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
    for value in [Some("a-uid"), Some("another"), None] {
        ours.merge("run", &json!({"metadata": {"labels": {&mark: value}}})).await;
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

/// A policy that stamps every updated Workflow, of all clients or of all but one.
fn stamping_policy(excluded: Option<&str>) -> Vec<Value> {
    let condition = excluded
        .map(|user| json!([{"name": "others", "expression": format!("request.userInfo.username != {user:?}")}]));
    let patch = r#"Object{metadata: Object.metadata{labels: {"example.com/stamped": "yes"}}}"#;
    let api = "admissionregistration.k8s.io/v1";
    vec![
        json!({
            "apiVersion": api, "kind": "MutatingAdmissionPolicy", "metadata": {"name": "stamp"},
            "spec": {
                "failurePolicy": "Fail", "reinvocationPolicy": "Never", "matchConditions": condition,
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["argoproj.io"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["workflows"],
                }]},
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": patch}}],
            },
        }),
        json!({
            "apiVersion": api, "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": "stamp"},
            "spec": {"policyName": "stamp"},
        }),
    ]
}

/// The API server refuses the server's patch with the words of the chart's policy, which name the mutating one as a cause.
/// The program logs them, and writes the mark once its account is excluded from that policy.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn mutating_admission_beside_the_policy_is_named() {
    let peers = peers().await;
    let (cluster, team) = installed(&peers).await;
    let workflows = cluster.workflows(&team).await;
    workflows.create(NewWorkflow::tfx_v1("run", "penguin").phase("Succeeded")).await;
    let store = peers.metadata_store().await;
    store.writer().await.tfx_run("penguin", "run").await.task(Task::pusher("gs://root/run")).await;
    let ours = as_account(&cluster, &team).await;
    let mark = |value: u32| json!({"metadata": {"annotations": {format!("{MARK_PREFIX}deployer"): value.to_string()}}});

    for object in stamping_policy(None) {
        cluster.apply("engine", &object).await.unwrap();
    }
    // Both policies take a moment to be in force.
    let refusal =
        eventually(SOON, "the mark is refused", async || ours.try_merge("run", &mark(rand::random())).await.err())
            .await;
    assert!(refusal.message.contains("ValidatingAdmissionPolicy"), "{refusal:?}");
    assert!(refusal.message.contains("may only change labels that begin with"), "{refusal:?}");
    assert!(refusal.message.contains("mutating admission policy or webhook"), "{refusal:?}");

    let account = ServiceAccount { namespace: NAMESPACE.to_owned(), name: FULLNAME.to_owned() };
    let kubeconfig = cluster.kubeconfig_file(&cluster.token(&account, &[]).await);
    let server = ServerProcess::start(&kubeconfig, &store.url(), &[]).listening().await;
    let mut client = peers.grpc_go_client(server.listen, &format!("kfpNamespace: {team}")).start();
    assert!(client.payload(SOON).await.contains("gs://root/run"));
    let line = server.process.logged("mark patch failed, retrying").await;
    assert_eq!((&line["reason"], &line["workflow"]), (&"refused".into(), &"run".into()));
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("mutating admission policy or webhook"), "{error}");

    let account = format!("system:serviceaccount:{NAMESPACE}:{FULLNAME}");
    for object in stamping_policy(Some(&account)) {
        cluster.apply("engine", &object).await.unwrap();
    }
    eventually(SOON, "the mark is accepted", async || ours.try_merge("run", &mark(rand::random())).await).await;
    eventually(CATCH_UP, "the program's mark", async || {
        workflows.annotations("run", &format!("{MARK_PREFIX}model-update")).await.len() == 1
    })
    .await;
    assert_eq!(server.metric("modelupdate_events_sent_total", &[]).await, 1.0);
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
