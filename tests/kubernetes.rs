//! The Kubernetes adapter against a real API server: marks, records, selectors, and the memory that a list costs.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{fs, sync::Arc};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use model_update_eventsource::{
    delivery::{MarkChange, MarkError, MarkPatch, MarkPlace, Marker as _},
    k8s::{self, KubernetesMetrics, PatchMarker, Watches, check_selector},
    model::{Mark, Phase, RunOutcome, SubscriptionName, SubscriptionsInUse, Uid, workflow::MARK_PREFIX},
    readiness::Readiness,
    store::{Scope, Store},
    telemetry::LimitHits,
};
use prometheus_client::registry::Registry;
use serde_json::json;
use test_support::{
    Cluster, Line, NewWorkflow, Peers, RunningServer, SOON, ServerProcess, Task, Workflows, eventually, report, rule,
};

/// The API server's limit for all annotations of an object.
const ANNOTATIONS: usize = 262_144;

async fn client(cluster: &Cluster) -> k8s::Client {
    k8s::Client::new(cluster.admin_config().await, KubernetesMetrics::new(&mut Registry::default())).unwrap()
}

fn mark(name: &str, outcome: RunOutcome) -> Mark {
    Mark { subscription: SubscriptionName::new(name).unwrap(), outcome }
}

fn key(name: &str) -> String {
    format!("{MARK_PREFIX}{name}")
}

/// A Workflow, and patches of its marks.
struct Marked {
    workflows: Workflows,
    marker: PatchMarker,
    namespace: Arc<str>,
    uid: Uid,
}

impl Marked {
    /// Creates the Workflow `run` with annotations of this size.
    async fn create(cluster: &Cluster, annotations: usize) -> Self {
        let namespace = cluster.namespace("marks").await;
        let workflows = cluster.workflows(&namespace).await;
        // The limit counts keys and values.
        let filler = "x".repeat(annotations.saturating_sub("filler".len()));
        let created = workflows.create(NewWorkflow::named("run").annotation("filler", &filler)).await;
        let uid = Uid::parse(&created.uid().unwrap()).unwrap();
        Self { workflows, marker: PatchMarker::new(client(cluster).await), namespace: namespace.into(), uid }
    }

    async fn set(&self, mark: &Mark, place: MarkPlace) -> Result<(), MarkError> {
        self.patch(MarkChange::Set(vec![mark.clone()]), place).await
    }

