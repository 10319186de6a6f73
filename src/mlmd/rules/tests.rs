mod contexts;
mod properties;
mod reruns;
mod selection;
mod verdicts;

use std::collections::HashMap;

use super::*;
use crate::model::{
    ArtifactId, ArtifactTypes, RunId, SeenArtifact,
    fixtures::{number, succeeded},
};

const CREATED: i64 = 1_700_000_000;

fn run(pipeline: PipelineName) -> Workflow {
    Workflow {
        namespace: "team-a".into(),
        name: "penguin-x7k2p".into(),
        created: CREATED,
        run_id: Some(RunId::new("0e1f")),
        ..succeeded(pipeline)
    }
}

/// The id of an artifact that was seen.
fn number_of(seen: &SeenArtifact) -> i64 {
    let ArtifactId::Number(id) = seen.id else { panic!("{seen:?} has no number") };
    id
}

/// The run's context. That of KFP v2 belongs to the run's namespace.
fn run_context(flavor: RunFlavor) -> RunContext {
    let namespace = (flavor == RunFlavor::KfpV2).then(|| "team-a".to_owned());
    RunContext { id: 1, flavor, name: "penguin-x7k2p".to_owned(), namespace }
}

/// A Pusher of TFX.
fn execution(id: i64) -> Execution<'static> {
    Execution {
        id,
        created_ms: CREATED * 1000 + id,
        type_name: "tfx.components.pusher.component.Pusher",
        task: None,
        component: None,
        pod: None,
        parent: None,
        iteration: None,
    }
}

/// A task of KFP v2 in a DAG.
fn task(id: i64, name: &'static str, parent: i64) -> Execution<'static> {
    let type_name = "system.ContainerExecution";
    Execution { type_name, task: Some(name), parent: (parent > 0).then_some(parent), ..execution(id) }
}

/// A DAG of KFP v2: the run itself without a name.
fn dag(id: i64, name: Option<&'static str>, parent: i64, iteration: Option<u32>) -> Execution<'static> {
    let parent = (parent > 0).then_some(parent);
    Execution { type_name: "system.DAGExecution", task: name, parent, iteration, ..execution(id) }
}

fn executions(flavor: RunFlavor, all: impl IntoIterator<Item = Execution<'static>>) -> Executions {
    let mut executions = Executions::of(&run(PipelineName::Unknown), &run_context(flavor));
    for execution in all {
        executions.add(&execution);
    }
    executions
}

fn artifact(id: i64) -> ContextArtifact {
    ContextArtifact {
        id,
        state: ArtifactState::Available,
        type_id: Some(9),
        type_name: "PushedModel".into(),
        uri: format!("gs://models/{id}").into(),
        name: None,
        pushed: Some(1),
        output: None,
    }
}

/// The output of an execution, as TFX writes it.
fn output(artifact: i64, execution: i64) -> Event<'static> {
    Event { artifact, execution, is_output: true, key: "pushed_model", index: Some(0) }
}

/// The same as KFP writes it, without an index.
fn kfp_output(artifact: i64, execution: i64) -> Event<'static> {
    Event { index: None, key: "model", ..output(artifact, execution) }
}

/// Selects and names the models. `nodes` are those of TFX executions.
fn models(
    artifacts: impl IntoIterator<Item = ContextArtifact>,
    events: &[Event<'_>],
    executions: &Executions,
    nodes: &[(i64, &str)],
) -> Vec<Model> {
    models_with_verdicts(artifacts, events, executions, nodes, &mut ())
}

/// The same, and passes the verdicts.
fn models_with_verdicts(
    artifacts: impl IntoIterator<Item = ContextArtifact>,
    events: &[Event<'_>],
    executions: &Executions,
    nodes: &[(i64, &str)],
    verdicts: &mut dyn Verdicts,
) -> Vec<Model> {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    for artifact in artifacts {
        candidates.add(artifact, verdicts);
    }
    let mut outputs = Outputs::of(executions);
    let requested = candidates.ids();
    for event in events.iter().filter(|event| requested.contains(&event.artifact)) {
        outputs.add(event, verdicts);
    }
    let nodes: HashMap<i64, Box<str>> = nodes.iter().map(|(id, node)| (*id, (*node).into())).collect();
    let places = Places::of(executions, &nodes);
    let mut models = select(candidates, &outputs, executions, &places, verdicts);
    drop_shared_names(&mut models);
    for model in &mut models {
        if let Some(node) = nodes.get(&model.execution) {
            model.artifact.node = node.clone();
        }
    }
    distinguish(&mut models, &places);
    models
}

fn ids(models: &[Model]) -> Vec<i64> {
    models.iter().map(|model| number(&model.artifact)).collect()
}

fn names(models: &[Model]) -> Vec<String> {
    models.iter().map(|model| model.artifact.display_name("p", "w")).collect()
}
