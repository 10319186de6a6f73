//! The way from a Workflow to its event, as a real Jaeger shows it.

use serde_json::Value;
use test_support::{
    Cluster, Jaeger, MetadataStore, Model, NewWorkflow, Peers, RunningServer, SOON, ServerProcess, Task, Workflows,
    eventually,
};

const PIPELINE: &str = "penguin-pipeline";
const SERVICE: &str = "model-update-eventsource";
/// The span of a stream, and of a refused one.
const STREAM: &str = "generic.Eventing/StartEventSource";

struct World {
    peers: Peers,
    cluster: test_support::SharedCluster,
    store: MetadataStore,
    jaeger: Jaeger,
    namespace: String,
    workflows: Workflows,
}

impl World {
    async fn start() -> Self {
        let peers = Peers::with(&["jaeger"]).await;
        let cluster = peers.cluster().await;
        let store = peers.metadata_store().await;
        let jaeger = peers.jaeger().await;
        let namespace = cluster.namespace("team").await;
        let workflows = cluster.workflows(&namespace).await;
        Self { peers, cluster, store, jaeger, namespace, workflows }
    }

    /// A server that sends its traces to Jaeger, over HTTP or gRPC.
    async fn serve(&self, protocol: &str, more: &[&str]) -> RunningServer {
        let endpoint = if protocol == "grpc" { self.jaeger.otlp_grpc_url() } else { self.jaeger.otlp_http_url() };
        let environment = [
            format!("OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}"),
            format!("OTEL_EXPORTER_OTLP_PROTOCOL={protocol}"),
            "OTEL_BSP_SCHEDULE_DELAY=100".to_owned(),
        ];
        let kubeconfig = self.cluster.admin_kubeconfig_file();
        let serving =
            ServerProcess::start_with_env(&environment, &kubeconfig, &self.store.url(), more).listening().await;
        serving.ready().await;
        serving
    }

    fn config(&self) -> String {
        format!("kfpNamespace: {}", self.namespace)
    }

    /// A run that has succeeded and pushed a model. Returns its UID.
    async fn succeeded(&self, run: NewWorkflow, name: &str) -> String {
        let writer = self.store.writer().await;
        writer.tfx_run(PIPELINE, name).await.task(Task::pusher("gs://root/1")).await;
        self.workflows.create(run.phase("Succeeded")).await.metadata.uid.expect("a UID")
    }

    /// The spans of a trace, once there is one of each of these names.
    async fn spans(&self, trace: &str, names: &[&str]) -> Vec<Span> {
        eventually(SOON, &format!("the trace {trace} with {names:?}"), async || {
            let spans: Vec<Span> = self.jaeger.spans(trace).await.into_iter().map(Span).collect();
            let all = names.iter().all(|name| spans.iter().any(|span| span.name() == *name));
            if all { Ok(spans) } else { Err(spans.iter().map(|span| span.name().to_owned()).collect::<Vec<_>>()) }
        })
        .await
    }
}

/// A span as Jaeger's API gives it.
#[derive(Debug)]
struct Span(Value);

impl Span {
    fn name(&self) -> &str {
        self.0["operationName"].as_str().expect("text")
    }

    fn id(&self) -> &str {
        self.0["spanID"].as_str().expect("text")
    }

    fn tag(&self, key: &str) -> Option<&Value> {
        let tags = self.0["tags"].as_array().expect("a list");
        tags.iter().find(|tag| tag["key"] == key).map(|tag| &tag["value"])
    }

    fn references(&self, kind: &str) -> Vec<&str> {
        let references = self.0["references"].as_array().expect("a list");
        let fits = references.iter().filter(|reference| reference["refType"] == kind);
        fits.map(|reference| reference["spanID"].as_str().expect("text")).collect()
    }

    /// The events of this name, each as its fields.
    fn events(&self, name: &str) -> Vec<&Value> {
        let logs = self.0["logs"].as_array().expect("a list").iter().map(|log| &log["fields"]);
        let is = |fields: &&Value| {
            let mut fields = fields.as_array().expect("a list").iter();
            fields.any(|field| field["key"] == "event" && field["value"] == name)
        };
        logs.filter(is).collect()
    }

