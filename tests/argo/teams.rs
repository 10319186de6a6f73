//! The set for two teams on one server.

use kube::api::DynamicObject;
use serde_json::json;
use test_support::{Workflows, examples};

use crate::{Argo, InferenceServices, PIPELINE, World, location, started};

/// A team's files, applied and running.
async fn team(world: &World, file: &str) -> Argo {
    let objects = examples::objects(file);
    world.apply_rights(&objects).await;
    let sensor = examples::find(&objects, "Sensor");
    world.argo(&examples::find(&objects, "EventSource"), &[&sensor]).await
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn two_teams_on_one_server_get_their_own_models_and_cannot_touch_each_others() {
    let world = World::start().await;
    for namespace in ["team-a", "team-b"] {
        world.create_namespace(namespace).await;
    }
    let services = world.inference_services("team-a").await;
    services.create("penguin").await;
    let server = world.serve().await;
    let (team_a, team_b) =
        tokio::join!(team(&world, "multi-tenant/team-a.yaml"), team(&world, "multi-tenant/team-b.yaml"));

    // In turns, from pipelines of the same name; what one team got by mistake would come before the last run of its own.
    world.succeeded("team-a", PIPELINE, "team-a-1").await;
    let first = world.succeeded("team-b", PIPELINE, "team-b-1").await;
    world.succeeded("team-b", "other-pipeline", "team-b-other").await;
    world.succeeded("team-a", PIPELINE, "team-a-2").await;
    let second = world.succeeded("team-b", PIPELINE, "team-b-2").await;
    for team in [&team_a, &team_b] {
        team.triggered(2).await;
        team.received(2).await;
    }
    services.serves("penguin", "team-a-2").await;
    let workflow = |uid: &str, run| (format!("roll-out-{uid}"), vec![json!(PIPELINE), json!(location(run))]);
    let mut expected = [workflow(&first, "team-b-1"), workflow(&second, "team-b-2")];
    expected.sort_by_key(|(name, _)| name.clone());
    assert_eq!(started(&world.cluster.workflows("team-b").await).await, expected);
    assert_eq!(started(&world.cluster.workflows("team-a").await).await, []);
    for run in ["1", "2"] {
        world.marked("team-a", &format!("team-a-{run}"), "team-a-deployer").await;
        world.marked("team-b", &format!("team-b-{run}"), "team-b-deployer").await;
    }

    let deployer = world.token("team-a", "deploy-penguin").await;
    let deployer = InferenceServices::new(world.cluster.client_with(&deployer).await, "team-b");
    forbidden(deployer.0.get("penguin").await);
    let starter = world.token("team-b", "roll-out-model-sensor").await;
    let starter = Workflows::new(world.cluster.client_with(&starter).await, "team-a");
    forbidden(starter.api().get("team-a-1").await);
    server.stop().await;
}

fn forbidden(answer: kube::Result<DynamicObject>) {
    assert!(matches!(&answer, Err(kube::Error::Api(status)) if status.code == 403), "{answer:?}");
}
