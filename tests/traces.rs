//! The spans of runs and streams in a real Jaeger.

use std::time::Duration;

use model_update_eventsource::model::workflow::TRACE_ID_ANNOTATION;
use serde_json::Value;
use test_support::{
    Jaeger, Line, Model, NewWorkflow, PIPELINE, Peers, RunningServer, SOON, Subscribe, Task, TestEnv, eventually,
};

const SERVICE: &str = "model-update-eventsource";

/// Name of the span of a stream.
const STREAM: &str = "generic.Eventing/StartEventSource";

struct Harness {
    peers: Peers,
    env: TestEnv,
    jaeger: Jaeger,
}

impl Harness {
    async fn start() -> Self {
        let peers = Peers::with(&["jaeger"]).await;
        let (env, jaeger) = (TestEnv::start(&peers).await, peers.jaeger().await);
        Self { peers, env, jaeger }
    }

    /// Starts a server that exports its spans to Jaeger with this protocol.
    async fn serve(&self, protocol: &str, flags: &[&str]) -> RunningServer {
        let endpoint = if protocol == "grpc" { self.jaeger.otlp_grpc_url() } else { self.jaeger.otlp_http_url() };
        let environment = [
            format!("OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}"),
            format!("OTEL_EXPORTER_OTLP_PROTOCOL={protocol}"),
            "OTEL_BSP_SCHEDULE_DELAY=100".to_owned(),
        ];
        self.env.start_server(&environment, flags).await
    }

    /// Returns a subscriber to all runs of the namespace.
    fn subscriber(&self, server: &RunningServer) -> Subscribe {
        self.peers.grpc_go_client(server.listen, &self.env.config())
    }

    /// Returns the spans of a trace.
    async fn all_spans(&self, trace: &str) -> Vec<Span> {
        self.jaeger.spans(trace).await.into_iter().map(Span).collect()
    }

    /// Returns the latest spans of the server.
    async fn latest_spans(&self) -> Vec<Span> {
        self.jaeger.latest_spans(SERVICE).await.into_iter().map(Span).collect()
    }

    /// Waits for spans of these names and returns the spans of the trace.
    async fn spans(&self, trace: &str, names: &[&str]) -> Vec<Span> {
        eventually(SOON, &format!("the trace {trace} with {names:?}"), async || {
            let spans = self.all_spans(trace).await;
            let complete = names.iter().all(|name| spans.iter().any(|span| span.name() == *name));
            if complete { Ok(spans) } else { Err(spans.iter().map(|span| span.name().to_owned()).collect::<Vec<_>>()) }
        })
        .await
    }
}

/// A span in the JSON of Jaeger's API.
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
        let matching = references.iter().filter(|reference| reference["refType"] == kind);
        matching.map(|reference| reference["spanID"].as_str().expect("text")).collect()
    }

    /// Returns the fields of each event of this name.
    fn events(&self, name: &str) -> Vec<&Value> {
        let logs = self.0["logs"].as_array().expect("a list").iter().map(|log| &log["fields"]);
        let is = |fields: &&Value| {
            let mut fields = fields.as_array().expect("a list").iter();
            fields.any(|field| field["key"] == "event" && field["value"] == name)
        };
        logs.filter(is).collect()
    }

    /// Returns an attribute by its name in TraceQL.
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

    /// Returns whether a query of the form `{ a="b" && c=~"$d" } | select(…)` selects the span, with all values of `$d`.
    fn is_selected_by(&self, query: &str) -> bool {
        let (conditions, _) = query.strip_prefix("{ ").and_then(|query| query.split_once(" }")).expect("a spanset");
        conditions.split(" && ").all(|condition| {
            let (name, value) = condition.split_once('=').expect("a comparison");
            match value.strip_prefix('~') {
                Some(_variable) => self.attribute(name).is_some(),
                None => self.attribute(name).as_deref() == Some(value.trim_matches('"')),
            }
        })
    }

    /// Returns whether the span has every attribute that the query selects.
    fn has_all(&self, query: &str) -> bool {
        let (_, selected) = query.split_once("| select(").expect("a selection");
        selected.trim_end_matches(')').split(", ").all(|name| self.attribute(name).is_some())
    }

    fn parent(&self) -> Option<&str> {
        self.references("CHILD_OF").first().copied()
    }
}

