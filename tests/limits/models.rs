//! Runs with large metadata in ML Metadata.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use model_update_eventsource::eventsource::Subscriber;
use test_support::{
    NewWorkflow, Run, SOON, Writer, eventually,
    ml_metadata::{
        Artifact, Association, Attribution, Execution, PutAttributionsAndAssociationsRequest, PutExecutionsRequest,
        Value, value,
    },
    report,
};
use tokio_util::sync::CancellationToken;

use crate::{
    exclusive,
    harness::{MAX_LATENCY, Observation, Real},
};

/// Artifacts and executions of a context.
const ROWS: usize = 100;
/// Size of a property of each of them.
const LARGE: usize = 600_000;
/// Contexts with these artifacts and executions, each of a run.
const RUNS: usize = 4;
/// Calls of ML Metadata for an event, one after the other, and one for a call that began before.
const CALLS: u32 = 5;
/// Rows in a request to ML Metadata, which has at most 4 MB.
const PER_REQUEST: usize = 5;

/// Contexts with 60 MB of artifacts and as many of executions neither end the server nor delay another tenant.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn large_answers_of_ml_metadata_harm_nobody() {
    let _exclusive = exclusive().await;
    let env = Real::start().await;
    let (namespace, workflows) = env.namespace("models").await;
    let server = env.server(&[]).await;
    let name = |number: usize| format!("{namespace}-{number}");
    write(&env, &namespace, &(0..RUNS).map(name).collect::<Vec<_>>()).await;
    let observation = Observation::start("row 2, large metadata", &server, env.tenant().await).await;

    let stop = CancellationToken::new();
    let bare = tokio::spawn(bare_calls(env.writer.clone(), stop.clone()));

    let mut subscriber = Subscriber::connect(format!("http://{}", server.listen)).await.unwrap();
    let _stream = subscriber.subscribe("models", &format!("kfpNamespace: {namespace}")).await.unwrap();
    for number in 0..RUNS {
        workflows.create(NewWorkflow::tfx_v1(&name(number), &namespace).phase("Succeeded")).await;
    }
    eventually(SOON * 3, "the runs are too large", async || {
        server.metric("modelupdate_mlmd_lookups_total", &["outcome=\"too_large\""]).await >= 1.0
    })
    .await;
    assert!(server.metric("modelupdate_limit_hits_total", &["limit=\"metadata_answer\""]).await > 0.0);
    stop.cancel();
    let slowest = bare.await.expect("the store answers");
    report(format_args!("  the slowest of the bare calls of the store took {slowest:.1?}"));
    observation.finish().await.assert_unharmed_within(MAX_LATENCY + slowest * CALLS);
    env.clear(&workflows).await;
}

/// Calls the store as long as the test runs, and returns the duration of the slowest call. This store handles one call at
/// a time, so each waits for those about large rows. What such calls add to an event is not the server's.
async fn bare_calls(writer: Writer, stop: CancellationToken) -> Duration {
    let mut slowest = Duration::ZERO;
    while !stop.is_cancelled() {
        let started = Instant::now();
        writer.find_context("pipeline_run", "absent").await;
        slowest = slowest.max(started.elapsed());
    }
    slowest
}

/// Writes the artifacts and executions, and adds them to the contexts of the runs with these names.
async fn write(env: &Real, pipeline: &str, runs: &[String]) {
    let document = Value { value: Some(value::Value::StringValue("x".repeat(LARGE))) };
    let custom_properties = HashMap::from([("document".to_owned(), document)]);
    let (artifact_type, execution_type) =
        tokio::join!(env.writer.artifact_type("PushedModel"), env.writer.execution_type("tfx.components.Pusher"));
    let (mut artifacts, mut executions) = (Vec::new(), Vec::new());
    for first in (0..ROWS).step_by(PER_REQUEST) {
        let uri = |number| Some(format!("gs://root/{number}"));
        let rows = (first..first + PER_REQUEST).map(|number| Artifact {
            type_id: Some(artifact_type),
            uri: uri(number),
            custom_properties: custom_properties.clone(),
            ..Artifact::default()
        });
        artifacts.extend(env.writer.put_artifacts(rows.collect()).await);
        let row = Execution {
            type_id: Some(execution_type),
            custom_properties: custom_properties.clone(),
            ..Execution::default()
        };
        let request = PutExecutionsRequest { executions: vec![row; PER_REQUEST] };
        let answer = env.writer.client.clone().put_executions(request).await.expect("written");
        executions.extend(answer.into_inner().execution_ids);
    }
    for run in runs {
        let context_id = Some(env.writer.put_run(&Run::tfx_v1(pipeline, run)).await.context);
        let associations = executions.iter().map(|&id| Association { execution_id: Some(id), context_id });
        let attributions = artifacts.iter().map(|&id| Attribution { artifact_id: Some(id), context_id });
        let request = PutAttributionsAndAssociationsRequest {
            associations: associations.collect(),
            attributions: attributions.collect(),
        };
        env.writer.client.clone().put_attributions_and_associations(request).await.expect("added");
    }
}