    /// What TraceQL calls this.
    fn attribute(&self, name: &str) -> Option<String> {
        match name {
            "name" => Some(self.name().to_owned()),
            "resource.service.name" => Some(SERVICE.to_owned()),
            "status" => (self.tag("error") == Some(&true.into())).then(|| "error".to_owned()),
            _ => {
                let value = self.tag(name.strip_prefix("span.")?)?;
                Some(value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned))
            }
        }
    }

    /// Whether a query of the form `{ a="b" && c=~"$d" } | select(…)` finds it, when everything is chosen.
    fn is_selected_by(&self, query: &str) -> bool {
        let (conditions, _) = query.strip_prefix("{ ").and_then(|query| query.split_once(" }")).expect("a spanset");
        conditions.split(" && ").all(|condition| {
            let (name, value) = condition.split_once('=').expect("a comparison");
            match value.strip_prefix('~') {
                Some(_chosen) => self.attribute(name).is_some(),
                None => self.attribute(name).as_deref() == Some(value.trim_matches('"')),
            }
        })
    }

    /// Whether it has everything that the query wants to show.
    fn has_all(&self, query: &str) -> bool {
        let (_, selected) = query.split_once("| select(").expect("a selection");
        selected.trim_end_matches(')').split(", ").all(|name| self.attribute(name).is_some())
    }

    fn parent(&self) -> Option<&str> {
        self.references("CHILD_OF").first().copied()
    }
}

/// One root, and every other span under a span that is there.
fn assert_whole(spans: &[Span]) {
    let mut roots: Vec<_> = spans.iter().filter(|span| span.parent().is_none()).map(Span::id).collect();
    roots.sort_unstable();
    roots.dedup();
    assert_eq!(roots.len(), 1, "{spans:#?}");
    for span in spans {
        if let Some(parent) = span.parent() {
            assert!(spans.iter().any(|other| other.id() == parent), "no parent: {span:#?}");
        }
    }
}

fn trace_of(uid: &str) -> String {
    uid.replace('-', "")
}

