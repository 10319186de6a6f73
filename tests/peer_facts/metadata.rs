//! ML Metadata's responses to the product's calls.

use std::{collections::BTreeSet, time::Duration};

use test_support::{
    Model, Peers, StoredRun, Task, Writer,
    ml_metadata::{
        Artifact, Event, Execution, GetArtifactTypeRequest, GetArtifactsByContextRequest,
        GetContextByTypeAndNameRequest, GetEventsByArtifactIDsRequest, GetExecutionsByContextRequest,
        GetParentContextsByContextRequest, ListOperationOptions, PutArtifactsRequest, event::Type, execution::State,
    },
};
use tonic::Code;

async fn artifacts(writer: &Writer, context: i64) -> Vec<Artifact> {
    let request = GetArtifactsByContextRequest { context_id: Some(context), options: None };
    writer.client.clone().get_artifacts_by_context(request).await.expect("GetArtifactsByContext").into_inner().artifacts
}

async fn executions(writer: &Writer, context: i64) -> Vec<Execution> {
    let request = GetExecutionsByContextRequest { context_id: Some(context), options: None };
    let answer = writer.client.clone().get_executions_by_context(request).await;
    answer.expect("GetExecutionsByContext").into_inner().executions
}

async fn events(writer: &Writer, artifact: i64) -> Vec<Event> {
    let request = GetEventsByArtifactIDsRequest { artifact_ids: vec![artifact] };
    let answer = writer.client.clone().get_events_by_artifact_i_ds(request).await;
    answer.expect("GetEventsByArtifactIDs").into_inner().events
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_absent_context_is_ok_and_empty() {
    let peers = Peers::find().await;
    let store = peers.metadata_store().await;
    let mut writer = store.writer().await;
    for type_is_known in [false, true] {
        if type_is_known {
            writer.context_type("pipeline_run").await;
        }
        let request = GetContextByTypeAndNameRequest {
            type_name: Some("pipeline_run".to_owned()),
            context_name: Some("absent".to_owned()),
        };
        let answer = writer.client.get_context_by_type_and_name(request).await;
        assert_eq!(answer.expect("OK").into_inner().context, None, "type known: {type_is_known}");
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_input_is_among_a_runs_artifacts_with_an_input_event() {
    let peers = Peers::find().await;
    let store = peers.metadata_store().await;
    let writer = store.writer().await;
    let earlier = writer.tfx_run("penguin", "run-1").await.task(Task::pusher("gs://root/1")).await;
    let model = earlier.artifacts[0];

    let run = writer.tfx_run("penguin", "run-2").await;
    let later = run.task(Task::new("Evaluator").input(Model::existing(model, "model"))).await;
    let listed = artifacts(&writer, run.context).await;
    assert_eq!(listed.iter().map(Artifact::id).collect::<Vec<_>>(), [model]);

    let mut seen: Vec<_> =
        events(&writer, model).await.iter().map(|event| (event.execution_id(), event.r#type())).collect();
    seen.sort();
    assert_eq!(seen, [(earlier.execution, Type::Output), (later.execution, Type::Input)]);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_artifact_has_the_name_of_its_type_and_its_properties() {
    let peers = Peers::find().await;
    let store = peers.metadata_store().await;
    let writer = store.writer().await;
    let run = writer.tfx_run("penguin", "run-1").await;
    let task = Task::new("Pusher")
        .output(Model::pushed("gs://root/1").property("name", "old-name"))
        .output(Model::unblessed(""));
    let written = run.task(task).await;

    let listed = artifacts(&writer, run.context).await;
    assert_eq!(listed.len(), 2);
    let pushed = listed.iter().find(|artifact| artifact.id() == written.artifacts[0]).expect("it is listed");
    assert_eq!((pushed.r#type(), pushed.uri()), ("PushedModel", "gs://root/1"));
    assert_eq!(pushed.name, None);
    assert!(pushed.custom_properties.contains_key("name") && pushed.custom_properties.contains_key("pushed"));
    let second = &events(&writer, written.artifacts[1]).await[0];
    let steps: Vec<_> = second.path.as_ref().expect("a path").steps.iter().map(|step| step.value.clone()).collect();
    use test_support::ml_metadata::event::path::step::Value::{Index, Key};
    assert_eq!(steps, [Some(Key("pushed_model".to_owned())), Some(Index(1))]);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_last_page_has_no_token() {
    let peers = Peers::find().await;
    let store = peers.metadata_store().await;
    let mut writer = store.writer().await;
    let run = writer.tfx_run("penguin", "run-1").await;
    let mut task = Task::new("Pusher");
    for version in 0..25 {
        task = task.output(Model::pushed(&format!("gs://root/{version}")));
    }
    let written: BTreeSet<i64> = run.task(task).await.artifacts.into_iter().collect();
    assert_eq!(written.len(), 25);

    let (mut listed, mut sizes, mut token) = (BTreeSet::new(), Vec::new(), None);
    loop {
        let options = ListOperationOptions { max_result_size: Some(10), next_page_token: token };
        let request = GetArtifactsByContextRequest { context_id: Some(run.context), options: Some(options) };
        let page = writer.client.get_artifacts_by_context(request).await.expect("a page").into_inner();
        sizes.push(page.artifacts.len());
        listed.extend(page.artifacts.iter().map(Artifact::id));
        token = page.next_page_token.filter(|token| !token.is_empty());
        if token.is_none() {
            break;
        }
    }
    assert_eq!((listed, sizes), (written, vec![10, 10, 5]));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_parent_of_a_kubeflow_v2_run_is_its_pipeline() {
    let peers = Peers::find().await;
    let store = peers.metadata_store().await;
    let mut writer = store.writer().await;
    let run = writer.kfp_run("penguin", "0b7ee1d6", "team").await;
    assert_eq!(writer.find_context("system.PipelineRun", "0b7ee1d6").await, Some(run.context));
    let request = GetParentContextsByContextRequest { context_id: Some(run.context) };
    let parents = writer.client.get_parent_contexts_by_context(request).await.expect("an answer").into_inner().contexts;
    let parents: Vec<_> = parents.iter().map(|parent| (parent.r#type(), parent.name())).collect();
    assert_eq!(parents, [("system.Pipeline", "penguin")]);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_cached_task_is_a_new_execution_with_an_old_artifact() {
    let peers = Peers::find().await;
    let store = peers.metadata_store().await;
    let writer = store.writer().await;
    let push =
        |run: StoredRun, model| async move { run.task(Task::new("push").output(model).state(State::Cached)).await };
    let model = Model::new("system.Model", "pushed_model", "gs://root/1").property("pushed", 1);
    let first = push(writer.kfp_run("penguin", "run-1", "team").await, model).await;
    let again = Model::existing(first.artifacts[0], "pushed_model");
    let run = writer.kfp_run("penguin", "run-2", "team").await;
    let second = push(run.clone(), again).await;

    let listed = executions(&writer, run.context).await;
    assert_eq!(
        listed.iter().map(|listed| (listed.id(), listed.last_known_state())).collect::<Vec<_>>(),
        [(second.execution, State::Cached)]
    );
    let outputs: BTreeSet<i64> = events(&writer, first.artifacts[0]).await.iter().map(Event::execution_id).collect();
    assert_eq!(outputs, BTreeSet::from([first.execution, second.execution]));
    assert_eq!(artifacts(&writer, run.context).await.len(), 1);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_server_sets_creation_times_and_a_test_can_backdate_them() {
    let peers = Peers::find().await;
    let store = peers.metadata_store().await;
    let writer = store.writer().await;
    let run = writer.tfx_run("penguin", "run-1").await;
    let written = run.task(Task::pusher("gs://root/1")).await;
    let before = executions(&writer, run.context).await[0].create_time_since_epoch();
    assert!(before > 1_700_000_000_000, "milliseconds: {before}");
    store.backdate(written.execution, Duration::from_secs(600));
    assert_eq!(executions(&writer, run.context).await[0].create_time_since_epoch(), before - 600_000);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn errors_have_codes() {
    let peers = Peers::find().await;
    let store = peers.metadata_store().await;
    let mut client = store.writer().await.client;
    let request = GetArtifactTypeRequest { type_name: Some("Nothing".to_owned()) };
    let refusal = client.get_artifact_type(request).await.expect_err("there is no such type");
    assert_eq!(refusal.code(), Code::NotFound, "{refusal:?}");
    let request = PutArtifactsRequest { artifacts: vec![Artifact::default()] };
    let refusal = client.put_artifacts(request).await.expect_err("an artifact needs a type");
    assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal:?}");
}
