//! Scenarios for ML Metadata.

use std::collections::BTreeSet;

use model_update_eventsource::sim::Sim;
use test_support::{
    MetadataStore, Model, Peers, Run, Task, Writer, Written,
    ml_metadata::{
        self as proto, Artifact, Context, Event, Execution, GetArtifactTypeRequest, GetArtifactsByContextRequest,
        GetContextByTypeAndNameRequest, GetContextsByExecutionRequest, GetEventsByArtifactIDsRequest,
        GetExecutionsByContextRequest, GetParentContextsByContextRequest, ListOperationOptions, PutArtifactsRequest,
        artifact,
        event::{Type, path::step},
        execution::State,
        metadata_store_service_client::MetadataStoreServiceClient,
        value,
    },
};
use tonic::{Code, Status, transport::Channel};

use crate::on_both;

on_both!(
    an_absent_context_is_ok_and_empty,
    a_tfx_run_has_its_contexts,
    a_kfp_v2_run_is_a_child_of_its_pipeline,
    the_artifacts_of_a_run_include_its_inputs,
    an_artifact_has_its_type_properties_and_path,
    a_cached_task_is_a_new_execution_with_an_old_artifact,
    listings_are_ordered_by_id,
    an_unknown_type_is_not_found,
    unknown_ids_are_empty_or_not_found,
);

/// A store. Tests write into the real one through its API, and into the simulated one through [`Sim`].
struct TestEnv {
    client: MetadataStoreServiceClient<Channel>,
    store: Store,
}

enum Store {
    Simulated(Sim),
    Real(Writer, #[expect(dead_code, reason = "it ends with the test")] MetadataStore),
}

impl TestEnv {
    async fn simulated() -> Self {
        let sim = Sim::start().await.expect("a simulation");
        let client = MetadataStoreServiceClient::connect(sim.metadata_url()).await.expect("a connection");
        Self { client, store: Store::Simulated(sim) }
    }

    async fn real() -> Self {
        let store = Peers::find().await.metadata_store().await;
        let writer = store.writer().await;
        Self { client: writer.client.clone(), store: Store::Real(writer, store) }
    }

    /// Writes the contexts of a run. Returns the id of the run's own context.
    async fn put_run(&self, run: &Run) -> i64 {
        match &self.store {
            Store::Simulated(sim) => sim.put_run(run),
            Store::Real(writer, _) => writer.put_run(run).await.context,
        }
    }

    async fn put_task(&self, run: &Run, task: Task) -> Written {
        match &self.store {
            Store::Simulated(sim) => sim.put_task(run, task),
            Store::Real(writer, _) => writer.put_task(run, task).await,
        }
    }

    /// Writes a task that pushed models to these locations.
    async fn push(&self, run: &Run, uris: &[&str]) -> Written {
        let model = |uri: &&str| Model::pushed(uri).property("name", "old-name");
        let task = uris.iter().fold(Task::new("Pusher"), |task, uri| task.output(model(uri)));
        self.put_task(run, task).await
    }

    async fn context(&self, type_name: &str, name: &str) -> Option<Context> {
        let request = GetContextByTypeAndNameRequest {
            type_name: Some(type_name.to_owned()),
            context_name: Some(name.to_owned()),
        };
        let answer = self.client.clone().get_context_by_type_and_name(request).await;
        answer.expect("an absent context is OK").into_inner().context
    }

    async fn page(&self, context: i64, options: Option<ListOperationOptions>) -> Result<(Vec<i64>, String), Status> {
        let request = GetArtifactsByContextRequest { context_id: Some(context), options };
        let answer = self.client.clone().get_artifacts_by_context(request).await?.into_inner();
        let token = answer.next_page_token().to_owned();
        Ok((answer.artifacts.iter().map(Artifact::id).collect(), token))
    }

    async fn artifacts(&self, context: i64) -> Vec<Artifact> {
        let request = GetArtifactsByContextRequest { context_id: Some(context), options: None };
        self.client.clone().get_artifacts_by_context(request).await.expect("artifacts").into_inner().artifacts
    }

    async fn executions(&self, context: i64) -> Vec<Execution> {
        let request = GetExecutionsByContextRequest { context_id: Some(context), options: None };
        self.client.clone().get_executions_by_context(request).await.expect("executions").into_inner().executions
    }

