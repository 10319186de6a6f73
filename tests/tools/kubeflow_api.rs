//! `explain` and `check` with Kubeflow's own API as the source of models, against a real API server and the test server of
//! Kubeflow's API (docs/kfp-test-server.md).

use std::path::{Path, PathBuf};

use futures::future::join_all;
use k8s_openapi::api::core::v1 as api;
use kube::{Api, api::PostParams};
use model_update_eventsource::sim::NewWorkflow;
use tempfile::TempDir;
use test_support::{KfpArtifact, KfpFault, KfpRun, KfpServer, KfpTask, KfpUser, TaskKind, TaskState, TestEnv, Users};
use tokio::net::TcpListener;
use tonic::Code;

use super::{harness::Ran, kubelet::Pod, *};

const TOKEN: &str = "the-token-of-a-person";
const CLOSED: &str = "127.0.0.1:1";

/// A namespace with runs that Kubeflow's API knows, for several users.
struct Harness {
    env: TestEnv,
    kfp: KfpServer,
    kubeconfig: PathBuf,
    folder: TempDir,
}

impl Harness {
    async fn start() -> Self {
        let env = TestEnv::start(Peers::find().await).await;
        let users = [(TOKEN, &*env.namespace), ("of another namespace", "team-b")];
        let users =
            users.map(|(token, namespace)| KfpUser { token: token.to_owned(), namespaces: vec![namespace.to_owned()] });
        let kfp = KfpServer::start_for(Users::Many(users.into()), None).await;
        let kubeconfig = env.cluster.admin_kubeconfig_file();
        Self { env, kfp, kubeconfig, folder: tempfile::tempdir().unwrap() }
    }

    /// The file of a token.
    fn token(&self, token: &str) -> String {
        let path = self.folder.path().join(token.replace(' ', "-"));
        // Commands that run at the same time read it.
        if !path.exists() {
            std::fs::write(&path, token).unwrap();
        }
        path.to_str().unwrap().to_owned()
    }

    /// The Workflow of a succeeded run, whose run id is its name.
    async fn workflow(&self, name: &str) {
        self.env.workflows.create(NewWorkflow::named(name).run_id(name).phase("Succeeded")).await;
    }

    /// A succeeded run that Kubeflow knows, with these tasks.
    async fn succeeded(&self, name: &str, tasks: Vec<KfpTask>) {
        self.kfp.put_run(&KfpRun::new(name, &self.env.namespace, "taxi"));
        for task in tasks {
            self.kfp.put_task(name, task);
        }
        self.workflow(name).await;
    }

    async fn tool(&self, command: &str, arguments: &[&str]) -> Ran {
        let arguments = [&[command, "-n", &self.env.namespace, "--admin", CLOSED], arguments].concat();
        Tool::new(&self.kubeconfig, &arguments).run().await
    }

    /// Explains a run with this token. Returns the exit status and the document.
    async fn story(&self, run: &str, token: &str) -> (i32, Value) {
        let (kfp, store, token) = (self.kfp.url(), self.env.store.url(), self.token(token));
        let sources = ["--kfp-api", &kfp, "--metadata-store", &store, "--kfp-token-file", &token];
        let ran = self.tool("explain", &[&[run, "-o", "json"], &sources[..]].concat()).await;
        let story = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        (ran.code, story)
    }

    /// The checks of Kubeflow's API and of ML Metadata: descriptions with their outcomes, errors and hints.
    async fn checks(&self, arguments: &[&str]) -> Vec<(String, Value)> {
        let ran = self.tool("check", &[&["-o", "json"], arguments].concat()).await;
        let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        let categories = report["categories"].as_array().unwrap().iter();
        let ours =
            categories.filter(|it| ["kubeflow-api", "ml-metadata"].iter().any(|name| it["categoryName"] == *name));
        let checks = ours.flat_map(|category| category["checks"].as_array().unwrap());
        checks.map(|check| (check["description"].as_str().unwrap().to_owned(), check.clone())).collect()
    }

    async fn assert_check(&self, arguments: &[&str], description: &str, result: &str, words: &str) {
        let checks = self.checks(arguments).await;
        let found = checks.iter().find(|(found, _)| found.contains(description));
        let (_, check) = found.unwrap_or_else(|| panic!("no {description:?} with {arguments:?} in {checks:#?}"));
        let text = format!("{} {}", check["error"].as_str().unwrap_or(""), check["hint"].as_str().unwrap_or(""));
        assert!(check["result"] == result && text.contains(words), "{arguments:?}: {result} {words}: {check:#}");
    }
}

fn push(artifact: KfpArtifact) -> KfpTask {
    KfpTask::new("push").output(artifact)
}

fn pushed(uri: &str) -> KfpArtifact {
    KfpArtifact::pushed(uri)
}

fn verdicts(story: &Value) -> Vec<&str> {
    story["artifacts"].as_array().unwrap().iter().map(|it| it["reason"].as_str().unwrap()).collect()
}

