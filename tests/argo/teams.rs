//! The examples for two teams on one server.

use kube::api::DynamicObject;
use serde_json::json;
use test_support::{PIPELINE, Workflows, examples};

use crate::{Argo, Harness, InferenceServices, location, started};

/// Applies a team's file and starts its EventSource and Sensor.
async fn start_team(harness: &Harness, file: &str) -> Argo {
    let objects = examples::objects(file);
    harness.apply_accounts(&objects).await;
    let sensor = examples::find(&objects, "Sensor");
    harness.argo(&examples::find(&objects, "EventSource"), &[&sensor]).await
}

/// Neither can access the objects of the other.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn two_teams_on_one_server_receive_only_their_own_models() {
    let harness = Harness::start().await;
    for namespace in ["team-a", "team-b"] {
        harness.cluster.create_namespace(namespace).await;
    }
    let services = harness.inference_services("team-a").await;
    services.create("penguin").await;
    let server = harness.serve().await;
    let (team_a, team_b) = tokio::join!(
        start_team(&harness, "multi-tenant/team-a.yaml"),
        start_team(&harness, "multi-tenant/team-b.yaml")
    );

    // Pipelines of the same name in turns: an event for the wrong team is received before the last one of its own.
    harness.succeed("team-a", PIPELINE, "team-a-1").await;
    harness.succeed("team-b", PIPELINE, "team-b-1").await;
    harness.succeed("team-b", "penguin-pipeline-experimental", "team-b-other").await;
    for team in [&team_a, &team_b] {
        // Before the next one, which would supersede it.
        team.received(1).await;
    }
    harness.succeed("team-a", PIPELINE, "team-a-2").await;
    harness.succeed("team-b", PIPELINE, "team-b-2").await;
    for team in [&team_a, &team_b] {
        team.triggered(2).await;
        team.received(2).await;
    }
    services.serves("penguin", "team-a-2").await;
    let started_by_b = started(&harness.cluster.workflows("team-b").await).await;
    let mut parameters: Vec<_> = started_by_b.into_iter().map(|(_, parameters)| parameters).collect();
    parameters.sort_by_key(|parameters| parameters[1].to_string());
    assert_eq!(parameters, ["team-b-1", "team-b-2"].map(|run| vec![json!(PIPELINE), json!(location(run))]));
    assert_eq!(started(&harness.cluster.workflows("team-a").await).await, []);
    for run in ["1", "2"] {
        harness.marked("team-a", &format!("team-a-{run}"), "team-a-deployer").await;
        harness.marked("team-b", &format!("team-b-{run}"), "team-b-deployer").await;
    }

    let token = harness.token("team-a", "deploy-penguin").await;
    let services = InferenceServices::new(harness.cluster.client_with(&token).await, "team-b");
    assert_forbidden(services.0.get("penguin").await);
    let token = harness.token("team-b", "roll-out-model-sensor").await;
    let workflows = Workflows::new(harness.cluster.client_with(&token).await, "team-a");
    assert_forbidden(workflows.api().get("team-a-1").await);
    server.stop().await;
}

fn assert_forbidden(answer: kube::Result<DynamicObject>) {
    assert!(matches!(&answer, Err(kube::Error::Api(status)) if status.code == 403), "{answer:?}");
}