    async fn events(&self, artifacts: &[i64]) -> Vec<Event> {
        let request = GetEventsByArtifactIDsRequest { artifact_ids: artifacts.to_vec() };
        self.client.clone().get_events_by_artifact_i_ds(request).await.expect("events").into_inner().events
    }

    async fn parents(&self, context: i64) -> Vec<Context> {
        let request = GetParentContextsByContextRequest { context_id: Some(context) };
        self.client.clone().get_parent_contexts_by_context(request).await.expect("parents").into_inner().contexts
    }

    async fn contexts_of(&self, execution: i64) -> Result<Vec<Context>, Status> {
        let request = GetContextsByExecutionRequest { execution_id: Some(execution) };
        Ok(self.client.clone().get_contexts_by_execution(request).await?.into_inner().contexts)
    }
}

fn named(contexts: &[Context]) -> BTreeSet<(&str, &str)> {
    contexts.iter().map(|context| (context.r#type(), context.name())).collect()
}

fn text(value: Option<&proto::Value>) -> Option<&str> {
    match &value?.value {
        Some(value::Value::StringValue(text)) => Some(text),
        _ => None,
    }
}

async fn an_absent_context_is_ok_and_empty(env: TestEnv) {
    assert_eq!(env.context("pipeline_run", "absent").await, None);
    env.put_run(&Run::tfx_v1("penguin", "run")).await;
    assert_eq!(env.context("pipeline_run", "absent").await, None);
    assert_eq!(env.context("system.PipelineRun", "run").await, None);
}

async fn a_tfx_run_has_its_contexts(env: TestEnv) {
    let run = Run::tfx_v1("penguin", "run");
    let id = env.put_run(&run).await;
    let context = env.context("pipeline_run", "run").await.expect("stored");
    assert_eq!((context.id(), context.r#type(), context.name()), (id, "pipeline_run", "run"));
    let written = env.push(&run, &["gs://root/1"]).await;
    let contexts = env.contexts_of(written.execution).await.expect("contexts");
    let expected = [("pipeline", "penguin"), ("pipeline_run", "run"), ("node", "penguin.Pusher")];
    assert_eq!(named(&contexts), BTreeSet::from(expected));
    assert!(env.parents(id).await.is_empty());
    let execution = &env.executions(id).await[0];
    assert_eq!((execution.r#type(), execution.last_known_state()), ("tfx.components.Pusher", State::Complete));
    assert!(execution.create_time_since_epoch() > 1_700_000_000_000, "milliseconds");
}

async fn a_kfp_v2_run_is_a_child_of_its_pipeline(env: TestEnv) {
    let run = Run::kfp_v2("penguin", "0b7ee1d6", "team");
    let id = env.put_run(&run).await;
    let context = env.context("system.PipelineRun", "0b7ee1d6").await.expect("stored");
    assert_eq!(context.id(), id);
    assert_eq!(text(context.custom_properties.get("namespace")), Some("team"));
    assert_eq!(text(context.custom_properties.get("resource_name")), Some("run-resource"));
    assert_eq!(named(&env.parents(id).await), BTreeSet::from([("system.Pipeline", "penguin")]));
    let written = env.push(&run, &["gs://root/1"]).await;
    let execution = &env.executions(id).await[0];
    assert_eq!((execution.id(), execution.r#type()), (written.execution, "system.ContainerExecution"));
    for property in ["task_name", "display_name"] {
        assert_eq!(text(execution.custom_properties.get(property)), Some("Pusher"), "{property}");
    }
    let artifact = &env.artifacts(id).await[0];
    assert_eq!(text(artifact.custom_properties.get("display_name")), Some("pushed_model"));
}

async fn the_artifacts_of_a_run_include_its_inputs(env: TestEnv) {
    let earlier = env.push(&Run::tfx_v1("penguin", "run-1"), &["gs://root/1"]).await;
    let run = Run::tfx_v1("penguin", "run-2");
    let later = env.put_task(&run, Task::new("Evaluator").input(Model::existing(earlier.artifacts[0], "model"))).await;
    let listed: Vec<_> = env.artifacts(env.put_run(&run).await).await.iter().map(Artifact::id).collect();
    assert_eq!((&listed, &later.artifacts), (&earlier.artifacts, &earlier.artifacts));
    let events = env.events(&listed).await;
    let mut seen: Vec<_> = events.iter().map(|event| (event.execution_id(), event.r#type())).collect();
    seen.sort();
    assert_eq!(seen, [(earlier.execution, Type::Output), (later.execution, Type::Input)]);
}

async fn an_artifact_has_its_type_properties_and_path(env: TestEnv) {
    let run = Run::tfx_v1("penguin", "run");
    let written = env.push(&run, &["gs://root/1", ""]).await;
    let artifacts = env.artifacts(env.put_run(&run).await).await;
    let [pushed, without_uri] = &artifacts[..] else { panic!("two artifacts") };
    assert_eq!([pushed.id(), without_uri.id()], written.artifacts[..]);
    assert_eq!((pushed.r#type(), pushed.uri(), &pushed.name), ("PushedModel", "gs://root/1", &None));
    assert_eq!((pushed.state(), without_uri.uri.as_deref()), (artifact::State::Live, Some("")));
    let keys: BTreeSet<_> = pushed.custom_properties.keys().map(String::as_str).collect();
    assert_eq!(keys, BTreeSet::from(["name", "pushed", "pushed_destination"]));
    assert_eq!(pushed.custom_properties["pushed"].value, Some(value::Value::IntValue(1)));
    assert_eq!(text(pushed.custom_properties.get("name")), Some("old-name"));

    let request = GetArtifactTypeRequest { type_name: Some("PushedModel".to_owned()) };
    let known = env.client.clone().get_artifact_type(request).await.expect("known").into_inner().artifact_type;
    assert_eq!(known.expect("a type").id(), pushed.type_id());

    let events = env.events(&written.artifacts[1..]).await;
    let steps: Vec<_> = events[0].path.as_ref().expect("a path").steps.iter().map(|step| step.value.clone()).collect();
    assert_eq!(steps, [Some(step::Value::Key("pushed_model".to_owned())), Some(step::Value::Index(1))]);
}

async fn a_cached_task_is_a_new_execution_with_an_old_artifact(env: TestEnv) {
    let first = env.push(&Run::kfp_v2("penguin", "run-1", "team"), &["gs://root/1"]).await;
    let run = Run::kfp_v2("penguin", "run-2", "team");
    let task = Task::new("Pusher").state(State::Cached).output(Model::existing(first.artifacts[0], "pushed_model"));
    let second = env.put_task(&run, task).await;
    let id = env.put_run(&run).await;
    assert_eq!(env.artifacts(id).await.len(), 1);
    let executions = env.executions(id).await;
    let states: Vec<_> = executions.iter().map(|found| (found.id(), found.last_known_state())).collect();
    assert_eq!(states, [(second.execution, State::Cached)]);
    let events = env.events(&first.artifacts).await;
    let outputs: BTreeSet<_> = events.iter().map(|event| (event.execution_id(), event.r#type())).collect();
    assert_eq!(outputs, BTreeSet::from([(first.execution, Type::Output), (second.execution, Type::Output)]));
}

async fn listings_are_ordered_by_id(env: TestEnv) {
    let run = Run::tfx_v1("penguin", "run");
    let written = env.push(&run, &["gs://root/2", "gs://root/1"]).await;
    let executions = [written.execution, env.push(&run, &[]).await.execution];
    let id = env.put_run(&run).await;
    assert_eq!(env.artifacts(id).await.iter().map(Artifact::id).collect::<Vec<_>>(), written.artifacts);
    assert_eq!(env.executions(id).await.iter().map(Execution::id).collect::<Vec<_>>(), executions);
}

async fn an_unknown_type_is_not_found(env: TestEnv) {
    let request = GetArtifactTypeRequest { type_name: Some("Nothing".to_owned()) };
    let refusal = env.client.clone().get_artifact_type(request).await.expect_err("unknown");
    assert_eq!(refusal.code(), Code::NotFound);
    assert!(refusal.message().starts_with("No type found for query, name: `Nothing`"), "{refusal:?}");
}

async fn unknown_ids_are_empty_or_not_found(env: TestEnv) {
    let unknown = 77;
    assert_eq!(env.page(unknown, None).await.expect("OK"), (vec![], String::new()));
    assert!(env.executions(unknown).await.is_empty());
    assert!(env.events(&[unknown]).await.is_empty());
    assert!(env.parents(unknown).await.is_empty());
    assert_eq!(env.contexts_of(unknown).await.expect_err("unlike the others").code(), Code::NotFound);
}

/// Pages and calls that only the real store has.
mod real_only {
    use super::*;

    fn page_of(size: i32, token: &str) -> Option<ListOperationOptions> {
        Some(ListOperationOptions { max_result_size: Some(size), next_page_token: Some(token.to_owned()) })
    }

    /// Writes a run with this number of artifacts. Returns the id of its context and those of the artifacts.
    async fn put(env: &TestEnv, workflow: &str, artifacts: usize) -> (i64, Vec<i64>) {
        let run = Run::tfx_v1("penguin", workflow);
        let uris: Vec<String> = (0..artifacts).map(|version| format!("gs://root/{version}")).collect();
        let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
        (env.put_run(&run).await, env.push(&run, &uris).await.artifacts)
    }

    #[tokio::test]
    #[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
    async fn pages_are_ordered_by_id_and_the_last_may_be_full() {
        let env = TestEnv::real().await;
        for (workflow, expected) in [("full", vec![10, 10]), ("partial", vec![10, 10, 5])] {
            let (context, artifacts) = put(&env, workflow, expected.iter().sum()).await;
            let (mut listed, mut sizes, mut token) = (Vec::new(), Vec::new(), String::new());
            loop {
                let (ids, next) = env.page(context, page_of(10, &token)).await.expect("a page");
                sizes.push(ids.len());
                listed.extend(ids);
                token = next;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!((listed, sizes), (artifacts, expected));
        }
    }

    #[tokio::test]
    #[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
    async fn pages_of_executions_are_ordered_by_id() {
        let env = TestEnv::real().await;
        let run = Run::tfx_v1("penguin", "run");
        let context = env.put_run(&run).await;
        for _ in 0..4 {
            env.push(&run, &[]).await;
        }
        let options = |token: Option<String>| ListOperationOptions { max_result_size: Some(3), next_page_token: token };
        let request = |options| GetExecutionsByContextRequest { context_id: Some(context), options: Some(options) };
        let mut client = env.client.clone();
        let first = client.get_executions_by_context(request(options(None))).await.expect("a page").into_inner();
        let second = request(options(first.next_page_token.clone()));
        let second = client.get_executions_by_context(second).await.expect("a page").into_inner();
        assert_eq!((first.executions.len(), second.executions.len()), (3, 1));
        assert!(first.executions[2].id() < second.executions[0].id());
        assert_eq!(second.next_page_token(), "");
    }

    #[tokio::test]
    #[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
    async fn a_page_has_the_requested_size_else_twenty_rows() {
        let env = TestEnv::real().await;
        let (context, _) = put(&env, "run", 101).await;
        assert_eq!(env.page(context, page_of(100, "")).await.expect("a page").0.len(), 100);
        assert_eq!(env.page(context, page_of(1000, "")).await.expect("a page").0.len(), 101);
        let by_default = env.page(context, Some(ListOperationOptions::default())).await.expect("a page");
        assert_eq!(by_default.0.len(), 20);
        let (ids, token) = env.page(context, None).await.expect("all");
        assert_eq!((ids.len(), token.as_str()), (101, ""));
    }

    #[tokio::test]
    #[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
    async fn an_artifact_without_a_type_is_refused() {
        let mut env = TestEnv::real().await;
        let request = PutArtifactsRequest { artifacts: vec![Artifact::default()] };
        let refusal = env.client.put_artifacts(request).await.expect_err("invalid");
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal:?}");
    }

    #[tokio::test]
    #[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
    async fn invalid_pages_are_refused() {
        let env = TestEnv::real().await;
        let context = env.put_run(&Run::tfx_v1("penguin", "run")).await;
        assert_eq!(env.page(context, page_of(0, "")).await.expect("no rows"), (vec![], String::new()));
        put(&env, "run", 1).await;
        for options in [page_of(0, ""), page_of(-1, ""), page_of(1, "no token")] {
            let refusal = env.page(context, options).await.expect_err("invalid");
            assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal:?}");
        }
    }
}