/// The server is down, and one run is recorded in ML Metadata only: Kubeflow was upgraded.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn runs_of_kubeflows_api_are_explained() {
    let harness = Harness::start().await;
    let importer = KfpTask::container(TaskKind::Importer, "", "import").output(pushed("gs://imported"));
    harness.kfp.put_run(&KfpRun { pipeline: None, ..KfpRun::new("base", &harness.env.namespace, "") });
    harness.kfp.put_task("base", push(pushed("gs://base").with_id("of-base")));
    let foreign = KfpArtifact { namespace: Some("another-team".to_owned()), ..pushed("gs://foreign") };
    let broken = push(pushed("gs://broken")).state(TaskState::Failed);
    let running = push(pushed("gs://running")).state(TaskState::Running);
    for (run, task) in [
        ("unblessed", push(pushed("gs://u").metadata("pushed", 0))),
        ("not-pushed", push(KfpArtifact::new("system.Model", "model", "gs://n"))),
        ("other-type", push(KfpArtifact::new("system.Dataset", "data", "gs://d"))),
        ("no-uri", push(pushed(""))),
        ("read", KfpTask::new("evaluate").input(KfpArtifact::existing("of-base", "baseline"))),
        ("imported", importer),
        ("broken", broken),
        ("foreign", push(foreign)),
        ("running", running),
    ] {
        harness.succeeded(run, vec![task]).await;
    }
    harness.succeeded("again", vec![push(pushed("gs://first")).aged(60), push(pushed("gs://second"))]).await;
    harness.workflow("unknown").await;
    harness.env.succeed("before").await;

    let cases = [
        ("unblessed", 4, "no_model", vec!["unblessed"]),
        ("not-pushed", 4, "no_model", vec!["not_pushed"]),
        ("other-type", 4, "no_model", vec!["other_type"]),
        ("no-uri", 4, "no_model", vec!["no_uri"]),
        ("read", 4, "no_model", vec!["only_read"]),
        ("imported", 4, "no_model", vec!["importer"]),
        ("broken", 4, "no_model", vec!["not_succeeded"]),
        ("foreign", 4, "foreign_context", vec!["foreign_namespace"]),
        ("running", 3, "unfinished", vec!["unfinished"]),
        ("again", 3, "pending", vec!["earlier_attempt", "counts"]),
    ];
    let stories = join_all(cases.map(async |(run, code, reason, artifacts)| {
        let (found, story) = harness.story(run, TOKEN).await;
        let decision = &story["subscriptions"][0];
        assert_eq!((found, decision["reason"].as_str()), (code, Some(reason)), "{run}: {story:#}");
        assert_eq!((verdicts(&story), &story["modelSource"]), (artifacts, &"kfp".into()), "{run}: {story:#}");
        assert_eq!((&story["record"]["kind"], &story["record"]["name"]), (&"run".into(), &run.into()), "{story:#}");
        story
    }));
    let stories = stories.await;
    let again = &stories[9];
    assert_eq!(again["event"]["servingModelArtifacts"][0]["location"], "gs://second");
    assert_eq!((&again["pipelineName"], &again["artifacts"][1]["node"]), (&"taxi".into(), &"push".into()), "{again:#}");
    assert!(stories[8]["subscriptions"][0]["until"].is_string(), "{:#}", stories[8]);

    // What Kubeflow's API leaves open, ML Metadata decides.
    for (run, reason) in [("before", "pending"), ("unknown", "no_context")] {
        let (code, story) = harness.story(run, TOKEN).await;
        let found = (code, story["subscriptions"][0]["reason"].as_str(), story["modelSource"].as_str());
        assert_eq!(found, (3, Some(reason), Some("mlmd")), "{story:#}");
    }
    for (token, reason) in [("nobody", "unauthenticated"), ("of another namespace", "permission_denied")] {
        let (code, story) = harness.story("again", token).await;
        assert_eq!((code, story["subscriptions"][0]["reason"].as_str()), (3, Some(reason)), "{story:#}");
        assert!(story["subscriptions"][0]["message"].as_str().unwrap().starts_with("Kubeflow's API cannot be asked"));
    }
    harness.kfp.set_has_tasks(false);
    let (code, story) = harness.story("before", TOKEN).await;
    assert_eq!((code, &story["modelSource"]), (3, &"mlmd".into()), "{story:#}");
    harness.kfp.set_has_tasks(true);

    let (kfp, token) = (harness.kfp.url(), harness.token(TOKEN));
    let only = ["--artifacts", "kfp", "--kfp-api", &kfp, "--kfp-token-file", &token];
    let text = harness.tool("explain", &[&["again"], &only[..]].concat()).await;
    let record = format!("Models from: Kubeflow's API, run again (namespace {})", harness.env.namespace);
    for expected in [&*record, "earlier_attempt: ", "gs://second"] {
        assert!(text.stdout.contains(expected), "{expected} is missing in\n{}", text.stdout);
    }
    let table = harness.tool("explain", &[&["-o", "wide"], &only[..]].concat()).await;
    let row = table.stdout.lines().find(|line| line.starts_with("unblessed ")).unwrap_or_default();
    assert!(row.contains(" no_model ") && row.contains(" kfp "), "{}", table.stdout);
    let missing = ["--kfp-api", &kfp, "--kfp-token-file", "/does/not/exist"];
    let ran = harness.tool("explain", &[&["again"], &missing[..]].concat()).await;
    assert!(ran.code == 1 && ran.stderr.contains("cannot read --kfp-token-file /does/not/exist"), "{ran:?}");
}

