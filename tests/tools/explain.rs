//! `explain`: situations of a run, against a real API server and a real ML Metadata.

use std::{path::PathBuf, time::Duration};

use futures::future::join_all;
use kube::api::{ApiResource, GroupVersionKind};
use model_update_eventsource::sim::{Model, NewWorkflow, Task};
use test_support::{PIPELINE, TestEnv};

use super::{harness::Ran, *};

/// An address at which nothing listens.
const CLOSED: &str = "127.0.0.1:1";
const MARK: &str = "published.pipelines.kubeflow.org";

/// A namespace with runs and EventSources.
struct Harness {
    env: TestEnv,
    kubeconfig: PathBuf,
}

impl Harness {
    /// Four subscriptions: `deploy` with the defaults, and one for each filter.
    async fn start() -> Self {
        let env = TestEnv::start(Peers::find().await).await;
        env.cluster
            .install_kind(&ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "EventSource")))
            .await;
        let kubeconfig = env.cluster.admin_kubeconfig_file();
        let harness = Self { env, kubeconfig };
        harness.put_event_source("deploy", "").await;
        harness.put_event_source("iris", "pipelines: [\"iris-*\"]").await;
        harness.put_event_source("recent", "maxAge: 30m").await;
        harness.put_event_source("newest", "latestOnly: true").await;
        harness
    }

    async fn put_event_source(&self, name: &str, keys: &str) {
        let config = format!("{}\n{keys}\n", self.env.config());
        let object = json!({
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "EventSource",
            "metadata": {"namespace": self.env.namespace, "name": format!("es-{name}")},
            "spec": {"generic": {name: {"insecure": true, "url": "server:50051", "config": config}}},
        });
        self.env.cluster.apply("tests", &object).await.expect("an EventSource");
    }

    /// A succeeded TFX run with this task.
    async fn succeeded(&self, name: &str, task: Task) {
        let env = &self.env;
        env.workflows.create(NewWorkflow::tfx_v1(name, PIPELINE)).await;
        env.writer.tfx_run(PIPELINE, name).await.task(task).await;
        env.workflows.set_phase(name, "Succeeded").await;
    }

    async fn explain(&self, arguments: &[&str]) -> Ran {
        self.explain_with(&self.env.store.url(), CLOSED, arguments).await
    }

    async fn explain_with(&self, store: &str, admin: &str, arguments: &[&str]) -> Ran {
        let addresses = ["--metadata-store", store, "--admin", admin];
        let arguments = [&["explain", "-n", &*self.env.namespace], &addresses[..], arguments].concat();
        Tool::new(&self.kubeconfig, &arguments).run().await
    }

    /// Explains a run to a subscription. Returns the exit status, the decision, and the whole document.
    async fn story(&self, run: &str, subscription: &str) -> (i32, Value, Value) {
        let ran = self.explain(&[run, "--subscription", subscription, "-o", "json"]).await;
        let story: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        (ran.code, story["subscriptions"][0].clone(), story)
    }

    /// Asserts exit status and reason of a run.
    async fn assert_decided(&self, run: &str, subscription: &str, code: i32, reason: &str) -> Value {
        let (found, decision, story) = self.story(run, subscription).await;
        assert_eq!((found, decision["reason"].as_str()), (code, Some(reason)), "{run}: {story:#}");
        story
    }

    async fn mark(&self, run: &str, subscription: &str) {
        let uid = self.env.workflows.get(run).await.metadata.uid.expect("a UID");
        self.env.workflows.annotate(run, &format!("{MARK}/{subscription}"), Some(&uid)).await;
    }
}

/// The verdicts about the artifacts of a run.
fn verdicts(story: &Value) -> Vec<(&str, bool)> {
    let artifacts = story["artifacts"].as_array().expect("a list").iter();
    artifacts.map(|it| (it["reason"].as_str().expect("text"), it["counts"].as_bool().expect("a flag"))).collect()
}

