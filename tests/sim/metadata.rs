//! Scenarios for ML Metadata.

use std::collections::BTreeSet;

use model_update_eventsource::sim::{self, Sim};
use test_support::{
    MetadataStore, Peers, Writer,
    ml_metadata::{
        Artifact, Context, Event, Execution, GetArtifactTypeRequest, GetArtifactsByContextRequest,
        GetContextByTypeAndNameRequest, GetContextsByExecutionRequest, GetEventsByArtifactIDsRequest,
        GetExecutionsByContextRequest, GetParentContextsByContextRequest, ListOperationOptions, artifact,
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
    a_run_of_tfx_has_its_contexts,
    a_run_of_kubeflow_v2_lies_below_its_pipeline,
    what_a_run_only_read_is_listed_among_its_artifacts,
    an_artifact_comes_with_its_types_name_its_properties_and_its_place,
    a_cached_task_is_a_new_execution_that_puts_out_an_old_artifact,
    listings_come_in_pages_in_the_order_of_the_ids,
    a_page_has_as_many_rows_as_asked_for_else_twenty_and_without_options_all,
    odd_pages_are_refused,
    an_unknown_type_is_not_found,
    unknown_ids_are_empty_or_not_found,
);

/// A store, and the way to write into it: the real one is written through its API, the simulated one by its driver.
struct World {
    client: MetadataStoreServiceClient<Channel>,
    store: Store,
}

enum Store {
    Simulated(Sim),
    Real(Writer, #[expect(dead_code, reason = "it ends with the test")] MetadataStore),
}

enum Run {
    Simulated(sim::Run),
    Real(test_support::Run),
}

/// A task in the words of both.
#[derive(Default)]
struct Task<'a> {
    /// Ids of what is there already.
    reads: &'a [i64],
    puts_out_again: &'a [i64],
    pushes: &'a [&'a str],
    cached: bool,
}

#[derive(Debug)]
struct Written {
    execution: i64,
    artifacts: Vec<i64>,
}

impl World {
    async fn simulated() -> Self {
        let sim = Sim::start().await.expect("a simulation");
        let client = MetadataStoreServiceClient::connect(sim.metadata_url()).await.expect("it listens");
        Self { client, store: Store::Simulated(sim) }
    }

    async fn real() -> Self {
        let store = Peers::find().await.metadata_store().await;
        let writer = store.writer().await;
        Self { client: writer.client.clone(), store: Store::Real(writer, store) }
    }

    async fn tfx_run(&self, pipeline: &str, workflow: &str) -> Run {
        match &self.store {
            Store::Simulated(sim) => Run::Simulated(sim.put_tfx_run(pipeline, workflow)),
            Store::Real(writer, _) => Run::Real(writer.tfx_run(pipeline, workflow).await),
        }
    }

    async fn kfp_run(&self, pipeline: &str, run_id: &str, namespace: &str) -> Run {
        match &self.store {
            Store::Simulated(sim) => Run::Simulated(sim.put_kfp_run(pipeline, run_id, namespace)),
            Store::Real(writer, _) => Run::Real(writer.kfp_run(pipeline, run_id, namespace).await),
        }
    }

    async fn task(&self, run: &Run, task: Task<'_>) -> Written {
        match (&self.store, run) {
            (Store::Simulated(sim), Run::Simulated(run)) => {
                let mut new = sim::Task::new("Pusher");
                for &id in task.reads {
                    new = new.input(sim::Model::existing(id, "model"));
                }
                for &id in task.puts_out_again {
                    new = new.output(sim::Model::existing(id, "pushed_model"));
                }
                for uri in task.pushes {
                    new = new.output(sim::Model::pushed(uri).text("name", "old-name"));
                }
                let written = sim.put_task(run, if task.cached { new.cached() } else { new });
                Written { execution: written.execution, artifacts: written.artifacts }
            }
            (Store::Real(..), Run::Real(run)) => {
                let mut new = test_support::Task::new("Pusher");
                for &id in task.reads {
                    new = new.input(test_support::Model::existing(id, "model"));
                }
                for &id in task.puts_out_again {
                    new = new.output(test_support::Model::existing(id, "pushed_model"));
                }
                for uri in task.pushes {
                    let model = test_support::Model::pushed(uri).text("pushed_destination", uri);
                    new = new.output(model.text("name", "old-name"));
                }
                let written = run.task(if task.cached { new.state(State::Cached) } else { new }).await;
                Written { execution: written.execution, artifacts: written.artifacts }
            }
            _ => unreachable!("a run belongs to its store"),
        }
    }