/// With given addresses, and by a port-forward of its own.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn kubeflows_api_is_checked_and_found() {
    let harness = Harness::start().await;
    harness.succeeded("known", vec![push(pushed("gs://known"))]).await;
    let (kfp, store, token) = (harness.kfp.url(), harness.env.store.url(), harness.token(TOKEN));
    let given = ["--kfp-api", &kfp, "--metadata-store", &store];
    let with = |token: &str| {
        let path = if Path::new(token).is_absolute() { token.to_owned() } else { harness.token(token) };
        [&given.map(str::to_owned)[..], &["--kfp-token-file".to_owned(), path]].concat()
    };
    let accepted = format!("accepts the token for runs of {}", harness.env.namespace);
    for (arguments, description, result, words) in [
        (with(&token), "Kubeflow's API answers", "success", ""),
        (with(&token), "it knows tasks", "success", ""),
        (with(&token), &accepted, "success", ""),
        (with(&token), "models come from Kubeflow's API, those of runs that it does not know", "success", ""),
        (with("nobody"), &accepted, "error", "audience pipelines.kubeflow.org"),
        (with("of another namespace"), &accepted, "error", "needs get on runs.pipelines.kubeflow.org"),
        (with("/does/not/exist"), "accepts the token", "error", "/does/not/exist"),
        (given.map(str::to_owned).into(), &accepted, "warning", "--kfp-token-file"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        harness.assert_check(&arguments, description, result, words).await;
    }
    let only_mlmd = ["--metadata-store", &store];
    harness.assert_check(&only_mlmd, "models come from ML Metadata: --metadata-store is given", "success", "").await;
    let closed = ["--kfp-api", CLOSED, "--metadata-store", &store];
    harness.assert_check(&closed, "Kubeflow's API answers", "error", "nothing listens there").await;
    let page = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = page.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(page, axum::Router::new()).await });
    let web = ["--kfp-api", &address, "--metadata-store", &store];
    harness.assert_check(&web, "Kubeflow's API answers", "error", "").await;
    // New runs need no ML Metadata.
    let without = ["--kfp-api", &kfp, "--kfp-token-file", &token, "--metadata-store", CLOSED];
    harness.assert_check(&without, "ML Metadata answers", "warning", "only runs from before the upgrade").await;
    harness.kfp.set_fault("ListTasks", Some(KfpFault::Status(Code::Unavailable)));
    harness.assert_check(&given, "Kubeflow's API answers", "error", "injected").await;
    harness.kfp.set_fault("ListTasks", None);
    harness.kfp.set_has_tasks(false);
    let old = "models come from ML Metadata: this version of Kubeflow Pipelines keeps its runs there";
    harness.assert_check(&given, old, "success", "").await;
    let only_kfp = ["--kfp-api", &kfp, "--artifacts", "kfp"];
    harness.assert_check(&only_kfp, "it knows tasks", "error", "--artifacts auto or mlmd").await;
    harness.kfp.set_has_tasks(true);

    harness.assert_check(&[], "models come from ML Metadata: the cluster has no Service", "success", "").await;
    let cluster = &harness.env.cluster;
    cluster.create_namespace("kubeflow").await;
    let labels = json!({"app": "ml-pipeline"});
    let ports = vec![("http", 8888, harness.kfp.address), ("grpc", 8887, harness.kfp.address)];
    let service = json!({
        "metadata": {"name": "ml-pipeline"},
        "spec": {"selector": labels, "ports": [
            {"name": "http", "port": 8888, "targetPort": 8888}, {"name": "grpc", "port": 8887, "targetPort": 8887},
        ]},
    });
    let services: Api<api::Service> = Api::namespaced(cluster.client().await, "kubeflow");
    services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    harness.assert_check(&[], "Kubeflow's API answers", "warning", "no ready Pod of Kubeflow's API").await;
    Pod { namespace: "kubeflow", name: "ml-pipeline-0", labels, ports }.start(cluster).await;
    let found = ["--kfp-token-file", &token];
    harness
        .assert_check(&found, "Kubeflow's API answers at Pod kubeflow/ml-pipeline-0, port 8887", "success", "")
        .await;
    let ran = harness.tool("explain", &[&["known", "-o", "json"], &found[..]].concat()).await;
    let story: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    assert_eq!((ran.code, &story["modelSource"], verdicts(&story)), (3, &"kfp".into(), vec!["counts"]), "{story:#}");
}
