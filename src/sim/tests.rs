//! Tests beside `tests/sim`, which holds the simulation to the real servers.

use std::time::Duration;

use futures::TryStreamExt;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
    runtime::watcher::{self, Event, watcher},
};
use serde_json::json;
use tokio::time::timeout;

use super::*;

async fn within_20_s<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

fn api(sim: &Sim) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Workflow"));
    Api::namespaced_with(Client::try_from(sim.kube_config()).unwrap(), "team", &resource)
}

fn create(sim: &Sim, name: &str) -> Arc<Value> {
    sim.create_workflow("team", NewWorkflow::tfx_v1(name, "penguin-pipeline")).unwrap()
}

#[tokio::test]
async fn the_watcher_of_kube_lists_in_pages_and_follows_changes() {
    let sim = Sim::start().await.unwrap();
    for number in 0..5 {
        create(&sim, &format!("run-{number}"));
    }
    sim.create_workflow("team", NewWorkflow::named("no-run")).unwrap();
    let config = watcher::Config::default().labels("pipeline/runid").page_size(2).timeout(60);
    let mut events = std::pin::pin!(watcher(api(&sim), config));
    let mut listed = Vec::new();
    loop {
        match within_20_s(events.try_next()).await.unwrap().unwrap() {
            Event::InitApply(object) => listed.push(object.metadata.name.unwrap()),
            Event::InitDone => break,
            Event::Init => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(listed, ["run-0", "run-1", "run-2", "run-3", "run-4"]);

    sim.set_phase("team", "no-run", "Running").unwrap();
    sim.set_phase("team", "run-3", "Succeeded").unwrap();
    let Event::Apply(object) = within_20_s(events.try_next()).await.unwrap().unwrap() else { panic!("no change") };
    assert_eq!(object.metadata.labels.unwrap()["workflows.argoproj.io/phase"], "Succeeded");
    sim.delete_workflow("team", "run-4").unwrap();
    let Event::Delete(object) = within_20_s(events.try_next()).await.unwrap().unwrap() else { panic!("no deletion") };
    assert_eq!(object.metadata.name.unwrap(), "run-4");
    assert_eq!(sim.requests().borrow().watches, 1);
}

#[tokio::test]
async fn patches_are_stored_or_refused_and_counted() {
    let sim = Sim::start().await.unwrap();
    let uid = create(&sim, "run")["metadata"]["uid"].clone();
    let (api, params) = (api(&sim), PatchParams::default());
    let patch = json!({"metadata": {"uid": uid, "annotations": {"mark": uid}}});
    let answer = api.patch_metadata("run", &params, &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(answer.types.unwrap().kind, "PartialObjectMetadata");
    assert_eq!(sim.workflow("team", "run").unwrap()["metadata"]["annotations"]["mark"], uid);

    sim.refuse_patches(Some(StatusCode::FORBIDDEN));
    let refused = api.patch("run", &params, &Patch::Merge(&patch)).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    sim.refuse_patches(None);
    api.patch("run", &params, &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(sim.requests().borrow().patches, 3);
}

#[tokio::test]
async fn unsupported_requests_are_refused() {
    let sim = Sim::start().await.unwrap();
    for params in [
        ListParams::default().fields("metadata.name=run"),
        ListParams::default().labels("a!=b"),
        ListParams::default().labels("a in (b)"),
    ] {
        let refused = api(&sim).list(&params).await.unwrap_err();
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 400), "{refused}");
    }
}