/// Each needs ML Metadata. The server is down.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_artifacts_of_a_run_are_explained() {
    let harness = Harness::start().await;
    let env = &harness.env;
    let base = env.writer.tfx_run(PIPELINE, "base").await.task(Task::pusher("gs://root/base")).await.artifacts[0];
    let model = |uri| Model::pushed(uri);
    let importer = "tfx.dsl.components.common.importer.Importer";
    harness.succeeded("unblessed", Task::new("Pusher").output(Model::unblessed("gs://root/u"))).await;
    harness.succeeded("read", Task::new("Evaluator").input(Model::existing(base, "baseline_model"))).await;
    harness.succeeded("other-type", Task::new("SchemaGen").output(Model::new("Schema", "schema", "gs://root/s"))).await;
    harness.succeeded("imported", Task::new("Importer").executed_as(importer).output(model("gs://root/i"))).await;
    harness.succeeded("no-uri", Task::new("Pusher").output(model(""))).await;
    harness.succeeded("large", Task::pusher(&format!("gs://root/{}", "x".repeat(600_000)))).await;
    harness.succeeded("again", Task::pusher("gs://root/first")).await;
    env.writer.tfx_run(PIPELINE, "again").await.task(Task::pusher("gs://root/second")).await;
    harness.succeeded("older", Task::new("Notifier")).await;
    let old = env.writer.tfx_run(PIPELINE, "older").await.task(Task::pusher("gs://root/old")).await.execution;
    env.store.backdate(old, Duration::from_secs(24 * 3600));
    let run_id = "55555555-0000-4000-8000-000000000000";
    let foreign = NewWorkflow::named("foreign").run_id(run_id).phase("Succeeded");
    env.writer.kfp_run("taxi", run_id, "another-team").await.task(Task::pusher("gs://root/foreign")).await;
    env.workflows.create(foreign).await;

    let cases = [
        ("unblessed", "no_model", vec![("unblessed", false)]),
        ("read", "no_model", vec![("only_read", false)]),
        ("other-type", "no_model", vec![("other_type", false)]),
        ("imported", "no_model", vec![("importer", false)]),
        ("no-uri", "no_model", vec![("no_uri", false)]),
        ("older", "no_model", vec![("foreign_execution", false)]),
        ("foreign", "foreign_context", vec![]),
        ("large", "too_large", vec![("counts", true)]),
    ];
    join_all(cases.map(async |(run, reason, artifacts)| {
        let story = harness.assert_decided(run, "deploy", 4, reason).await;
        assert_eq!(verdicts(&story), artifacts, "{run}: {story:#}");
        assert_eq!(story["event"], Value::Null, "{run}");
    }))
    .await;
    let story = harness.assert_decided("again", "deploy", 3, "pending").await;
    assert_eq!(verdicts(&story), [("earlier_attempt", false), ("counts", true)]);
    assert_eq!(story["event"]["servingModelArtifacts"][0]["location"], "gs://root/second");
    assert_eq!(story["server"]["reachable"], false);
    assert_eq!(story["subscriptions"][0]["source"], format!("EventSource {}/es-deploy", env.namespace));

    let text = harness.explain(&["again", "--trace-url-template", "https://traces.example/{trace_id}"]).await;
    let uid = env.workflows.get("again").await.metadata.uid.expect("a UID").replace('-', "");
    for expected in
        ["earlier_attempt: ", "gs://root/second", "Next: ", &format!("https://traces.example/{uid}"), "not asked"]
    {
        assert!(text.stdout.contains(expected), "{expected} is missing in\n{}", text.stdout);
    }
}

