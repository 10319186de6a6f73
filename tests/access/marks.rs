//! Marks of scoped subscriptions, and of those before tokens were required.

use model_update_eventsource::model::workflow::MARK_PREFIX;
use test_support::{Peers, RunningServer, ServiceAccount, TestEnv, rule};

use crate::{
    config,
    subscriber::{next, subscribe},
};

/// Creates an account in a namespace with the right to the runs of the environment, and returns its token.
async fn token(env: &TestEnv, namespace: &str) -> String {
    let account: ServiceAccount = env.cluster.service_account(namespace, "events").await;
    let rules = vec![rule("argoproj.io", "workflows", &["subscribe"])];
    env.cluster.grant(&account, Some(&env.namespace), rules).await;
    env.cluster.token(&account, &[]).await
}

/// The subscriptions that have marked a run.
async fn marked_by(env: &TestEnv, run: &str, count: usize) -> Vec<String> {
    env.marked(run, count).await;
    env.marks(run).await.keys().map(|key| key.strip_prefix(MARK_PREFIX).unwrap().to_owned()).collect()
}

/// Accounts of two namespaces with the same name of a subscription do not take each other's events.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn accounts_of_two_namespaces_have_separate_deliveries() {
    let env = TestEnv::start(Peers::find().await).await;
    let other = env.cluster.namespace("other").await;
    let server = env.start_server(&[], &["--auth=token"]).await;
    let config = config(&env.namespace);
    let mut streams = Vec::new();
    for namespace in [&env.namespace, &other] {
        let token = token(&env, namespace).await;
        streams.push(subscribe(server.listen, Some(&token), &config).await.unwrap());
    }
    env.succeed("run").await;
    for events in &mut streams {
        assert!(next(events).await.contains("gs://root/run"));
    }
    let mut expected = [format!("deploy.{}", env.namespace), format!("deploy.{other}")];
    expected.sort();
    assert_eq!(marked_by(&env, "run", 2).await, expected);
}

/// From `none` over `audit` to `token`, each run is sent once: marks from before count, and the first event in each mode
/// is that of the next run.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn switching_tokens_on_repeats_no_event() {
    let env = TestEnv::start(Peers::find().await).await;
    let token = token(&env, &env.namespace).await;
    let config = config(&env.namespace);
    let scoped = format!("deploy.{}", env.namespace);
    for (run, mode, name) in [
        ("run-1", "none", "deploy"),
        ("run-2", "audit", "deploy"),
        ("run-3", "token", &*scoped),
        ("run-4", "token", &scoped),
    ] {
        let server: RunningServer = env.start_server(&[], &[&format!("--auth={mode}")]).await;
        let mut events = subscribe(server.listen, Some(&token), &config).await.unwrap();
        env.succeed(run).await;
        let payload = next(&mut events).await;
        assert!(payload.contains(&format!("gs://root/{run}")), "instead of {run}, with the mode {mode}: {payload}");
        assert_eq!(marked_by(&env, run, 1).await, [name]);
        server.stop().await;
    }
    for (run, name) in [("run-1", "deploy"), ("run-2", "deploy"), ("run-3", &*scoped)] {
        assert_eq!(marked_by(&env, run, 1).await, [name]);
    }
}