    async fn patch(&self, change: MarkChange, place: MarkPlace) -> Result<(), MarkError> {
        let (namespace, uid) = (self.namespace.clone(), self.uid);
        self.marker.patch(&MarkPatch { namespace, name: "run".into(), uid, change, place }).await
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn full_annotations_have_no_room_and_a_label_has() {
    let cluster = Peers::find().await.cluster().await;
    let mark_size = key("deploy").len() + Mark::value(Uid::from(0), RunOutcome::Succeeded).len();
    let room = Marked::create(&cluster, ANNOTATIONS - mark_size).await;
    let (succeeded, failed) = (mark("deploy", RunOutcome::Succeeded), mark("deploy", RunOutcome::Failed));
    assert_eq!(room.set(&succeeded, MarkPlace::Annotation).await, Ok(()), "it just fits");
    assert_eq!(room.set(&failed, MarkPlace::Annotation).await, Err(MarkError::NoRoom), "its value is longer");

    let full = Marked::create(&cluster, ANNOTATIONS - mark_size + 1).await;
    assert_eq!(full.set(&succeeded, MarkPlace::Annotation).await, Err(MarkError::NoRoom));
    for mark in [succeeded, failed] {
        assert_eq!(full.set(&mark, MarkPlace::Label).await, Ok(()));
        let value = Mark::value(full.uid, mark.outcome);
        assert_eq!(full.workflows.get("run").await.labels().get(&key("deploy")), Some(&value));
    }
    let resource_version = full.workflows.get("run").await.resource_version().unwrap().into();
    let subscriptions = vec![SubscriptionName::new("deploy").unwrap(), SubscriptionName::new("absent").unwrap()];
    let remove = MarkChange::Remove { subscriptions, resource_version };
    assert_eq!(full.patch(remove.clone(), MarkPlace::Annotation).await, Ok(()));
    assert!(!full.workflows.get("run").await.labels().contains_key(&key("deploy")));
    assert_eq!(full.patch(remove, MarkPlace::Annotation).await, Err(MarkError::Conflict));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn only_a_workflow_that_is_not_there_is_gone() {
    let cluster = Peers::find().await.private_cluster().await;
    let run = Marked::create(&cluster, 0).await;
    let mark = mark("deploy", RunOutcome::Succeeded);
    assert_eq!(run.set(&mark, MarkPlace::Annotation).await, Ok(()));
    run.workflows.delete("run").await;
    assert_eq!(run.set(&mark, MarkPlace::Annotation).await, Err(MarkError::Gone));
    run.workflows.create(NewWorkflow::named("run")).await;
    assert_eq!(run.set(&mark, MarkPlace::Annotation).await, Err(MarkError::Gone), "another of its name");

    // Without the definition of the kind the API server answers 404 as well, but knows nothing of Workflows.
    let definitions = Api::<CustomResourceDefinition>::all(cluster.client().await);
    definitions.delete("workflows.argoproj.io", &DeleteParams::default()).await.unwrap();
    let error = eventually(SOON, "Workflows are not served", async || {
        let result = run.set(&mark, MarkPlace::Annotation).await;
        result.err().filter(|error| *error != MarkError::Gone)
    })
    .await;
    assert!(matches!(&error, MarkError::Transient { message } if message.contains("404")), "{error:?}");
}

/// Watches all namespaces, until it is dropped.
struct Watched(Arc<Store>, tokio::task::JoinHandle<()>);

impl Watched {
    async fn start(cluster: &Cluster) -> Self {
        let store = Arc::<Store>::default();
        let (readiness, limits) = (Readiness::default(), LimitHits::default());
        let in_use = SubscriptionsInUse::default();
        let watches = Watches::new(client(cluster).await, String::new(), store.clone(), readiness, in_use, limits);
        Self(store, tokio::spawn(watches.watch(Scope::All).run()))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.abort();
    }
}

/// Argo's controller writes the phase as its own field manager, and others change the Workflow later.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_record_knows_when_its_run_finished() {
    let cluster = Peers::find().await.cluster().await;
    let namespace = cluster.namespace("finished").await;
    let workflows = cluster.workflows(&namespace).await;
    let watched = Watched::start(&cluster).await;
    workflows.create(NewWorkflow::tfx_v1("run", "penguin").phase("Running")).await;
    let as_manager = async |manager: &str, patch: serde_json::Value| {
        let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
        workflows.api().patch("run", &params, &Patch::Merge(&patch)).await.unwrap()
    };
    let labels = json!({"workflows.argoproj.io/phase": "Succeeded", "workflows.argoproj.io/completed": "true"});
    let succeeded = json!({"metadata": {"labels": labels}, "status": {"phase": "Succeeded"}});
    let controlled = as_manager("workflow-controller", succeeded).await;
    let time = |run: &DynamicObject, manager: &str| {
        let entry = run.managed_fields().iter().find(|entry| entry.manager.as_deref() == Some(manager));
        entry.unwrap().time.as_ref().unwrap().0.as_second()
    };
    let finished = time(&controlled, "workflow-controller");
    eventually(SOON, "a later second", async || {
        let note = rand::random::<u32>().to_string();
        let patch = json!({"metadata": {"annotations": {"note": note}, "labels": {"team": note}}});
        time(&as_manager("kubectl", patch).await, "kubectl") > finished
    })
    .await;
    as_manager("ours", json!({"metadata": {"annotations": {key("late"): controlled.uid()}}})).await;
    let record = eventually(SOON, "the mark", async || {
        watched.0.get(&namespace, "run").filter(|record| !record.marks.is_empty())
    })
    .await;
    assert_eq!((record.phase, record.finished), (Phase::Succeeded, finished));
}

/// The selectors of this test are sent to the API server, which has its own parser.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn selectors_are_checked_as_the_api_server_does() {
    let cluster = Peers::find().await.cluster().await;
    let workflows = cluster.workflows(&cluster.namespace("selectors").await).await;
    let (name, prefix) = ("x".repeat(63), "x".repeat(253));
    let long = [
        format!("{name}/{name}={name}"),
        format!("{prefix}/a"),
        format!("x{prefix}/a"),
        format!("x{name}"),
        format!("a=x{name}"),
        format!("a in (x{name})"),
    ];
    let short = [
        "pipeline/runid",
        "!a",
        "! a",
        "a,!b,c",
        "a=b",
        "a==b",
        " a != b ",
        "a=",
        "a=,b",
        "a in (b)",
        "a in(b,c),d",
        "a notin ( b , c )",
        "a in (,)",
        "a in (,b,,c,)",
        "a in (b,)",
        "a>7",
        "a < 7",
        "in",
        "notin",
        "notin in (in,notin)",
        "in=notin",
        "A_b.c-9=Z",
        "example.com/a=b",
        "a b",
        "a,",
        ",a",
        ",",
        "!",
        "!!a",
        "!a=b",
        "a=b=c",
        "a=b c",
        "a===b",
        "a=!b",
        "a!b",
        "a in b",
        "a in ()",
        "a in (b",
        "a in (b c)",
        "a in (b))",
        "a in (b,,)",
        "a in (=)",
        "a in",
        "a notin",
        "a>",
        "a>,b",
        "a>b",
        "a>9223372036854775807",
        "a>9223372036854775808",
        "a<-7",
        "a>+7",
        "=b",
        "(a)",
        "-a",
        "a/",
        "/a",
        "a/b/c",
        "A.com/a",
        "a..b/a",
        "a.-b/a",
        "é",
        "a=é",
        "a=-",
        "a=.b",
        "a in (é)",
        "a\tin\n(b)",
        "a;b",
        "a=b;c",
        "'a'",
        "a in (in)",
        "a=in",
        "a=notin,b",
        "in in (b)",
        "!in",
        "a <= 7",
        "a => 7",
        "a=>7",
        "a>=7",
    ];
    let mut different = Vec::new();
    for selector in short.iter().map(|selector| (*selector).to_owned()).chain(long) {
        let answer = workflows.api().list_metadata(&ListParams::default().labels(&selector)).await;
        let accepted = match &answer {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if status.code == 400 => false,
            Err(error) => panic!("{selector:?}: {error}"),
        };
        let checked = check_selector(&selector);
        if checked.is_ok() != accepted {
            different.push(format!("{selector:?}: {checked:?}, and the API server: {:?}", answer.err()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Kubeflow Pipelines 2.0 to 2.2 writes component specs into annotations, up to their limit.
const LARGE: usize = 300;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_page_of_large_workflows_is_not_held_in_memory() {
    let peers = Peers::find().await;
    let (cluster, store) = (peers.private_cluster().await, peers.metadata_store().await);
    let workflows = cluster.workflows(&cluster.namespace("large").await).await;
    let kubeconfig = cluster.admin_kubeconfig_file();
    let empty = ServerProcess::start(&kubeconfig, &store.url(), &[]).listening().await;
    empty.ready().await;
    let baseline = peak_kib(&empty);
    let component = "x".repeat(250_000);
    for number in 0..LARGE {
        let run = NewWorkflow::tfx_v1(&format!("run-{number}"), "penguin").phase("Failed");
        workflows.create(run.annotation("pipelines.kubeflow.org/component", &component)).await;
    }
    empty.metric_is("modelupdate_workflows", &[], LARGE as f64).await;
    let watched = peak_kib(&empty);
    let server = ServerProcess::start(&kubeconfig, &store.url(), &[]).listening().await;
    server.ready().await;
    let listed = peak_kib(&server);
    server.metric_is("modelupdate_workflows", &[], LARGE as f64).await;
    report(format_args!(
        "{LARGE} Workflows with annotations of 250 KB: peak {baseline} KiB without, {watched} KiB after watching them, \
         {listed} KiB after listing them"
    ));
    for peak in [watched, listed] {
        assert!(peak < baseline + 16 * 1024, "{peak} KiB");
    }
    // Two pages: after the first, the next has half as many Workflows.
    assert_eq!(server.metric("modelupdate_limit_hits_total", &["limit=\"list_page\""]).await, 2.0);
}

/// The peak of the resident memory.
fn peak_kib(server: &RunningServer) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A tenant deletes the RoleBinding in its namespace, and then the namespace: before and after a restart the other tenant
/// is served. The first one's streams wait, and are served when it is back.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_namespace_without_rights_does_not_affect_another() {
    let peers = Peers::find().await;
    let (cluster, store) = (peers.private_cluster().await, peers.metadata_store().await);
    let (a, b) = (cluster.namespace("team-a").await, cluster.namespace("team-b").await);
    let account = cluster.service_account(&a, "server").await;
    let rights = || vec![rule("argoproj.io", "workflows", &["list", "watch", "patch"])];
    cluster.grant(&account, Some(&a), rights()).await;
    let grant = cluster.grant(&account, Some(&b), rights()).await;
    let kubeconfig = cluster.kubeconfig_file(&cluster.token(&account, &[]).await);
    let flags = format!("--namespaces={a},{b}");
    let writer = store.writer().await;
    let succeed = async |namespace: &str, name: &str| {
        writer.tfx_run("penguin", name).await.task(Task::pusher(&format!("gs://root/{name}"))).await;
        let run = NewWorkflow::tfx_v1(name, "penguin").phase("Succeeded");
        cluster.workflows(namespace).await.create(run).await;
    };
    let is_marked = async |namespace: &str, name: &str| {
        let workflows = cluster.workflows(namespace).await;
        eventually(SOON, "a mark", async || workflows.annotations(name, MARK_PREFIX).await.len() == 1).await;
    };
    let subscribe = |server: &RunningServer, team: &str| {
        peers.grpc_go_client(server.listen, &format!("kfpNamespace: {team}")).start()
    };
    let is_up = async |server: &RunningServer, team: &str, up: f64| {
        server.metric_is("modelupdate_watch_scope_up", &[&format!("namespace=\"{team}\"")], up).await;
    };

    let server = ServerProcess::start(&kubeconfig, &store.url(), &[&flags]).listening().await;
    server.ready().await;
    is_up(&server, &b, 1.0).await;
    let (mut events_a, mut events_b) = (subscribe(&server, &a), subscribe(&server, &b));
    for events in [&mut events_a, &mut events_b] {
        assert_eq!(events.next(SOON).await, Some(Line::Open(true)));
    }
    cluster.revoke(grant).await;
    is_up(&server, &b, 0.0).await;
    succeed(&b, "b-without-rights").await;
    succeed(&a, "a-beside").await;
    assert!(events_a.payload(SOON).await.contains("gs://root/a-beside"));
    is_up(&server, &a, 1.0).await;
    assert!(server.get("/readyz").await.is_ok());
    is_marked(&a, "a-beside").await;
    let grant = cluster.grant(&account, Some(&b), rights()).await;
    assert!(events_b.payload(SOON).await.contains("gs://root/b-without-rights"));
    is_marked(&b, "b-without-rights").await;
    cluster.revoke(grant).await;
    drop((server, events_a, events_b));

    cluster.workflows(&b).await.delete("b-without-rights").await;
    cluster.delete_namespace(&b).await;
    let server = ServerProcess::start(&kubeconfig, &store.url(), &[&flags]).listening().await;
    server.ready().await;
    let page = server.get("/readyz").await.unwrap();
    let problem =
        page.strip_prefix(&format!("ok\nwatch of namespace {b}: the first list of Workflows is not complete: "));
    assert!(problem.is_some_and(|reason| reason.contains("forbidden") && reason.lines().count() == 1), "{page}");
    let (mut events_a, mut events_b) = (subscribe(&server, &a), subscribe(&server, &b));
    succeed(&a, "a-after-the-restart").await;
    assert!(events_a.payload(SOON).await.contains("gs://root/a-after-the-restart"));
    is_up(&server, &b, 0.0).await;
    assert_eq!(events_b.next(SOON).await, Some(Line::Open(true)));
    assert_eq!(events_b.buffered(), [], "the stream of the other namespace waits");

    cluster.create_namespace(&b).await;
    succeed(&b, "b-is-back").await;
    cluster.grant(&account, Some(&b), rights()).await;
    assert!(events_b.payload(SOON).await.contains("gs://root/b-is-back"));
    is_up(&server, &b, 1.0).await;
    assert_eq!(server.get("/readyz").await.unwrap(), "ok\n");
}
