//! Runs whose metadata is large.

use prost::Message;
use test_support::ml_metadata::{
    Attribution, PutArtifactsRequest, PutAttributionsAndAssociationsRequest, Value, value::Value as AnyValue,
};
use tokio::task::JoinSet;

use super::*;

/// A pushed model with a property of this size.
fn model(number: usize, bytes: usize) -> Model {
    let name = format!("model {number}");
    Model::pushed(&format!("gs://root/{number}")).named(&name).property("document", "x".repeat(bytes))
}

fn locations(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|number| format!("gs://root/{number}")).collect()
}

/// The server accepts the token of a page for the next page of another size.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn pages_shrink_and_grow_within_a_listing() {
    let harness = Harness::start().await;
    let run = harness.writer.tfx_run("penguin", "run-x").await;
    for first in (0..100).step_by(20) {
        let task = Task::new(&format!("Pusher.{first}"));
        run.task((first..first + 20).fold(task, |task, number| task.output(model(number, 10)))).await;
    }
    // More than a page of ten may have, and then of 100 again.
    for number in 100..112 {
        run.task(Task::new(&format!("Pusher.{number}")).output(model(number, 1_000_000))).await;
    }
    for number in 112..130 {
        run.task(Task::new(&format!("Pusher.{number}")).output(model(number, 10))).await;
    }
    assert_eq!(harness.locations(&compiled("run-x")).await, locations(0..130));
}

/// A client may write 4 MiB in all, and the server adds to that.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_row_that_is_too_large_ends_the_lookup() {
    let harness = Harness::start().await;
    let run = harness.writer.tfx_run("penguin", "run-x").await;
    run.task(Task::pusher("gs://root/0")).await;
    let type_id = Some(harness.writer.artifact_type("PushedModel").await);
    let mut artifact = Artifact { type_id, uri: Some("gs://root/1".to_owned()), ..Artifact::default() };
    let size = |artifact: &Artifact| PutArtifactsRequest { artifacts: vec![artifact.clone()] }.encoded_len();
    let mut document = |bytes| {
        let value = Value { value: Some(AnyValue::StringValue("x".repeat(bytes))) };
        artifact.custom_properties.insert("document".to_owned(), value);
        size(&artifact)
    };
    let rest = 4 * 1024 * 1024 - document(4_000_000);
    assert_eq!(document(4_000_000 + rest), 4 * 1024 * 1024);
    let ids = harness.writer.put_artifacts(vec![artifact]).await;
    let attributions = vec![Attribution { artifact_id: Some(ids[0]), context_id: Some(run.context) }];
    let request = PutAttributionsAndAssociationsRequest { attributions, ..Default::default() };
    harness.writer.client.clone().put_attributions_and_associations(request).await.expect("attributed");
    for _ in 0..2 {
        assert_eq!(harness.find(&compiled("run-x")).await, Err(LookupError::TooLarge));
    }
}

/// Runs of one namespace with large metadata, and small runs of another one.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn large_runs_of_a_namespace_are_no_obstacle_to_another() {
    let harness = Arc::new(Harness::start().await);
    let large = harness.writer.tfx_run("penguin", "large").await;
    for number in 0..12 {
        large.task(Task::new(&format!("Pusher.{number}")).output(model(number, 600_000))).await;
    }
    harness.writer.tfx_run("penguin", "run-x").await.task(Task::pusher("gs://root/0")).await;
    let mut tenants = JoinSet::new();
    for _ in 0..4 {
        let harness = harness.clone();
        tenants.spawn(async move {
            loop {
                let run = Workflow { namespace: "team-large".into(), ..compiled("large") };
                match harness.find(&run).await {
                    Ok(found) => assert_eq!(found.models.len(), 12),
                    Err(error) => assert!(matches!(error, LookupError::Failed { code: "overloaded", .. }), "{error:?}"),
                }
            }
        });
    }
    for _ in 0..30 {
        assert_eq!(harness.locations(&compiled("run-x")).await, ["gs://root/0"]);
    }
    tenants.shutdown().await;
}