/// Each is decided by the Workflow, the filters, or the failure of the lookup. The server is down.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_states_of_a_run_are_explained() {
    let harness = Harness::start().await;
    let env = &harness.env;
    env.create_run("running").await;
    env.workflows.set_phase("running", "Running").await;
    env.workflows.create(NewWorkflow::tfx_v1("unknown", PIPELINE).phase("Succeeded")).await;
    env.workflows.create(NewWorkflow::tfx_v1("failed", PIPELINE).phase("Failed")).await;
    env.workflows.create(NewWorkflow::named("no-run").phase("Succeeded")).await;
    for run in ["sent", "old", "new"] {
        env.succeed(run).await;
    }
    harness.mark("sent", "deploy").await;
    env.workflows.backdate_end("old", Duration::from_secs(3600)).await;
    env.workflows.backdate_end("new", Duration::from_secs(1800)).await;
    harness.mark("new", "newest").await;

    let cases = [
        ("sent", "deploy", 0, "delivered"),
        ("running", "deploy", 3, "running"),
        ("unknown", "deploy", 3, "no_context"),
        ("failed", "deploy", 4, "failed"),
        ("no-run", "deploy", 4, "not_selected"),
        ("sent", "iris", 4, "filtered"),
        ("old", "recent", 4, "filtered"),
        ("old", "newest", 4, "superseded"),
        ("old", "deploy", 3, "pending"),
        ("new", "newest", 0, "delivered"),
    ];
    let stories =
        join_all(cases.map(async |(run, subscription, code, reason)| {
            harness.assert_decided(run, subscription, code, reason).await
        }))
        .await;
    let decision = |index: usize| &stories[index]["subscriptions"][0];
    assert!(decision(2)["until"].is_string(), "{}", decision(2));
    assert_eq!((&decision(5)["filter"], &decision(6)["filter"]), (&"pipelines".into(), &"max_age".into()));
    assert!(decision(7)["message"].as_str().expect("text").contains("new, which was delivered"), "{}", decision(7));
    let keys = ["namespace", "workflow", "uid", "runId", "pipelineName", "phase", "finished", "traceId", "event"];
    assert!(keys.iter().all(|key| !stories[0][key].is_null()), "{:#}", stories[0]);
    assert_eq!(stories[0]["marks"][0]["subscription"], "deploy");

    // A superseded run is marked like a delivered one, but later than the newer run ended.
    harness.mark("old", "newest").await;
    harness.assert_decided("old", "newest", 4, "superseded").await;
    // All subscriptions together.
    assert_eq!(harness.explain(&["sent"]).await.code, 3, "`recent` and `newest` are pending");

    let down = harness.explain_with(CLOSED, CLOSED, &["old", "--subscription", "deploy", "-o", "json"]).await;
    assert_eq!(down.code, 3, "{down:?}");
    assert!(down.stdout.contains("\"reason\": \"unavailable\""), "{}", down.stdout);
    let absent = harness.explain(&["absent"]).await;
    assert_eq!((absent.code, &*absent.stdout), (1, ""));
    assert!(absent.stderr.contains("no Workflow \"absent\""), "{}", absent.stderr);
    for wrong in
        [&["x", "-A"][..], &["--watch"], &["-o", "text"], &["--limit", "0"], &["x", "--trace-url-template", "x"]]
    {
        assert_eq!(harness.explain(wrong).await.code, 2, "{wrong:?}");
    }

    let table = harness.explain(&[]).await;
    let lines: Vec<Vec<&str>> = table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((table.code, &lines[0][..]), (0, &["WORKFLOW", "SUBSCRIPTION", "STATUS", "REASON", "AGE"][..]));
    assert_eq!(lines[1][0], "running", "the newest is first\n{}", table.stdout);
    let row = |run, subscription| lines.iter().find(|line| line[0] == run && line[1] == subscription).expect("a row");
    assert_eq!(row("sent", "deploy")[2], "delivered");
    assert_eq!(row("sent", "iris")[2..5], ["never", "filtered", "(pipelines)"]);
    assert_eq!(row("old", "newest")[2..4], ["never", "superseded"], "its mark is younger than the newer run");
    assert_eq!(
        lines.len(),
        1 + 6 * 4,
        "each run by subscription, without the Workflow that is no run\n{}",
        table.stdout
    );
    assert!(table.stderr.contains("the server was not asked"), "{}", table.stderr);
    let names = harness.explain(&["-o", "name", "--limit", "2"]).await;
    assert_eq!(names.stdout.lines().count(), 2, "{}", names.stdout);
    assert!(names.stdout.starts_with("workflow.argoproj.io/running\n"), "{}", names.stdout);
    assert!(names.stderr.contains("4 older runs"), "{}", names.stderr);
    let everywhere = ["explain", "-A", "--limit", "1000", "--metadata-store", CLOSED, "--admin", CLOSED];
    let everywhere = Tool::new(&harness.kubeconfig, &everywhere).run().await;
    assert!(everywhere.stdout.starts_with("NAMESPACE "), "{}", everywhere.stdout);
    let is_sent = |line: &str| line.split_whitespace().take(4).eq([&*env.namespace, "sent", "deploy", "delivered"]);
    assert!(everywhere.stdout.lines().any(is_sent), "{}", everywhere.stdout);
    let yaml = harness.explain(&["sent", "-o", "yaml"]).await;
    assert!(yaml.stdout.contains("workflow: sent"), "{}", yaml.stdout);
}