    async fn push(&self, run: &Run, uris: &[&str]) -> Written {
        self.task(run, Task { pushes: uris, ..Task::default() }).await
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

impl Run {
    fn context(&self) -> i64 {
        match self {
            Self::Simulated(run) => run.context,
            Self::Real(run) => run.context,
        }
    }
}

fn named(contexts: &[Context]) -> BTreeSet<(&str, &str)> {
    contexts.iter().map(|context| (context.r#type(), context.name())).collect()
}

fn text(value: Option<&test_support::ml_metadata::Value>) -> Option<&str> {
    match &value?.value {
        Some(value::Value::StringValue(text)) => Some(text),
        _ => None,
    }
}

fn page_of(size: i32, token: &str) -> Option<ListOperationOptions> {
    Some(ListOperationOptions { max_result_size: Some(size), next_page_token: Some(token.to_owned()) })
}

async fn an_absent_context_is_ok_and_empty(world: World) {
    assert_eq!(world.context("pipeline_run", "nobody").await, None);
    world.tfx_run("penguin", "run").await;
    assert_eq!(world.context("pipeline_run", "nobody").await, None);
    assert_eq!(world.context("system.PipelineRun", "run").await, None);
}

async fn a_run_of_tfx_has_its_contexts(world: World) {
    let run = world.tfx_run("penguin", "run").await;
    let context = world.context("pipeline_run", "run").await.expect("it is there");
    assert_eq!((context.id(), context.r#type(), context.name()), (run.context(), "pipeline_run", "run"));
    let written = world.push(&run, &["gs://root/1"]).await;
    let contexts = world.contexts_of(written.execution).await.expect("contexts");
    let expected = [("pipeline", "penguin"), ("pipeline_run", "run"), ("node", "penguin.Pusher")];
    assert_eq!(named(&contexts), BTreeSet::from(expected));
    assert!(world.parents(run.context()).await.is_empty());
    let execution = &world.executions(run.context()).await[0];
    assert_eq!((execution.r#type(), execution.last_known_state()), ("tfx.components.Pusher", State::Complete));
    assert!(execution.create_time_since_epoch() > 1_700_000_000_000, "milliseconds");
}

async fn a_run_of_kubeflow_v2_lies_below_its_pipeline(world: World) {
    let run = world.kfp_run("penguin", "0b7ee1d6", "team").await;
    let context = world.context("system.PipelineRun", "0b7ee1d6").await.expect("it is there");
    assert_eq!(context.id(), run.context());
    assert_eq!(text(context.custom_properties.get("namespace")), Some("team"));
    assert_eq!(text(context.custom_properties.get("resource_name")), Some("run-resource"));
    assert_eq!(named(&world.parents(run.context()).await), BTreeSet::from([("system.Pipeline", "penguin")]));
    let written = world.push(&run, &["gs://root/1"]).await;
    let execution = &world.executions(run.context()).await[0];
    assert_eq!((execution.id(), execution.r#type()), (written.execution, "system.ContainerExecution"));
    for property in ["task_name", "display_name"] {
        assert_eq!(text(execution.custom_properties.get(property)), Some("Pusher"), "{property}");
    }
    let artifact = &world.artifacts(run.context()).await[0];
    assert_eq!(text(artifact.custom_properties.get("display_name")), Some("pushed_model"));
}

async fn what_a_run_only_read_is_listed_among_its_artifacts(world: World) {
    let earlier = world.tfx_run("penguin", "run-1").await;
    let earlier = world.push(&earlier, &["gs://root/1"]).await;
    let run = world.tfx_run("penguin", "run-2").await;
    let later = world.task(&run, Task { reads: &earlier.artifacts, ..Task::default() }).await;
    let listed: Vec<_> = world.artifacts(run.context()).await.iter().map(Artifact::id).collect();
    assert_eq!((&listed, &later.artifacts), (&earlier.artifacts, &earlier.artifacts));
    let events = world.events(&listed).await;
    let seen: BTreeSet<_> = events.iter().map(|event| (event.execution_id(), event.r#type())).collect();
    assert_eq!(seen, BTreeSet::from([(earlier.execution, Type::Output), (later.execution, Type::Input)]));
}

async fn an_artifact_comes_with_its_types_name_its_properties_and_its_place(world: World) {
    let run = world.tfx_run("penguin", "run").await;
    let written = world.push(&run, &["gs://root/1", ""]).await;
    let [pushed, without_uri] = &world.artifacts(run.context()).await[..] else { panic!("two artifacts") };
    assert_eq!([pushed.id(), without_uri.id()], written.artifacts[..]);
    assert_eq!((pushed.r#type(), pushed.uri(), &pushed.name), ("PushedModel", "gs://root/1", &None));
    assert_eq!((pushed.state(), without_uri.uri.as_deref()), (artifact::State::Live, Some("")));
    let keys: BTreeSet<_> = pushed.custom_properties.keys().map(String::as_str).collect();
    assert_eq!(keys, BTreeSet::from(["name", "pushed", "pushed_destination"]));
    assert_eq!(pushed.custom_properties["pushed"].value, Some(value::Value::IntValue(1)));
    assert_eq!(text(pushed.custom_properties.get("name")), Some("old-name"));

    let request = GetArtifactTypeRequest { type_name: Some("PushedModel".to_owned()) };
    let known = world.client.clone().get_artifact_type(request).await.expect("known").into_inner().artifact_type;
    assert_eq!(known.expect("a type").id(), pushed.type_id());

    let events = world.events(&written.artifacts[1..]).await;
    let steps: Vec<_> = events[0].path.as_ref().expect("a path").steps.iter().map(|step| step.value.clone()).collect();
    assert_eq!(steps, [Some(step::Value::Key("pushed_model".to_owned())), Some(step::Value::Index(1))]);
}

async fn a_cached_task_is_a_new_execution_that_puts_out_an_old_artifact(world: World) {
    let first = world.kfp_run("penguin", "run-1", "team").await;
    let first = world.push(&first, &["gs://root/1"]).await;
    let run = world.kfp_run("penguin", "run-2", "team").await;
    let task = Task { puts_out_again: &first.artifacts, cached: true, ..Task::default() };
    let second = world.task(&run, task).await;
    let executions = world.executions(run.context()).await;
    let states: Vec<_> = executions.iter().map(|found| (found.id(), found.last_known_state())).collect();
    assert_eq!(states, [(second.execution, State::Cached)]);
    let events = world.events(&first.artifacts).await;
    let outputs: BTreeSet<_> = events.iter().map(|event| (event.execution_id(), event.r#type())).collect();
    assert_eq!(outputs, BTreeSet::from([(first.execution, Type::Output), (second.execution, Type::Output)]));
}

async fn listings_come_in_pages_in_the_order_of_the_ids(world: World) {
    let run = world.tfx_run("penguin", "run").await;
    let uris: Vec<String> = (0..20).map(|version| format!("gs://root/{version}")).collect();
    let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
    let written = world.push(&run, &uris).await;
    let (mut listed, mut sizes, mut token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let (ids, next) = world.page(run.context(), page_of(10, &token)).await.expect("a page");
        sizes.push(ids.len());
        listed.extend(ids);
        token = next;
        if token.is_empty() {
            break;
        }
    }
    // The last page is full, and says that it is the last.
    assert_eq!((listed, sizes), (written.artifacts, vec![10, 10]));

    for _ in 0..3 {
        world.push(&run, &[]).await;
    }
    let options = |token: Option<String>| ListOperationOptions { max_result_size: Some(3), next_page_token: token };
    let request = |options| GetExecutionsByContextRequest { context_id: Some(run.context()), options: Some(options) };
    let mut client = world.client.clone();
    let first = client.get_executions_by_context(request(options(None))).await.expect("a page").into_inner();
    let second = request(options(first.next_page_token.clone()));
    let second = client.get_executions_by_context(second).await.expect("a page").into_inner();
    assert_eq!((first.executions.len(), second.executions.len()), (3, 1));
    assert!(first.executions[2].id() < second.executions[0].id());
    assert_eq!(second.next_page_token(), "");
}

async fn a_page_has_as_many_rows_as_asked_for_else_twenty_and_without_options_all(world: World) {
    let run = world.tfx_run("penguin", "run").await;
    let uris: Vec<String> = (0..101).map(|version| format!("gs://root/{version}")).collect();
    let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
    world.push(&run, &uris).await;
    assert_eq!(world.page(run.context(), page_of(100, "")).await.expect("a page").0.len(), 100);
    assert_eq!(world.page(run.context(), page_of(1000, "")).await.expect("a page").0.len(), 101);
    let by_default = world.page(run.context(), Some(ListOperationOptions::default())).await.expect("a page");
    assert_eq!(by_default.0.len(), 20);
    let (ids, token) = world.page(run.context(), None).await.expect("all");
    assert_eq!((ids.len(), token.as_str()), (101, ""));
}

async fn odd_pages_are_refused(world: World) {
    let run = world.tfx_run("penguin", "run").await;
    assert_eq!(world.page(run.context(), page_of(0, "")).await.expect("nothing to be paged"), (vec![], String::new()));
    world.push(&run, &["gs://root/1"]).await;
    for options in [page_of(0, ""), page_of(-1, ""), page_of(1, "no token of yours")] {
        let refusal = world.page(run.context(), options).await.expect_err("odd");
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal:?}");
    }
}

async fn an_unknown_type_is_not_found(world: World) {
    let request = GetArtifactTypeRequest { type_name: Some("Nothing".to_owned()) };
    let refusal = world.client.clone().get_artifact_type(request).await.expect_err("unknown");
    assert_eq!(refusal.code(), Code::NotFound);
    assert!(refusal.message().starts_with("No type found for query, name: `Nothing`"), "{refusal:?}");
}

async fn unknown_ids_are_empty_or_not_found(world: World) {
    let nobody = 77;
    assert_eq!(world.page(nobody, None).await.expect("OK"), (vec![], String::new()));
    assert!(world.executions(nobody).await.is_empty());
    assert!(world.events(&[nobody]).await.is_empty());
    assert!(world.parents(nobody).await.is_empty());
    assert_eq!(world.contexts_of(nobody).await.expect_err("the odd one out").code(), Code::NotFound);
}
