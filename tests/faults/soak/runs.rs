//! The runs of a soak, as Kubeflow, Argo's controller and TFX write them.

use std::time::Duration;

use test_support::{Model, NewWorkflow, Task};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    oracle::Delivery,
    plan::{Run, RunKind},
    soak_env::SoakEnv,
};

/// Label that Kubeflow's API server sets soon after a run's end: a second MODIFIED.
const PERSISTED: &str = "pipeline/persistedFinalState";
/// Pause between the failure of a run and its retry.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const BUCKET: &str = "gs://soak/";

/// Returns the name of a run's Workflow.
pub(crate) fn name_of(run: usize) -> String {
    format!("run-{run}")
}

/// Returns the location of a run's model.
pub(crate) fn location_of(run: usize) -> String {
    format!("{BUCKET}{run}")
}

/// Returns the number of the run that pushed the model at this location.
pub(crate) fn number_of(location: &str) -> usize {
    let number = location.strip_prefix(BUCKET).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no run of this soak pushes a model to {location}"))
}

/// Executes a run from its creation to its end, and deletes its Workflow where the plan says so, unless `end` is
/// canceled first.
pub(crate) async fn live(env: &SoakEnv, number: usize, run: &Run, end: &CancellationToken) {
    env.log.sleep_until(run.at).await;
    let name = name_of(number);
    let location = location_of(number);
    let task = match run.kind {
        RunKind::NoModel => Task::new("Trainer"),
        RunKind::Unblessed => Task::new("Pusher").output(Model::unblessed(&location)),
        _ => Task::pusher(&location),
    };
    env.write_task(run.pipeline, &name, task).await;
    let namespace = &env.namespaces[run.namespace];
    env.workflows(namespace).await.create(NewWorkflow::tfx_v1(&name, run.pipeline).phase("Running")).await;
    sleep(run.duration).await;
    let phases: &[&str] = match run.kind {
        RunKind::Failed => &["Failed"],
        RunKind::Retried => &["Failed", "Running", "Succeeded"],
        _ => &["Succeeded"],
    };
    for (n, phase) in phases.iter().enumerate() {
        if n > 0 {
            sleep(RETRY_PAUSE).await;
        }
        env.workflows(namespace).await.set_phase(&name, phase).await;
    }
    env.workflows(namespace).await.label(&name, PERSISTED, "true").await;
    if run.kind == RunKind::Deleted {
        let marked = env
            .log
            .wait(|oracle| run.subscribers().all(|subscriber| oracle.is_marked(Delivery { subscriber, run: number })));
        tokio::select! {
            () = marked => env.workflows(namespace).await.delete(&name).await,
            () = end.cancelled() => {}
        }
    }
}
