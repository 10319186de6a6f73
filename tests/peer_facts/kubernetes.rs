//! The API server's watches, permissions and tokens. `tests/sim` tests lists and patches, with a real API server too.

use futures::TryStreamExt as _;
use http::Request;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{
    Api, ResourceExt as _,
    api::{PartialObjectMeta, PostParams, WatchEvent, WatchParams},
    core::DynamicObject,
};
use serde_json::json;
use test_support::{Cluster, NewWorkflow, Peers, SOON, Workflows, eventually, rule};

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

/// Returns the version of the list, from which a watch continues.
async fn version(workflows: &Workflows) -> String {
    let list = workflows.api().list_metadata(&Default::default()).await.expect("a list");
    list.metadata.resource_version.expect("a list has a version")
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_refused_patch_names_user_verb_resource_and_namespace() {
    let peers = Peers::find().await;
    let cluster = peers.cluster().await;
    let namespace = cluster.namespace("permissions").await;
    cluster.workflows(&namespace).await.create(NewWorkflow::named("run")).await;
    let account = cluster.service_account(&namespace, "reader").await;
    cluster.grant(&account, None, vec![rule("argoproj.io", "workflows", &["list", "watch"])]).await;
    let client = cluster.client_with(&cluster.token(&account, &[]).await).await;

    let workflows = Workflows::new(client, &namespace);
    workflows.api().list_metadata(&Default::default()).await.expect("it may list");
    let refusal = workflows
        .try_merge("run", &json!({"metadata": {"annotations": {"a": "b"}}}))
        .await
        .expect_err("it may not patch");
    assert_eq!((refusal.code, refusal.reason.as_str()), (403, "Forbidden"));
    let user = account.user();
    for part in [user.as_str(), "cannot patch", "\"workflows\"", namespace.as_str()] {
        assert!(refusal.message.contains(part), "{part} is not in: {}", refusal.message);
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn revoked_permissions_keep_a_running_watch_and_refuse_the_next() {
    let peers = Peers::find().await;
    let cluster = peers.cluster().await;
    let namespace = cluster.namespace("permissions").await;
    let account = cluster.service_account(&namespace, "watcher").await;
    let rules = vec![rule("argoproj.io", "workflows", &["list", "watch"])];
    let grant = cluster.grant(&account, Some(&namespace), rules).await;
    let client = cluster.client_with(&cluster.token(&account, &[]).await).await;
    let watched = Workflows::new(client, &namespace);
    let watch = watched.api().watch_metadata(&WatchParams::default(), &version(&watched).await).await.expect("a watch");
    let mut watch = std::pin::pin!(watch);

    cluster.revoke(grant).await;
    cluster.workflows(&namespace).await.create(NewWorkflow::named("after")).await;
    let event = within(watch.try_next()).await.expect("the watch continues").expect("an event");
    assert!(matches!(&event, WatchEvent::Added(workflow) if workflow.name_any() == "after"), "{event:?}");

    let next = watched.api().watch_metadata(&WatchParams::default(), "0").await.map(drop);
    let Err(kube::Error::Api(refusal)) = next else { panic!("not refused: {next:?}") };
    assert_eq!(refusal.code, 403);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_metadata_watch_has_labels_annotations_and_managed_fields() {
    let peers = Peers::find().await;
    let cluster = peers.cluster().await;
    let workflows = cluster.workflows(&cluster.namespace("watch").await).await;
    let from = version(&workflows).await;
    let watch = workflows.api().watch_metadata(&WatchParams::default(), &from).await.expect("a watch");
    let mut watch = std::pin::pin!(watch);

    workflows.create(NewWorkflow::tfx_v1("run", "penguin-pipeline")).await;
    let WatchEvent::Added(added) = within(watch.try_next()).await.expect("no error").expect("an event") else {
        panic!("the first event is the creation")
    };
    assert!(added.labels().contains_key("pipeline/runid"), "{added:?}");
    assert!(added.annotations()["pipelines.kubeflow.org/pipeline_spec"].contains("penguin-pipeline"));
    assert!(!added.managed_fields().is_empty());

    workflows.set_phase("run", "Succeeded").await;
    let WatchEvent::Modified(modified) = within(watch.try_next()).await.expect("no error").expect("an event") else {
        panic!("phase and label change in one MODIFIED")
    };
    assert_eq!(modified.labels()["workflows.argoproj.io/phase"], "Succeeded");
    assert_eq!(modified.uid(), added.uid());
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_api_server_counts_its_open_watches() {
    let peers = Peers::find().await;
    let cluster = peers.private_cluster().await;
    let workflows = cluster.workflows(&cluster.namespace("watch").await).await;
    assert_eq!(cluster.open_watches("workflows").await, 0);
    let from = version(&workflows).await;
    let watch = workflows.api().watch_metadata(&WatchParams::default(), &from).await.expect("a watch");
    eventually(SOON, "one watch is counted", async || cluster.open_watches("workflows").await == 1).await;
    drop(watch);
    eventually(SOON, "no watch is counted", async || cluster.open_watches("workflows").await == 0).await;
}

/// Starts a watch and returns its first event. The response has the status 200.
async fn first_event(cluster: &Cluster, namespace: &str, from: &str) -> WatchEvent<PartialObjectMeta<DynamicObject>> {
    let path = format!("/apis/argoproj.io/v1alpha1/namespaces/{namespace}/workflows?watch=true&resourceVersion={from}");
    let request = Request::get(path)
        .header("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
        .body(Vec::new())
        .expect("a request");
    // Another status than 200 is an error here.
    let client = cluster.client().await;
    let events = client.request_events(request).await.expect("the status of a watch is 200");
    let mut events = std::pin::pin!(events);
    within(events.try_next()).await.expect("no error").expect("an event")
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_watch_from_a_compacted_version_begins_with_a_410_event() {
    let peers = Peers::find().await;
    let mut cluster = peers.private_cluster().await;
    let namespace = cluster.namespace("compaction").await;
    let workflows = cluster.workflows(&namespace).await;
    workflows.create(NewWorkflow::named("run")).await;
    let stale = version(&workflows).await;
    workflows.set_phase("run", "Running").await;
    workflows.set_phase("run", "Succeeded").await;

    cluster.kill_api_server();
    cluster.compact_etcd().await;
    cluster.start_api_server().await;
    let event = first_event(&cluster, &namespace, &stale).await;
    let WatchEvent::Error(status) = event else { panic!("not an error: {event:?}") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"), "{status:?}");
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_restarted_api_server_continues_a_watch_or_begins_with_410() {
    let peers = Peers::find().await;
    let mut cluster = peers.private_cluster().await;
    let url = cluster.url();
    let namespace = cluster.namespace("resume").await;
    let workflows = cluster.workflows(&namespace).await;
    workflows.create(NewWorkflow::named("run")).await;
    let from = version(&workflows).await;

    cluster.kill_api_server();
    cluster.start_api_server().await;
    assert_eq!(cluster.url(), url, "the port is the same");
    workflows.set_phase("run", "Succeeded").await;
    // The watch cache begins with its own first list, and the start writes to etcd: earlier versions may be too old.
    let event = first_event(&cluster, &namespace, &from).await;
    let continues =
        matches!(&event, WatchEvent::Modified(run) if run.labels()["workflows.argoproj.io/phase"] == "Succeeded");
    let too_old = matches!(&event, WatchEvent::Error(status) if status.code == 410);
    assert!(continues || too_old, "{event:?}");
}

async fn review(cluster: &Cluster, token: &str, audiences: &[&str]) -> TokenReviewStatus {
    let audiences = audiences.iter().map(|&audience| audience.to_owned()).collect();
    let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(audiences) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let reviews = Api::<TokenReview>::all(cluster.client().await);
    let answer = reviews.create(&PostParams::default(), &review).await.expect("the status of a review is 201");
    answer.status.expect("a status")
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_token_review_returns_the_user_or_the_reason() {
    let peers = Peers::find().await;
    let cluster = peers.cluster().await;
    let namespace = cluster.namespace("tokens").await;
    let account = cluster.service_account(&namespace, "subscriber").await;
    let token = cluster.token(&account, &["model-update"]).await;

    let status = review(&cluster, &token, &["model-update"]).await;
    assert_eq!(status.authenticated, Some(true));
    assert_eq!(status.user.and_then(|user| user.username), Some(account.user()));

    for (token, audience) in [(token.as_str(), "another"), ("nonsense", "model-update")] {
        let status = review(&cluster, token, &[audience]).await;
        assert_eq!(status.authenticated, None, "{status:?}");
        assert!(status.error.is_some(), "{status:?}");
    }
}
