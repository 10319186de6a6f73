//! The play of the demo: a run starts, pushes a model, and succeeds; then the next one.
//!
//! ```text
//! Submitted ─▶ Running ─▶ Pushed (in ML Metadata) ─▶ Succeeded ─▶ Finalized
//! ```
//!
//! Everything happens as it does in a cluster, in the same order: Kubeflow submits a Workflow, Argo's controller changes
//! its phase, the Pusher writes its artifact before the run ends, and Kubeflow touches the Workflow once more afterwards.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use super::{Model, NewWorkflow, Refusal, Run, Sim, Task, kubernetes::is_subdomain, random_uuid};

/// How many runs are kept. Older ones are deleted, so that a demo may go on for ever; Kubeflow keeps them for a day.
const KEEP: usize = 100;
/// How long the part of a Workflow's name may be that comes from the pipeline; the API server allows 63 in all.
const NAME: usize = 52;
const FINAL_STATE_LABEL: &str = "pipeline/persistedFinalState";

/// How a run was made, which decides what it looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// TFX on Kubeflow Pipelines v1.
    #[default]
    TfxV1,
    /// Kubeflow Pipelines v2, through kfp-operator's shim for TFX.
    KfpV2,
}

/// What is played.
#[derive(Clone, Debug)]
pub struct Play {
    /// The namespace of the runs.
    pub namespace: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// Where each run pushes its model to. `None`: to a place of its own for each run.
    pub location: Option<String>,
    /// What the runs look like.
    pub form: Form,
    /// The time between two steps.
    pub pace: Duration,
}

impl Default for Play {
    fn default() -> Self {
        Self {
            namespace: "demo".to_owned(),
            pipeline: "penguin-pipeline".to_owned(),
            location: None,
            form: Form::default(),
            pace: Duration::from_millis(400),
        }
    }
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which run this is about, from 1.
    pub run: u64,
    /// The run's namespace.
    pub namespace: String,
    /// The name of the run's Workflow.
    pub workflow: String,
    /// The UID of the run's Workflow.
    pub uid: String,
    /// The name of the run's pipeline.
    pub pipeline: String,
    /// What has happened.
    pub what: What,
}

/// What has happened to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Kubeflow has created the Workflow.
    Submitted,
    /// Argo's controller has begun to carry it out.
    Running,
    /// The Pusher has pushed a model, and has written so into ML Metadata.
    Pushed {
        /// Where the model is.
        location: String,
    },
    /// The run has succeeded.
    Succeeded,
    /// Kubeflow has noted that it has seen the end of the run: one more change of the Workflow.
    Finalized,
}

/// Plays on a simulation.
#[derive(Debug)]
pub struct Player<'a> {
    sim: &'a Sim,
    play: Play,
    steps: mpsc::Sender<Step>,
    played: u64,
    kept: VecDeque<(String, Run)>,
}

impl<'a> Player<'a> {
    /// Tells of each step through `steps`, and waits while nobody takes them.
    pub fn new(sim: &'a Sim, play: Play, steps: mpsc::Sender<Step>) -> Self {
        Self { sim, play, steps, played: 0, kept: VecDeque::new() }
    }

    /// Plays one run from beginning to end.
    ///
    /// # Errors
    /// The API server's refusal: of a namespace or a pipeline whose names are no such, say.
    pub async fn run(&mut self) -> Result<(), Refusal> {
        self.played += 1;
        let Play { namespace, pipeline, form, pace, .. } = self.play.clone();
        let run_id = random_uuid();
        let new = match form {
            Form::TfxV1 => NewWorkflow::tfx_v1("", &pipeline).generated(&workflow_prefix(&pipeline)).run_id(&run_id),
            Form::KfpV2 => NewWorkflow::kfp_v2(&workflow_prefix(&pipeline), &run_id),
        };
        let created = self.sim.create_workflow(&namespace, new)?;
        let workflow = created.name.clone();
        let step = |what| Step {
            run: self.played,
            namespace: namespace.clone(),
            workflow: workflow.clone(),
            uid: created.uid.clone(),
            pipeline: pipeline.clone(),
            what,
        };
        let location = self.location();
        self.tell(step(What::Submitted)).await;

        sleep(pace).await;
        self.sim.set_phase(&namespace, &workflow, "Running")?;
        let run = match form {
            Form::TfxV1 => self.sim.put_tfx_run(&pipeline, &workflow),
            Form::KfpV2 => self.sim.put_kfp_run(&pipeline, &run_id, &namespace),
        };
        self.sim.put_task(&run, Task::new("Trainer").output(Model::new("Model", "model", "")));
        self.tell(step(What::Running)).await;

        sleep(pace).await;
        let pushed = match form {
            Form::TfxV1 => Model::pushed(&location),
            Form::KfpV2 => Model::new("system.Model", "pushed_model", &location).number("pushed", 1),
        };
        self.sim.put_task(&run, Task::new("Pusher").output(pushed));
        self.tell(step(What::Pushed { location })).await;

        sleep(pace).await;
        self.sim.set_phase(&namespace, &workflow, "Succeeded")?;
        self.tell(step(What::Succeeded)).await;

        sleep(pace).await;
        self.sim.label_workflow(&namespace, &workflow, FINAL_STATE_LABEL, "true")?;
        self.tell(step(What::Finalized)).await;
        self.keep(workflow, run)
    }

    fn location(&self) -> String {
        let own = || format!("gs://models/{}/Pusher/pushed_model/{}", self.play.pipeline, self.played);
        self.play.location.clone().unwrap_or_else(own)
    }

    async fn tell(&self, step: Step) {
        // Who does not listen any more does not need to know.
        self.steps.send(step).await.ok();
    }

    fn keep(&mut self, workflow: String, run: Run) -> Result<(), Refusal> {
        self.kept.push_back((workflow, run));
        if self.kept.len() > KEEP
            && let Some((workflow, run)) = self.kept.pop_front()
        {
            self.sim.delete_workflow(&self.play.namespace, &workflow)?;
            self.sim.forget_run(&run);
        }
        Ok(())
    }
}

/// What the names of a pipeline's Workflows begin with: the pipeline's name, as far as it may stand there.
fn workflow_prefix(pipeline: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = pipeline.chars().map(allowed).take(NAME).collect();
    let name = name.trim_matches('-');
    if is_subdomain(name) { format!("{name}-") } else { "run-".to_owned() }
}

#[cfg(test)]
mod tests;