/// With a server and a subscriber: from pending to delivered.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_is_watched_until_its_event_is_delivered() {
    let harness = Harness::start().await;
    let env = &harness.env;
    let server = env.start_server(&[], &[]).await;
    let admin = server.admin.to_string();
    env.succeed("sent").await;
    let (store, arguments) = (env.store.url(), ["sent", "--subscription", "deploy"]);
    let pending = harness.explain_with(&store, &admin, &[&arguments[..], &["-o", "json"]].concat()).await;
    let story: Value = serde_json::from_str(&pending.stdout).expect("JSON");
    assert_eq!((pending.code, &story["subscriptions"][0]["reason"]), (3, &"pending".into()), "{story:#}");
    let (word, message) = (&story["server"], &story["subscriptions"][0]["message"]);
    assert_eq!(
        (&word["reachable"], &word["ready"], &word["error"]),
        (&true.into(), &true.into(), &Value::Null),
        "{word:#}"
    );
    assert_eq!(message, "no subscriber is connected; the event is sent when one connects");
    let brief = ["--watch", "--timeout", "1s"];
    let still = harness.explain_with(&store, &admin, &[&arguments[..], &brief].concat()).await;
    assert_eq!(still.code, 3);
    assert!(still.stderr.contains("sent: deploy pending: pending\n"), "{}", still.stderr);
    assert!(still.stderr.contains("still pending after 1s"), "{}", still.stderr);

    let wait = ["--watch", "--timeout", "1m", "-o", "json"];
    let wait = [&arguments[..], &wait].concat();
    let watching = harness.explain_with(&store, &admin, &wait);
    let delivering = async {
        let subscriber = Peers::find().await.grpc_go_client(server.listen, &env.config()).name("deploy").start();
        env.marked("sent", 1).await;
        subscriber
    };
    let (watched, mut subscriber) = tokio::join!(watching, delivering);
    let story: Value = serde_json::from_str(&watched.stdout).expect("JSON");
    assert_eq!((watched.code, &story["subscriptions"][0]["reason"]), (0, &"delivered".into()), "{watched:?}");
    let payload: Value = serde_json::from_str(&subscriber.payload(CATCH_UP).await).expect("JSON");
    assert_eq!(story["event"], payload, "the event that was sent");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_missing_right_is_named() {
    let harness = Harness::start().await;
    let env = &harness.env;
    env.succeed("sent").await;
    harness.mark("sent", "deploy").await;
    env.succeed("open").await;
    let account = env.cluster.service_account(&env.namespace, "reader").await;
    let user = account.user();
    let reader = ["--as", user.as_str()];
    let explain = async |arguments: &[&str]| harness.explain(&[&reader[..], arguments].concat()).await;
    let refused = explain(&["sent"]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("cannot get resource \"workflows\""), "{}", refused.stderr);
    let rules = vec![rule("argoproj.io", "workflows", &["get", "list"])];
    env.cluster.grant(&account, Some(&env.namespace), rules).await;
    let ran = explain(&["sent"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("cannot list resource \"eventsources\""), "{}", ran.stderr);
    assert!(ran.stdout.contains("Known from: mark"), "{}", ran.stdout);

    // Without --metadata-store the store is looked for in the cluster, for which a right is missing.
    let arguments = ["explain", "-n", &env.namespace, "open", "--admin", CLOSED];
    let ran = Tool::new(&harness.kubeconfig, &[&arguments[..], &reader].concat()).run().await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("cannot get resource \"services\""), "{}", ran.stderr);
}
