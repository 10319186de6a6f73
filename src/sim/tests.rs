use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    runtime::watcher::{self, Event, watcher},
};
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(20);

async fn within<F: Future>(future: F) -> F::Output {
    timeout(SOON, future).await.expect("it happens soon")
}

fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Workflow"))
}

fn api(sim: &Sim) -> Api<DynamicObject> {
    let client = Client::try_from(sim.kube_config()).unwrap();
    Api::namespaced_with(client, "team", &resource())
}

fn run(name: &str) -> NewWorkflow {
    NewWorkflow::tfx_v1(name, "penguin-pipeline")
}

#[tokio::test]
async fn kubes_watcher_lists_in_pages_and_follows_what_happens() {
    let sim = Sim::start().await.unwrap();
    for number in 0..5 {
        sim.create_workflow("team", run(&format!("run-{number}"))).unwrap();
    }
    sim.create_workflow("team", NewWorkflow::named("no-run")).unwrap();
    let config = watcher::Config::default().labels("pipeline/runid").page_size(2).timeout(60);
    let mut events = watcher(api(&sim), config).boxed();
    let mut listed = Vec::new();
    loop {
        match within(events.try_next()).await.unwrap().unwrap() {
            Event::InitApply(object) => listed.push(object.metadata.name.unwrap()),
            Event::InitDone => break,
            Event::Init => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(listed, ["run-0", "run-1", "run-2", "run-3", "run-4"]);

    sim.set_phase("team", "no-run", "Running").unwrap();
    sim.set_phase("team", "run-3", "Succeeded").unwrap();
    let Event::Apply(object) = within(events.try_next()).await.unwrap().unwrap() else { panic!("a change") };
    assert_eq!(object.metadata.labels.unwrap()["workflows.argoproj.io/phase"], "Succeeded");
    sim.delete_workflow("team", "run-4").unwrap();
    let Event::Delete(object) = within(events.try_next()).await.unwrap().unwrap() else { panic!("a deletion") };
    assert_eq!(object.metadata.name.unwrap(), "run-4");

    let requests = *sim.requests().borrow();
    assert_eq!(requests, Requests { lists: 3, watches: 1, open_watches: 1, patches: 0, held: 0 });
    drop(events);
    within(sim.requests().wait_for(|requests| requests.open_watches == 0)).await.unwrap();
}

#[tokio::test]
async fn what_is_patched_through_the_api_is_seen_by_its_drivers() {
    let sim = Sim::start().await.unwrap();
    let uid = sim.create_workflow("team", run("run")).unwrap().uid;
    let api = api(&sim);
    let patch = json!({"metadata": {"uid": uid, "annotations": {"mark": uid}}});
    let answer = api.patch_metadata("run", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(answer.types.unwrap().kind, "PartialObjectMetadata");
    assert_eq!(sim.workflow("team", "run").unwrap().annotations["mark"], uid);

    sim.refuse_patches(Some(StatusCode::FORBIDDEN));
    let refused = api.patch("run", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    sim.refuse_patches(None);
    api.patch("run", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(sim.requests().borrow().patches, 3);
}

#[tokio::test]
async fn workflows_can_be_created_read_and_deleted_through_the_api() {
    let sim = Sim::start().await.unwrap();
    let api = api(&sim);
    let mut new = DynamicObject::new("run", &resource());
    new.data = json!({"spec": {"entrypoint": "main"}});
    let created = api.create(&PostParams::default(), &new).await.unwrap();
    assert_eq!(api.get("run").await.unwrap(), created);
    let deleted = api.delete("run", &Default::default()).await.unwrap().right().unwrap();
    assert_eq!(deleted.details.unwrap().uid, created.metadata.uid.unwrap());
    assert!(matches!(api.get("run").await, Err(kube::Error::Api(status)) if status.code == 404));
}

#[tokio::test]
async fn a_watch_that_ends_soon_says_before_how_far_it_has_come() {
    let sim = Sim::start().await.unwrap();
    sim.create_workflow("team", NewWorkflow::named("no-run")).unwrap();
    let parameters = WatchParams::default().labels("pipeline/runid").timeout(2);
    let events = api(&sim).watch_metadata(&parameters, "200").await.unwrap();
    let events: Vec<_> = within(events.try_collect()).await.unwrap();
    // On a busy machine a second one may be due before the end.
    let [.., WatchEvent::Bookmark(bookmark)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(bookmark.metadata.resource_version, "201");
    assert!(events.iter().all(|event| matches!(event, WatchEvent::Bookmark(_))), "{events:?}");
}

#[tokio::test]
async fn nothing_is_answered_while_the_api_server_is_paused() {
    let sim = Sim::start().await.unwrap();
    let api = api(&sim);
    let events = api.watch_metadata(&WatchParams::default(), "200").await.unwrap();
    let mut events = std::pin::pin!(events);
    sim.pause(true);
    let listing = tokio::spawn(async move { api.list_metadata(&Default::default()).await });
    within(sim.requests().wait_for(|requests| requests.held == 1)).await.unwrap();
    sim.create_workflow("team", run("run")).unwrap();
    sim.pause(false);
    // Not answered before: it would be empty.
    assert_eq!(within(listing).await.unwrap().unwrap().items.len(), 1);
    assert!(matches!(within(events.next()).await, Some(Ok(WatchEvent::Added(_)))));
}

#[tokio::test]
async fn a_version_that_is_forgotten_is_answered_with_200_and_a_410_as_event() {
    let sim = Sim::start().await.unwrap();
    sim.create_workflow("team", run("run")).unwrap();
    sim.compact();
    let mut events = std::pin::pin!(api(&sim).watch_metadata(&WatchParams::default(), "200").await.unwrap());
    let Some(Ok(WatchEvent::Error(status))) = within(events.next()).await else { panic!("an error") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    assert!(within(events.next()).await.is_none());
}

mod metadata {
    use tonic::transport::Channel;

    use super::*;
    use crate::sim::proto::{
        GetArtifactsByContextRequest, GetContextByTypeAndNameRequest, GetEventsByArtifactIDsRequest,
        GetExecutionsByContextRequest, event::Type, metadata_store_service_client::MetadataStoreServiceClient,
    };

    async fn client(sim: &Sim) -> MetadataStoreServiceClient<Channel> {
        MetadataStoreServiceClient::connect(sim.metadata_url()).await.unwrap()
    }

    #[tokio::test]
    async fn what_drivers_write_is_read_by_clients() {
        let sim = Sim::start().await.unwrap();
        let mut client = client(&sim).await;
        let run = sim.put_tfx_run("penguin", "run-x");
        let task = Task::pusher("gs://models/1").input(Model::new("Model", "model", "gs://models/in"));
        let written = sim.put_task(&run, task);

        let request = GetContextByTypeAndNameRequest {
            type_name: Some("pipeline_run".to_owned()),
            context_name: Some("run-x".to_owned()),
        };
        let context = client.get_context_by_type_and_name(request).await.unwrap().into_inner().context.unwrap();
        assert_eq!(context.id(), run.context);
        let request = GetArtifactsByContextRequest { context_id: context.id, options: None };
        let artifacts = client.get_artifacts_by_context(request).await.unwrap().into_inner().artifacts;
        let ids: Vec<_> = artifacts.iter().map(|artifact| artifact.id()).collect();
        assert_eq!(ids, written.artifacts);
        let request = GetEventsByArtifactIDsRequest { artifact_ids: ids };
        let events = client.get_events_by_artifact_i_ds(request).await.unwrap().into_inner().events;
        let directions: Vec<_> = events.iter().map(|event| event.r#type()).collect();
        assert_eq!(directions, [Type::Input, Type::Output]);
    }

    #[tokio::test]
    async fn a_forgotten_run_takes_along_what_only_it_has_to_do_with() {
        let sim = Sim::start().await.unwrap();
        let mut client = client(&sim).await;
        let first = sim.put_kfp_run("penguin", "1", "team");
        let written = sim.put_task(&first, Task::pusher("gs://models/1").output(Model::pushed("gs://models/2")));
        let second = sim.put_kfp_run("penguin", "2", "team");
        sim.put_task(&second, Task::new("Evaluator").input(Model::existing(written.artifacts[1], "model")));
        sim.forget_run(&first);

        for (context, left) in [(first.context, 0), (second.context, 1), (second.pipeline, 1)] {
            let request = GetArtifactsByContextRequest { context_id: Some(context), options: None };
            let artifacts = client.get_artifacts_by_context(request).await.unwrap().into_inner().artifacts;
            assert_eq!(artifacts.len(), left);
            let request = GetExecutionsByContextRequest { context_id: Some(context), options: None };
            let executions = client.get_executions_by_context(request).await.unwrap().into_inner().executions;
            assert_eq!(executions.len(), left);
        }
    }
}

#[tokio::test]
async fn both_servers_end_with_the_simulation() {
    let sim = Sim::start().await.unwrap();
    let api = api(&sim);
    let mut events = std::pin::pin!(api.watch_metadata(&WatchParams::default(), "200").await.unwrap());
    let mut metadata = tokio::net::TcpStream::connect(sim.metadata_address).await.unwrap();
    drop(sim);
    // The watch breaks off, and so does a connection on which nothing has been asked.
    while let Some(Ok(_)) = within(events.next()).await {}
    assert!(within(api.list_metadata(&Default::default())).await.is_err());
    let mut rest = Vec::new();
    within(tokio::io::AsyncReadExt::read_to_end(&mut metadata, &mut rest)).await.ok();
}
