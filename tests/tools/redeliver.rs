//! `redeliver`, with the server and a subscriber.

use std::time::Duration;

use test_support::{Line, NewWorkflow, PIPELINE};

use super::*;

const PREFIX: &str = "published.pipelines.kubeflow.org/";

fn mark(subscription: &str) -> String {
    format!("{PREFIX}{subscription}")
}

async fn redeliver(env: &TestEnv, arguments: &str) -> harness::Ran {
    let arguments = format!("redeliver -n {} {arguments}", env.namespace);
    Tool::new(&env.cluster.admin_kubeconfig_file(), &arguments.split(' ').collect::<Vec<_>>()).run().await
}

/// The server runs all the time, and the subscriber stays attached.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_is_sent_again_without_a_restart() {
    let env = TestEnv::start(Peers::find().await).await;
    let server = env.start_server(&[], &["--confirm-after=200ms", &format!("--namespaces={}", env.namespace)]).await;
    let config = format!("{}\nsubscription: deployer", env.config());
    let mut events = Peers::find().await.grpc_go_client(server.listen, &config).start();
    assert_eq!(events.next(CATCH_UP).await, Some(Line::Open(true)));
    let uid = env.succeed("run-x").await;
    let first = events.payload(CATCH_UP).await;
    env.marked("run-x", 1).await;

    let unasked = redeliver(&env, "run-x --subscription deployer").await;
    assert_eq!((unasked.code, unasked.stdout.as_str()), (2, ""), "{unasked:?}");
    assert!(unasked.stderr.contains("1 event of 1 run") && unasked.stderr.contains("--yes"), "{unasked:?}");
    let dry = redeliver(&env, "run-x --subscription deployer --dry-run").await;
    assert!(dry.code == 0 && dry.stdout.contains("run-x") && dry.stdout.contains(PIPELINE), "{dry:?}");
    assert_eq!(env.marks("run-x").await.get(&mark("deployer")), Some(&uid), "nothing has changed");

    let done = redeliver(&env, "run-x --subscription deployer --yes --wait --timeout 30s").await;
    assert!(done.code == 0 && done.stdout.contains("delivered"), "{done:?}");
    assert!(done.stderr.contains("run-x was delivered after"), "{done:?}");
    assert_eq!(events.payload(CATCH_UP).await, first);
    assert_eq!(env.marks("run-x").await.get(&mark("deployer")), Some(&uid));

    let nothing = redeliver(&env, "run-x --subscription other --yes").await;
    assert!(nothing.code == 0 && nothing.stderr.contains("Nothing to do"), "{nothing:?}");
    let absent = redeliver(&env, "none --subscription deployer --yes").await;
    assert!(absent.code == 1 && absent.stderr.contains("has no Workflow none"), "{absent:?}");

    // A mark without a delivery: the run is never sent to this subscription.
    let skipped = redeliver(&env, "run-x --subscription other --mark --yes -o name").await;
    assert_eq!((skipped.code, skipped.stdout.as_str()), (0, "workflow.argoproj.io/run-x\n"), "{skipped:?}");
    let config = format!("{}\nsubscription: other", env.config());
    let mut other = Peers::find().await.grpc_go_client(server.listen, &config).start();
    assert_eq!(other.next(CATCH_UP).await, Some(Line::Open(true)));
    env.succeed("next").await;
    assert!(other.payload(CATCH_UP).await.contains("gs://root/next"));
    assert!(events.payload(CATCH_UP).await.contains("gs://root/next"));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_window_contains_scoped_marks_and_marks_in_labels() {
    let env = TestEnv::start(Peers::find().await).await;
    let create = async |name: &str, pipeline: &str, marks: &[&str], in_labels: bool| {
        let new = NewWorkflow::tfx_v1(name, pipeline).phase("Succeeded");
        let uid = env.workflows.create(new).await.metadata.uid.expect("a UID");
        for subscription in marks {
            if in_labels {
                env.workflows.label(name, &mark(subscription), &uid).await;
            } else {
                env.workflows.annotate(name, &mark(subscription), Some(&uid)).await;
            }
        }
    };
    create("annotated", PIPELINE, &["deployer", "deployer.team-a", "other"], false).await;
    create("labelled", PIPELINE, &["deployer"], true).await;
    create("old", PIPELINE, &["deployer"], false).await;
    env.workflows.backdate_end("old", Duration::from_secs(3 * 3600)).await;
    create("iris", "iris", &["deployer"], false).await;
    create("pending", PIPELINE, &["other"], false).await;

    let bulk = "--since 2h --pipeline penguin-* --subscription deployer --yes -o json";
    let done = redeliver(&env, bulk).await;
    assert_eq!(done.code, 0, "{done:?}");
    let json: Value = serde_json::from_str(&done.stdout).expect("JSON");
    let names: Vec<_> = json["runs"].as_array().expect("a list").iter().map(|run| &run["workflow"]).collect();
    assert!(names.len() == 2 && names.iter().all(|name| *name == "annotated" || *name == "labelled"), "{json}");
    assert_eq!((&json["events"], &json["leftOut"][0]["workflow"]), (&json!(2), &json!("pending")), "{json}");
    let marks_of = async |name: &str| {
        let metadata = env.workflows.get(name).await.metadata;
        let all = metadata.annotations.into_iter().chain(metadata.labels).flatten();
        all.map(|(key, _)| key).filter(|key| key.starts_with(PREFIX)).collect::<Vec<_>>()
    };
    assert_eq!(marks_of("annotated").await, [mark("other")]);
    assert!(marks_of("labelled").await.is_empty());
    for name in ["old", "iris"] {
        assert_eq!(marks_of(name).await, [mark("deployer")], "{name}");
    }
    // No server runs: the wait ends, and says so.
    let waited = redeliver(&env, "old --subscription deployer --yes --wait --timeout 1s").await;
    assert!(waited.code == 1 && waited.stderr.contains("Not delivered within 1s: old"), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_missing_right_is_named_and_nothing_changes() {
    let env = TestEnv::start(Peers::find().await).await;
    let new = NewWorkflow::tfx_v1("run-x", PIPELINE).phase("Succeeded");
    let uid = env.workflows.create(new).await.metadata.uid.expect("a UID");
    env.workflows.annotate("run-x", &mark("deployer"), Some(&uid)).await;
    let account = env.cluster.service_account(&env.namespace, "reader").await;
    let user = format!("system:serviceaccount:{}:reader", env.namespace);
    let all = redeliver(&env, &format!("--all --subscription deployer --yes --as {user}")).await;
    assert!(all.code == 1 && all.stderr.contains("cannot list resource \"workflows\""), "{all:?}");
    env.cluster.grant(&account, Some(&env.namespace), vec![rule("argoproj.io", "workflows", &["get"])]).await;
    let one = redeliver(&env, &format!("run-x --subscription deployer --yes --as {user}")).await;
    let right = format!("patch workflows.argoproj.io in the namespace \"{}\"", env.namespace);
    assert!(one.code == 1 && one.stderr.contains(&right), "{one:?}");
    assert_eq!(env.marks("run-x").await.get(&mark("deployer")), Some(&uid));
}

/// The question, and what a terminal shows while the command waits. No server runs.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_terminal_is_asked_and_sees_the_progress() {
    let env = TestEnv::start(Peers::find().await).await;
    let new = NewWorkflow::tfx_v1("run-x", PIPELINE).phase("Succeeded");
    let uid = env.workflows.create(new).await.metadata.uid.expect("a UID");
    env.workflows.annotate("run-x", &mark("deployer"), Some(&uid)).await;
    let namespace = &env.namespace;
    let line = format!("redeliver -n {namespace} run-x --subscription deployer --wait --timeout 1s");
    let start = || {
        let arguments: Vec<_> = line.split(' ').collect();
        Tool::new(&env.cluster.admin_kubeconfig_file(), &arguments).start_on_terminal()
    };
    for answer in ["n\n", "\n", "\u{4}"] {
        let mut asked = start();
        asked.shown("Send again? [y/N]").await;
        assert!(asked.screen().contains("run-x"), "the table precedes the question: {}", asked.screen());
        asked.type_in(answer);
        assert_eq!(asked.ended().await, 0, "{}", asked.screen());
        asked.shown("Nothing was changed.").await;
        assert_eq!(env.marks("run-x").await.get(&mark("deployer")), Some(&uid));
    }
    let mut agreed = start();
    agreed.shown("Send again? [y/N]").await;
    agreed.type_in("y\n");
    agreed.shown("waiting for the delivery of 1 of 1 run").await;
    assert_eq!(agreed.ended().await, 1, "no server delivers it: {}", agreed.screen());
    assert!(env.marks("run-x").await.is_empty());
}
