//! The lives of runs, as Kubeflow, Argo's controller and TFX write them down.

use std::time::Duration;

use test_support::{Model, NewWorkflow, Task};
use tokio_util::sync::CancellationToken;

use super::{
    plan::{Kind, Run, SUBSCRIBERS},
    world::World,
};

/// What Kubeflow's API server adds soon after a run's end: a second MODIFIED.
const PERSISTED: &str = "pipeline/persistedFinalState";
/// How long whoever retries a run takes to see that it failed.
const NOTICED: Duration = Duration::from_millis(500);
const BUCKET: &str = "gs://soak/";

/// The Workflow of the run with this number.
pub(crate) fn name_of(number: usize) -> String {
    format!("run-{number}")
}

/// Where the model of the run with this number is.
pub(crate) fn location_of(number: usize) -> String {
    format!("{BUCKET}{number}")
}

/// The number of the run whose model is there.
pub(crate) fn number_of(location: &str) -> usize {
    let number = location.strip_prefix(BUCKET).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no run of this soak has put its model to {location}"))
}

/// A run from its submission to its end; one that is to be deleted is, unless `over` comes first.
pub(crate) async fn live(world: &World, number: usize, run: &Run, over: &CancellationToken) {
    world.chronicle.at(run.at).await;
    let name = name_of(number);
    let location = location_of(number);
    let task = match run.kind {
        Kind::NoModel => Task::new("Trainer"),
        Kind::Unblessed => Task::new("Pusher").output(Model::unblessed(&location)),
        _ => Task::pusher(&location),
    };
    world.record(run.pipeline, &name, task).await;
    let namespace = &world.namespaces[run.namespace];
    world.workflows(namespace).await.create(NewWorkflow::tfx_v1(&name, run.pipeline).phase("Running")).await;
    world.chronicle.after(run.lasts).await;
    let phases: &[&str] = match run.kind {
        Kind::Failed => &["Failed"],
        Kind::Retried => &["Failed", "Running", "Succeeded"],
        _ => &["Succeeded"],
    };
    for (n, phase) in phases.iter().enumerate() {
        if n > 0 {
            world.chronicle.after(NOTICED).await;
        }
        world.workflows(namespace).await.set_phase(&name, phase).await;
    }
    world.workflows(namespace).await.label(&name, PERSISTED, "true").await;
    if run.kind == Kind::Deleted {
        let everybody = || (0..SUBSCRIBERS.len()).filter(|&subscriber| run.is_for(subscriber));
        tokio::select! {
            () = world.chronicle.becomes(|books| everybody().all(|subscriber| books.is_marked((subscriber, number)))) => {
                world.workflows(namespace).await.delete(&name).await;
            }
            () = over.cancelled() => {}
        }
    }
}
