//! The server as a whole: whom it refuses, what it costs the API server, how it ends.

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn every_bad_configuration_is_refused_with_its_key_and_the_way_out() {
    let world = World::start().await;
    for (config, key) in [
        ("", "kfpNamespace"),
        ("subscription: a", "kfpNamespace is missing"),
        ("kfpNamespace: A_B", "kfpNamespace"),
        ("kfpNamespace: a\nkfpNamespaces: b", "did you mean kfpNamespace?"),
        ("kfpNamespace: a\nsubscription: A_B", "subscription"),
        ("kfpNamespace: a\npipelines: []", "pipelines"),
        ("kfpNamespace: a\nartifactTypes: []", "artifactTypes"),
        ("kfpNamespace: a\nmaxAge: soon", "maxAge"),
        ("kfpNamespace: a\ninclude: [everything]", "include"),
        ("kfpNamespace: [", "not valid YAML"),
    ] {
        let Err(error) = world.served.try_subscribe("x", config).await else { panic!("{config:?} was taken") };
        let message = error.to_string();
        assert!(message.starts_with("InvalidArgument: ") && message.contains(key), "{config:?}: {message}");
    }
    assert_eq!(world.served.metric("modelupdate_subscriptions_refused_total", &["InvalidArgument"]).await, 10.0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_server_for_listed_namespaces_watches_and_serves_no_other() {
    let peers = Peers::find().await;
    let allowed = peers.cluster().await.namespace("allowed").await;
    let world = World::start_with(|config| config.namespaces = vec![allowed.as_str().into()]).await;
    let Err(error) = world.served.try_subscribe("x", &world.config()).await else { panic!("it was taken") };
    assert!(
        error.to_string().starts_with("PermissionDenied: ") && error.to_string().contains("--namespaces"),
        "{error}"
    );
    let mut events = world.served.subscribe(&format!("kfpNamespace: {allowed}")).await;
    world.artifacts("inside").await;
    let workflows = world.cluster.workflows(&allowed).await;
    workflows.create(NewWorkflow::tfx_v1("inside", PIPELINE).phase("Succeeded")).await;
    assert_eq!(events.next_locations().await, locations(&["inside"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn twenty_subscribers_share_one_watch() {
    let peers = Peers::find().await;
    let cluster = peers.private_cluster().await;
    let store = peers.metadata_store().await;
    let config =
        Config { metadata_store: store.url(), kubernetes: Some(cluster.admin_config().await), ..Config::default() };
    let served = TestServer::start(config).await;
    let writer = store.writer().await;
    let namespace = cluster.namespace("team").await;
    let mut subscribers = Vec::new();
    for n in 0..20 {
        subscribers.push(served.subscribe_as(&format!("s{n}"), &format!("kfpNamespace: {namespace}")).await);
    }
    writer.tfx_run(PIPELINE, "run").await.task(Task::pusher("gs://root/run")).await;
    let workflows = cluster.workflows(&namespace).await;
    workflows.create(NewWorkflow::tfx_v1("run", PIPELINE).phase("Succeeded")).await;
    for events in &mut subscribers {
        assert_eq!(events.next_locations().await, locations(&["run"]));
    }
    assert_eq!(cluster.open_watches("workflows").await, 1);
    let mark = "published.pipelines.kubeflow.org/";
    eventually(CATCH_UP, "twenty marks", async || workflows.annotations("run", mark).await.len() == 20).await;
    assert_eq!(served.metric("modelupdate_mlmd_lookups_total", &[]).await, 1.0, "one lookup, however many ask");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn list_watch_and_patch_are_all_the_rights_it_needs() {
    let peers = Peers::find().await;
    let cluster = peers.cluster().await;
    let home = cluster.namespace("home").await;
    let account = cluster.service_account(&home, "server").await;
    let rights = vec![rule("argoproj.io", "workflows", &["list", "watch", "patch"])];
    cluster.grant(&account, None, rights).await;
    let token = cluster.token(&account, &[]).await;
    let restricted = cluster.config(&token).await;
    let world = World::start_with(|config| config.kubernetes = Some(restricted)).await;
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("modest").await;
    assert_eq!(events.next_locations().await, locations(&["modest"]));
    world.marked("modest").await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_stop_waits_for_the_last_confirmation_and_mark_and_ends_streams_as_unavailable() {
    let world = World::start_with(|config| config.confirm_after = Duration::from_millis(700)).await;
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("last").await;
    assert_eq!(events.next_locations().await, locations(&["last"]));
    let World { served, workflows, store, .. } = world;
    let ((), end) = tokio::join!(served.stop(), events.end());
    assert_eq!(end.to_string(), "Unavailable: the server is shutting down");
    let marks = workflows.annotations("last", "published.pipelines.kubeflow.org/").await;
    assert_eq!(marks.len(), 1, "marked before the end");
    drop(store);
}
