//! The whole server: refused subscriptions, load on the API server, permissions, shutdown.

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_bad_configuration_is_refused_with_its_key_and_the_fix() {
    let (_env, server) = start().await;
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
        let Err(error) = server.try_subscribe("x", config).await else { panic!("{config:?} was accepted") };
        let message = error.to_string();
        assert!(message.starts_with("InvalidArgument: ") && message.contains(key), "{config:?}: {message}");
    }
    assert_eq!(server.metric("modelupdate_subscriptions_refused_total", &["InvalidArgument"]).await, 10.0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_server_for_listed_namespaces_watches_and_serves_no_other() {
    let peers = Peers::find().await;
    let allowed = peers.cluster().await.namespace("allowed").await;
    let (env, server) = start_with(|config| config.namespaces = vec![allowed.as_str().into()]).await;
    let Err(error) = server.try_subscribe("x", &env.config()).await else { panic!("it was accepted") };
    assert!(
        error.to_string().starts_with("PermissionDenied: ") && error.to_string().contains("--namespaces"),
        "{error}"
    );
    let mut events = server.subscribe(&format!("kfpNamespace: {allowed}")).await;
    env.push_model("inside").await;
    let workflows = env.cluster.workflows(&allowed).await;
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
    let server = TestServer::start(config).await;
    let writer = store.writer().await;
    let namespace = cluster.namespace("team").await;
    let mut subscribers = Vec::new();
    for n in 0..20 {
        subscribers.push(server.subscribe_as(&format!("s{n}"), &format!("kfpNamespace: {namespace}")).await);
    }
    writer.tfx_run(PIPELINE, "run").await.task(Task::pusher("gs://root/run")).await;
    let workflows = cluster.workflows(&namespace).await;
    workflows.create(NewWorkflow::tfx_v1("run", PIPELINE).phase("Succeeded")).await;
    for events in &mut subscribers {
        assert_eq!(events.next_locations().await, locations(&["run"]));
    }
    assert_eq!(cluster.open_watches("workflows").await, 1);
    let mark_prefix = "published.pipelines.kubeflow.org/";
    eventually(CATCH_UP, "twenty marks", async || workflows.annotations("run", mark_prefix).await.len() == 20).await;
    assert_eq!(server.metric("modelupdate_mlmd_lookups_total", &[]).await, 1.0, "one lookup for all subscriptions");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn list_watch_and_patch_are_the_only_permissions_needed() {
    let peers = Peers::find().await;
    let cluster = peers.cluster().await;
    let namespace = cluster.namespace("server").await;
    let account = cluster.service_account(&namespace, "server").await;
    let rules = vec![rule("argoproj.io", "workflows", &["list", "watch", "patch"])];
    cluster.grant(&account, None, rules).await;
    let token = cluster.token(&account, &[]).await;
    let restricted = cluster.config(&token).await;
    let (env, server) = start_with(|config| config.kubernetes = Some(restricted)).await;
    let mut events = server.subscribe(&env.config()).await;
    env.succeed("run").await;
    assert_eq!(events.next_locations().await, locations(&["run"]));
    env.marked("run", 1).await;
}

/// Then the streams end with the status UNAVAILABLE.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_shutdown_waits_for_the_last_confirmation_and_mark() {
    let (env, server) = start_with(|config| config.confirm_after = Duration::from_millis(700)).await;
    let mut events = server.subscribe(&env.config()).await;
    env.succeed("last").await;
    assert_eq!(events.next_locations().await, locations(&["last"]));
    let ((), end) = tokio::join!(server.stop(), events.end());
    assert_eq!(end.to_string(), "Unavailable: the server is shutting down");
    assert_eq!(env.marks("last").await.len(), 1, "marked before the end");
}