async fn marked(workflows: &Workflows, name: &str, count: usize) {
    let marks = async || workflows.annotations(name, "published.pipelines.kubeflow.org/").await.len() == count;
    eventually(SOON, "marks", marks).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_has_one_whole_trace_found_by_its_uid_over_either_transport() {
    let world = World::start().await;
    for (protocol, name) in [("http/protobuf", "by-http"), ("grpc", "by-grpc")] {
        let serving = world.serve(protocol, &[]).await;
        let config = format!("{}\ninclude: [traceparent]", world.config());
        let mut subscriber = world.peers.grpc_go_client(serving.listen, &config).start();
        let uid = world.succeeded(NewWorkflow::tfx_v1(name, PIPELINE), name).await;
        let payload: Value = serde_json::from_str(&subscriber.payload(SOON).await).expect("JSON");
        marked(&world.workflows, name, 1).await;

        let steps = ["run", "seen", "lookup", "send model-update", "confirm", "mark", "PATCH workflows"];
        let spans = world.spans(&trace_of(&uid), &steps).await;
        assert_whole(&spans);
        let named = |name: &str| spans.iter().find(|span| span.name() == name).expect("it is there");
        let root = named("run");
        assert_eq!(root.parent(), None);
        assert_eq!(root.tag("modelupdate.workflow.name"), Some(&name.into()));
        assert_eq!(root.tag("cicd.pipeline.name"), Some(&PIPELINE.into()));
        for step in &steps[1..6] {
            assert_eq!(named(step).parent(), Some(root.id()), "{step}");
        }
        assert_eq!(named("PATCH workflows").parent(), Some(named("mark").id()));
        let calls = spans.iter().filter(|span| span.name().starts_with("ml_metadata.MetadataStoreService/"));
        let parents: Vec<_> = calls.map(|span| span.parent()).collect();
        assert!(parents.len() >= 4, "context, artifacts, executions, events: {spans:#?}");
        assert!(parents.iter().all(|parent| *parent == Some(named("lookup").id())));

        // The consumer of the event continues where it was sent.
        let send = named("send model-update");
        assert_eq!(send.tag("span.kind"), Some(&"producer".into()));
        assert_eq!(payload["traceparent"], format!("00-{}-{}-01", trace_of(&uid), send.id()));

        // The stream has a trace of its own, which is there when it has ended; what it carried links to it.
        let streams = send.references("FOLLOWS_FROM");
        serving.stop().await;
        let is_linked =
            |span: &Value| span["operationName"] == STREAM && streams.iter().any(|id| span["spanID"] == *id);
        eventually(SOON, "the stream's span", async || world.jaeger.latest_spans(SERVICE).await.iter().any(is_linked))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_that_argo_traces_joins_its_trace() {
    let world = World::start().await;
    let serving = world.serve("http/protobuf", &[]).await;
    let mut subscriber = world.peers.grpc_go_client(serving.listen, &world.config()).start();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let run = NewWorkflow::tfx_v1("traced", PIPELINE).annotation("workflows.argoproj.io/trace-id", trace);
    world.succeeded(run, "traced").await;
    subscriber.payload(SOON).await;
    let spans = world.spans(trace, &["run", "send model-update", "confirm"]).await;
    assert_whole(&spans);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_redelivery_is_a_span_of_its_own_with_a_link_to_the_first() {
    let world = World::start().await;
    let serving = world.serve("http/protobuf", &["--confirm-after=4s"]).await;
    let mut first = world.peers.grpc_go_client(serving.listen, &world.config()).start();
    let uid = world.succeeded(NewWorkflow::tfx_v1("again", PIPELINE), "again").await;
    first.payload(SOON).await;
    drop(first);
    let mut second = world.peers.grpc_go_client(serving.listen, &world.config()).start();
    second.payload(SOON).await;
    drop(second);
    let spans = eventually(SOON, "two sends", async || {
        let spans: Vec<Span> = world.jaeger.spans(&trace_of(&uid)).await.into_iter().map(Span).collect();
        let sends = spans.iter().filter(|span| span.name() == "send model-update").count();
        (sends == 2 && spans.iter().any(|span| span.tag("error.type") == Some(&"stream_ended".into()))).then_some(spans)
    })
    .await;
    assert_whole(&spans);
    let again = |span: &&Span| span.tag("modelupdate.redelivered") == Some(&true.into());
    let sends: Vec<_> = spans.iter().filter(|span| span.name() == "send model-update").collect();
    let redelivered = sends.iter().copied().find(again).expect("one is a redelivery");
    let original = sends.iter().copied().find(|span| !again(span)).expect("one is not");
    assert!(redelivered.references("FOLLOWS_FROM").contains(&original.id()), "{redelivered:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn two_replicas_mean_the_same_root() {
    let world = World::start().await;
    let (one, two) = (world.serve("http/protobuf", &[]).await, world.serve("grpc", &[]).await);
    let mut deploy = world.peers.grpc_go_client(one.listen, &world.config()).name("deploy").start();
    let mut evaluate = world.peers.grpc_go_client(two.listen, &world.config()).name("evaluate").start();
    let uid = world.succeeded(NewWorkflow::tfx_v1("both", PIPELINE), "both").await;
    deploy.payload(SOON).await;
    evaluate.payload(SOON).await;
    marked(&world.workflows, "both", 2).await;
    let spans = eventually(SOON, "both replicas' spans", async || {
        let spans: Vec<Span> = world.jaeger.spans(&trace_of(&uid)).await.into_iter().map(Span).collect();
        (spans.iter().filter(|span| span.name() == "mark").count() >= 2).then_some(spans)
    })
    .await;
    assert_whole(&spans);
    let subscriptions: Vec<_> = spans.iter().filter(|span| span.name() == "send model-update").map(Span::id).collect();
    assert_eq!(subscriptions.len(), 2);
    assert_ne!(subscriptions[0], subscriptions[1]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn failed_attempts_and_runs_without_a_model_are_there_to_see() {
    let mut world = World::start().await;
    let serving = world.serve("http/protobuf", &[]).await;
    let mut subscriber = world.peers.grpc_go_client(serving.listen, &world.config()).start();

    let writer = world.store.writer().await;
    let run = writer.tfx_run(PIPELINE, "unblessed").await;
    run.task(Task::new("Pusher").output(Model::unblessed("gs://root/0"))).await;
    let created = world.workflows.create(NewWorkflow::tfx_v1("unblessed", PIPELINE).phase("Succeeded")).await;
    let uid = created.metadata.uid.expect("a UID");
    let spans = world.spans(&trace_of(&uid), &["run", "lookup", "skipped"]).await;
    assert_whole(&spans);
    let why = spans.iter().find(|span| span.name() == "skipped").expect("it is there");
    assert_eq!(why.tag("modelupdate.reason"), Some(&"no_model".into()));

    writer.tfx_run(PIPELINE, "thrice").await.task(Task::pusher("gs://root/3")).await;
    world.store.kill();
    let created = world.workflows.create(NewWorkflow::tfx_v1("thrice", PIPELINE).phase("Succeeded")).await;
    let uid = created.metadata.uid.expect("a UID");
    let attempts = async || {
        let spans: Vec<Span> = world.jaeger.spans(&trace_of(&uid)).await.into_iter().map(Span).collect();
        let failed = |span: &&Span| span.name() == "lookup" && span.tag("error.type") == Some(&"unavailable".into());
        spans.iter().filter(failed).count()
    };
    eventually(SOON, "three failed attempts", async || attempts().await >= 3).await;
    world.store.restart().await;
    subscriber.payload(SOON).await;
    let spans = world.spans(&trace_of(&uid), &["send model-update"]).await;
    assert_whole(&spans);
    let lookups = || spans.iter().filter(|span| span.name() == "lookup");
    let linked = lookups().filter(|span| !span.references("FOLLOWS_FROM").is_empty());
    assert!(linked.count() >= 2, "later attempts link to the first");
    assert!(lookups().filter(|span| !span.events("failed").is_empty()).count() >= 3, "{spans:#?}");
    assert!(lookups().filter(|span| !span.events("retried").is_empty()).count() >= 3, "{spans:#?}");

    // What the dashboard of traces asks for is there, under these names.
    let dashboard = include_str!("../dashboards/traces.json");
    let dashboard: Value = serde_json::from_str(dashboard).expect("JSON");
    let tables = dashboard["panels"].as_array().expect("a list").iter().filter(|panel| panel["type"] == "table");
    let queries: Vec<_> = tables.map(|panel| panel["targets"][0]["query"].as_str().expect("TraceQL")).collect();
    assert_eq!(queries.len(), 3);
    for query in queries {
        eventually(SOON, query, async || {
            let spans = world.jaeger.latest_spans(SERVICE).await;
            let found = spans.into_iter().map(Span).find(|span| span.is_selected_by(query));
            found.is_some_and(|span| span.has_all(query))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_first_refusal_of_an_event_source_has_a_trace_and_its_repetitions_have_none() {
    let world = World::start().await;
    let serving = world.serve("http/protobuf", &[]).await;
    for name in ["team-a", "team-a", "team-b"] {
        let mut refused = world.peers.grpc_go_client(serving.listen, "kfpNamespaces: oops").name(name).start();
        let end = refused.next(SOON).await;
        assert!(matches!(&end, Some(test_support::Line::Status { code, .. }) if code == "InvalidArgument"), "{end:?}");
    }
    // What was recorded is sent before the program ends.
    serving.stop().await;
    let mut spans: Vec<_> = world.jaeger.latest_spans(SERVICE).await.into_iter().map(Span).collect();
    spans.retain(|span| span.name() == STREAM);
    let mut names: Vec<_> = spans.iter().filter_map(|span| span.tag("modelupdate.event_source")?.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["team-a", "team-b"]);
    for span in &spans {
        assert_eq!(span.tag("rpc.status_code"), Some(&"INVALID_ARGUMENT".into()));
        assert_eq!(span.events("refused").len(), 1, "{span:#?}");
        assert!(!span.0.to_string().contains("oops"), "what was configured is not in it");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_collector_that_is_not_there_costs_no_event_and_one_line() {
    let world = World::start().await;
    let environment =
        ["OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9".to_owned(), "OTEL_BSP_SCHEDULE_DELAY=50".to_owned()];
    let cluster: &Cluster = &world.cluster;
    let program =
        ServerProcess::start_with_env(&environment, &cluster.admin_kubeconfig_file(), &world.store.url(), &[]);
    let serving = program.listening().await;
    serving.ready().await;
    let mut subscriber = world.peers.grpc_go_client(serving.listen, &world.config()).start();
    for name in ["one", "two", "three"] {
        world.succeeded(NewWorkflow::tfx_v1(name, PIPELINE), name).await;
        subscriber.payload(SOON).await;
        marked(&world.workflows, name, 1).await;
    }
    let message = "spans cannot be sent";
    let lines = || serving.process.log().lines().filter(|line| line.contains(message)).count();
    eventually(SOON, "a line that says so", async || lines() == 1).await;
    assert_eq!(lines(), 1);
    serving.stop().await;
}