/// Asserts that there is one root, and that the parent of every other span exists.
fn assert_complete(spans: &[Span]) {
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

/// The same over both transports.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_has_one_complete_trace_with_its_uid_as_id() {
    let harness = Harness::start().await;
    for (protocol, name) in [("http/protobuf", "by-http"), ("grpc", "by-grpc")] {
        let server = harness.serve(protocol, &[]).await;
        let config = format!("{}\ninclude: [traceparent]", harness.env.config());
        let mut subscriber = harness.peers.grpc_go_client(server.listen, &config).start();
        let uid = harness.env.succeed(name).await;
        let payload: Value = serde_json::from_str(&subscriber.payload(SOON).await).expect("JSON");
        harness.env.marked(name, 1).await;

        let steps = ["run", "seen", "lookup", "send model-update", "confirm", "mark", "PATCH workflows"];
        let spans = harness.spans(&trace_of(&uid), &steps).await;
        assert_complete(&spans);
        let named = |name: &str| spans.iter().find(|span| span.name() == name).expect("a span of this name");
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

        // The event refers to the span in which it was sent.
        let send = named("send model-update");
        assert_eq!(send.tag("span.kind"), Some(&"producer".into()));
        assert_eq!(payload["traceparent"], format!("00-{}-{}-01", trace_of(&uid), send.id()));

        // The span of the stream is exported at its end. The spans of its events link to it.
        let streams = send.references("FOLLOWS_FROM");
        server.stop().await;
        let is_linked = |span: &Span| span.name() == STREAM && streams.contains(&span.id());
        eventually(SOON, "the span of the stream", async || harness.latest_spans().await.iter().any(is_linked)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_traced_by_argo_workflows_continues_its_trace() {
    let harness = Harness::start().await;
    let server = harness.serve("http/protobuf", &[]).await;
    let mut subscriber = harness.subscriber(&server).start();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    harness.env.push_model("traced").await;
    let run = NewWorkflow::tfx_v1("traced", PIPELINE).annotation("workflows.argoproj.io/trace-id", trace);
    harness.env.workflows.create(run.phase("Succeeded")).await;
    subscriber.payload(SOON).await;
    let spans = harness.spans(trace, &["run", "send model-update", "confirm"]).await;
    assert_complete(&spans);
}

/// A tenant writes Argo's id of another tenant's run, or the UID of one, on its own Workflows.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_trace_of_another_tenants_run_is_not_joined() {
    let harness = Harness::start().await;
    let server = harness.serve("http/protobuf", &[]).await;
    let env = &harness.env;
    let argo = "7cc9a1b2e3d44f5a8b6c7d8e9f0a1b2c";
    env.workflows.create(NewWorkflow::tfx_v1("traced", PIPELINE).annotation(TRACE_ID_ANNOTATION, argo)).await;
    let owner = env.workflows.create(NewWorkflow::tfx_v1("plain", PIPELINE)).await.metadata.uid.expect("a UID");
    let mut subscriber = harness.subscriber(&server).start();

    let hostile = env.cluster.namespace("hostile").await;
    let workflows = env.cluster.workflows(&hostile).await;
    let mut joiner = harness.peers.grpc_go_client(server.listen, &format!("kfpNamespace: {hostile}")).start();
    for (name, id) in [("joins-traced", argo), ("joins-plain", &*trace_of(&owner))] {
        env.push_model(name).await;
        let run = NewWorkflow::tfx_v1(name, PIPELINE).annotation(TRACE_ID_ANNOTATION, id).phase("Succeeded");
        let uid = workflows.create(run).await.metadata.uid.expect("a UID");
        joiner.payload(SOON).await;
        assert_complete(&harness.spans(&trace_of(&uid), &["run", "send model-update", "confirm"]).await);
    }
    env.push_model("plain").await;
    env.workflows.set_phase("plain", "Succeeded").await;
    subscriber.payload(SOON).await;
    let spans = harness.spans(&trace_of(&owner), &["run", "send model-update", "confirm"]).await;
    assert_complete(&spans);
    let others = spans.iter().filter(|span| span.tag("modelupdate.namespace") == Some(&hostile.clone().into()));
    assert_eq!(others.count(), 0, "{spans:#?}");
    assert_eq!(harness.all_spans(argo).await.len(), 0, "two namespaces have this id");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_redelivery_has_a_span_with_a_link_to_the_first() {
    let harness = Harness::start().await;
    let server = harness.serve("http/protobuf", &["--confirm-after=4s"]).await;
    let mut first = harness.subscriber(&server).start();
    let uid = harness.env.succeed("again").await;
    first.payload(SOON).await;
    drop(first);
    let mut second = harness.subscriber(&server).start();
    second.payload(SOON).await;
    drop(second);
    let spans = eventually(SOON, "two sends", async || {
        let spans = harness.all_spans(&trace_of(&uid)).await;
        let sends = spans.iter().filter(|span| span.name() == "send model-update").count();
        (sends == 2 && spans.iter().any(|span| span.tag("error.type") == Some(&"stream_ended".into()))).then_some(spans)
    })
    .await;
    assert_complete(&spans);
    let is_redelivery = |span: &&Span| span.tag("modelupdate.redelivered") == Some(&true.into());
    let sends: Vec<_> = spans.iter().filter(|span| span.name() == "send model-update").collect();
    let redelivered = sends.iter().copied().find(is_redelivery).expect("a redelivery");
    let original = sends.iter().copied().find(|span| !is_redelivery(span)).expect("a first delivery");
    assert!(redelivered.references("FOLLOWS_FROM").contains(&original.id()), "{redelivered:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn two_replicas_report_the_same_root() {
    let harness = Harness::start().await;
    let (one, two) = (harness.serve("http/protobuf", &[]).await, harness.serve("grpc", &[]).await);
    let mut deploy = harness.subscriber(&one).name("deploy").start();
    let mut evaluate = harness.subscriber(&two).name("evaluate").start();
    let uid = harness.env.succeed("both").await;
    deploy.payload(SOON).await;
    evaluate.payload(SOON).await;
    harness.env.marked("both", 2).await;
    let spans = eventually(SOON, "the spans of both replicas", async || {
        let spans = harness.all_spans(&trace_of(&uid)).await;
        (spans.iter().filter(|span| span.name() == "mark").count() >= 2).then_some(spans)
    })
    .await;
    assert_complete(&spans);
    let sends: Vec<_> = spans.iter().filter(|span| span.name() == "send model-update").map(Span::id).collect();
    assert_eq!(sends.len(), 2);
    assert_ne!(sends[0], sends[1]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn failed_lookups_and_runs_without_a_model_have_spans() {
    let mut harness = Harness::start().await;
    let server = harness.serve("http/protobuf", &[]).await;
    let mut subscriber = harness.subscriber(&server).start();

    let run = harness.env.writer.tfx_run(PIPELINE, "unblessed").await;
    run.task(Task::new("Pusher").output(Model::unblessed("gs://root/0"))).await;
    let created = harness.env.workflows.create(NewWorkflow::tfx_v1("unblessed", PIPELINE).phase("Succeeded")).await;
    let uid = created.metadata.uid.expect("a UID");
    let spans = harness.spans(&trace_of(&uid), &["run", "lookup", "skipped"]).await;
    assert_complete(&spans);
    let skipped = spans.iter().find(|span| span.name() == "skipped").expect("a span of this name");
    assert_eq!(skipped.tag("modelupdate.reason"), Some(&"no_model".into()));

    harness.env.push_model("thrice").await;
    harness.env.store.kill();
    let created = harness.env.workflows.create(NewWorkflow::tfx_v1("thrice", PIPELINE).phase("Succeeded")).await;
    let uid = created.metadata.uid.expect("a UID");
    let failed_lookups = async || {
        let spans = harness.all_spans(&trace_of(&uid)).await;
        let failed = |span: &&Span| span.name() == "lookup" && span.tag("error.type") == Some(&"unavailable".into());
        spans.iter().filter(failed).count()
    };
    eventually(SOON, "three failed lookups", async || failed_lookups().await >= 3).await;
    harness.env.store.restart().await;
    subscriber.payload(SOON).await;
    let spans = harness.spans(&trace_of(&uid), &["send model-update"]).await;
    assert_complete(&spans);
    let lookups = || spans.iter().filter(|span| span.name() == "lookup");
    let linked = lookups().filter(|span| !span.references("FOLLOWS_FROM").is_empty());
    assert!(linked.count() >= 2, "later lookups link to the first");
    assert!(lookups().filter(|span| !span.events("failed").is_empty()).count() >= 3, "{spans:#?}");
    assert!(lookups().filter(|span| !span.events("retried").is_empty()).count() >= 3, "{spans:#?}");

    // The queries of the dashboard find spans with the attributes that they show.
    let dashboard = include_str!("../dashboards/traces.json");
    let dashboard: Value = serde_json::from_str(dashboard).expect("JSON");
    let tables = dashboard["panels"].as_array().expect("a list").iter().filter(|panel| panel["type"] == "table");
    let queries: Vec<_> = tables.map(|panel| panel["targets"][0]["query"].as_str().expect("TraceQL")).collect();
    assert_eq!(queries.len(), 3);
    for query in queries {
        eventually(SOON, query, async || {
            let spans = harness.latest_spans().await;
            let found = spans.iter().find(|span| span.is_selected_by(query));
            found.is_some_and(|span| span.has_all(query))
        })
        .await;
    }
}

/// Runs that a filter excludes, and those that a newer one supersedes.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn filtered_and_superseded_runs_have_spans() {
    let harness = Harness::start().await;
    let env = &harness.env;
    let older = env.succeed("older").await;
    env.workflows.backdate_end("older", Duration::from_secs(600)).await;
    env.succeed("newer").await;
    let other = env.workflows.create(NewWorkflow::tfx_v1("other", "penguin-pipeline-2").phase("Succeeded")).await;
    let server = harness.serve("http/protobuf", &[]).await;
    let config = format!("{}\nsubscription: deployer\npipelines: [{PIPELINE}]\nlatestOnly: true", env.config());
    let mut subscriber = harness.peers.grpc_go_client(server.listen, &config).start();
    assert!(subscriber.payload(SOON).await.contains("gs://root/newer"));
    for (uid, name, reason) in
        [(other.metadata.uid.expect("a UID"), "filtered", "pipelines"), (older, "skipped", "superseded")]
    {
        let spans = harness.spans(&trace_of(&uid), &["run", "seen", name]).await;
        assert_complete(&spans);
        let span = spans.iter().find(|span| span.name() == name).expect("a span of this name");
        assert_eq!(span.tag("modelupdate.reason"), Some(&reason.into()));
        assert_eq!(span.tag("modelupdate.subscription"), Some(&"deployer".into()));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn only_the_first_refusal_of_an_event_source_has_a_span() {
    let harness = Harness::start().await;
    let server = harness.serve("http/protobuf", &[]).await;
    for name in ["team-a", "team-a", "team-b"] {
        let mut refused = harness.peers.grpc_go_client(server.listen, "kfpNamespaces: oops").name(name).start();
        let end = refused.next(SOON).await;
        assert!(matches!(&end, Some(Line::Status { code, .. }) if code == "InvalidArgument"), "{end:?}");
    }
    // The program exports all spans before it ends.
    server.stop().await;
    let mut spans = harness.latest_spans().await;
    spans.retain(|span| span.name() == STREAM);
    let mut names: Vec<_> = spans.iter().filter_map(|span| span.tag("modelupdate.event_source")?.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["team-a", "team-b"]);
    for span in &spans {
        assert_eq!(span.tag("rpc.status_code"), Some(&"INVALID_ARGUMENT".into()));
        assert_eq!(span.events("refused").len(), 1, "{span:#?}");
        assert!(!span.0.to_string().contains("oops"), "the span does not contain the configuration");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_absent_collector_costs_no_event_and_one_log_line() {
    let harness = Harness::start().await;
    let environment =
        ["OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9".to_owned(), "OTEL_BSP_SCHEDULE_DELAY=50".to_owned()];
    let server = harness.env.start_server(&environment, &[]).await;
    let mut subscriber = harness.subscriber(&server).start();
    for name in ["one", "two", "three"] {
        harness.env.succeed(name).await;
        subscriber.payload(SOON).await;
        harness.env.marked(name, 1).await;
    }
    let message = "spans cannot be sent";
    let lines = || server.process.log().lines().filter(|line| line.contains(message)).count();
    eventually(SOON, "the log line", async || lines() == 1).await;
    assert_eq!(lines(), 1);
    server.stop().await;
}
