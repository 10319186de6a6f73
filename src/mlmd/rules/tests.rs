use super::*;
use crate::model::{RunId, fixtures::succeeded};

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

fn context(id: i64, type_name: &str, name: &str) -> Context {
    Context { id, type_name: type_name.into(), name: name.into(), namespace: None }
}

fn execution(id: i64) -> Execution {
    let type_name = "tfx.components.pusher.component.Pusher".into();
    Execution { id, created_ms: CREATED * 1000 + id, type_name, task: None }
}

fn executions(all: impl IntoIterator<Item = Execution>) -> Executions {
    let mut executions = Executions::of(&run(PipelineName::Unknown));
    all.into_iter().for_each(|execution| executions.add(execution));
    executions
}

fn artifact(id: i64) -> ContextArtifact {
    ContextArtifact {
        id,
        state: ArtifactState::Available,
        type_id: Some(9),
        type_name: "PushedModel".into(),
        uri: format!("gs://models/{id}").into(),
        name: Some(format!("model {id}").into()),
        pushed: Some(1),
        output: None,
    }
}

fn output(artifact: i64, execution: i64) -> Event {
    Event { artifact, execution, is_output: true, key: "pushed_model".into(), index: 0 }
}

fn found(
    artifacts: impl IntoIterator<Item = ContextArtifact>,
    events: &[Event],
    executions: &Executions,
) -> Vec<Model> {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    artifacts.into_iter().for_each(|artifact| candidates.add(artifact));
    models(candidates, events, executions)
}

fn ids(models: &[Model]) -> Vec<i64> {
    models.iter().map(|model| model.artifact.id).collect()
}

#[test]
fn the_flavor_is_tfx_first_only_with_a_compiled_pipeline_name() {
    let tfx = (RunFlavor::Tfx, "penguin-x7k2p".to_owned());
    let kfp_v2 = (RunFlavor::KfpV2, "0e1f".to_owned());
    let spec = PipelineName::Spec("penguin".into());
    assert_eq!(run_contexts(&run(spec.clone())), [tfx.clone(), kfp_v2.clone()]);
    assert_eq!(run_contexts(&run(PipelineName::Generated("penguin".into()))), [kfp_v2.clone(), tfx.clone()]);
    assert_eq!(run_contexts(&run(PipelineName::Unknown)), [kfp_v2, tfx.clone()]);
    assert_eq!(run_contexts(&Workflow { run_id: None, ..run(PipelineName::Unknown) }), std::slice::from_ref(&tfx));
    assert_eq!(run_contexts(&Workflow { run_id: Some(RunId::new("")), ..run(spec) }), [tfx]);
    assert_eq!(
        (RunFlavor::Tfx.context_type(), RunFlavor::KfpV2.context_type()),
        ("pipeline_run", "system.PipelineRun")
    );
}

#[test]
fn a_context_that_names_another_namespace_is_foreign() {
    let run = run(PipelineName::Unknown);
    let of = |namespace: Option<&str>| Context {
        namespace: namespace.map(Into::into),
        ..context(1, "system.PipelineRun", "0e1f")
    };
    assert_eq!(check_namespace(&of(None), &run), Ok(()));
    assert_eq!(check_namespace(&of(Some("team-a")), &run), Ok(()));
    let foreign = LookupError::ForeignContext { namespace: "team-b".into() };
    assert_eq!(check_namespace(&of(Some("team-b")), &run), Err(foreign));
}

#[test]
fn an_execution_5_min_older_than_its_workflow_is_foreign() {
    let at = |id, created_ms| Execution { created_ms, ..execution(id) };
    let earliest = (CREATED - 300) * 1000;
    let executions = executions([at(1, earliest), at(2, earliest - 1), at(2, earliest - 1), at(3, i64::MAX), at(4, 0)]);
    assert!(executions.own(1).is_some() && executions.own(3).is_some());
    assert!(executions.own(2).is_none() && executions.own(4).is_none());
    assert_eq!(executions.foreign_count(), 2, "each is counted once");
    assert_eq!(executions.latest(), Some(3));
}

#[test]
fn only_outputs_of_the_runs_own_executions_are_models() {
    let old = Execution { created_ms: (CREATED - 301) * 1000, ..execution(7) };
    let executions = executions([execution(5), old]);
    let input = |artifact, execution| Event { is_output: false, ..output(artifact, execution) };
    let events = [output(1, 5), input(2, 5), output(3, 7), output(4, 99), input(5, 5), output(5, 99)];
    let found = found((1..=6).map(artifact), &events, &executions);
    assert_eq!(ids(&found), [1], "not inputs, outputs of other runs, or artifacts without events");
}

#[test]
fn models_are_ordered_by_id_without_duplicates() {
    let events = [output(3, 5), output(1, 6), output(3, 6), output(2, 5), output(3, 5)];
    let found = found([3, 1, 2, 3, 1].map(artifact), &events, &executions([execution(5), execution(6)]));
    assert_eq!(ids(&found), [1, 2, 3]);
    assert_eq!(found[2].execution, 5, "the first execution that produced it");
}

#[test]
fn an_importers_output_is_not_a_model_of_the_run() {
    for (type_name, is_importer) in [
        ("system.ImporterExecution", true),
        ("system.ImporterWorkspaceExecution", true),
        ("tfx.dsl.components.common.importer.Importer", true),
        ("tfx.components.common_nodes.importer_node.ImporterNode", true),
        ("system.ContainerExecution", false),
        ("tfx.components.pusher.component.Pusher", false),
        ("my.Importer", false),
        ("", false),
    ] {
        let executions = executions([Execution { type_name: type_name.into(), ..execution(5) }]);
        assert_eq!(found([artifact(1)], &[output(1, 5)], &executions).is_empty(), is_importer, "{type_name}");
    }
}

#[test]
fn candidates_are_selected_by_type_uri_and_pushed() {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    candidates.add(artifact(1));
    candidates.add(ContextArtifact { uri: "".into(), ..artifact(2) });
    candidates.add(ContextArtifact { pushed: Some(0), ..artifact(3) });
    candidates.add(ContextArtifact { type_name: "Model".into(), ..artifact(4) });
    candidates.add(ContextArtifact { type_name: "system.Model".into(), ..artifact(5) });
    candidates.add(ContextArtifact { type_name: "system.Model".into(), pushed: None, ..artifact(6) });
    candidates.add(ContextArtifact { type_name: "tfx.PushedModel".into(), pushed: None, ..artifact(7) });
    assert_eq!(candidates.ids(), [1, 5, 7]);
    assert!(!candidates.has_unnamed_types());
}

#[test]
fn a_removed_candidate_is_ignored_and_counted() {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    candidates.add(ContextArtifact { state: ArtifactState::Removed, ..artifact(1) });
    candidates.add(ContextArtifact { state: ArtifactState::Removed, type_name: "Examples".into(), ..artifact(2) });
    assert_eq!((candidates.ids(), candidates.removed()), (vec![], 1));
}

#[test]
fn types_without_a_name_are_resolved_by_their_ids() {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    let nameless = |id, type_id, pushed| ContextArtifact { type_id, pushed, type_name: "".into(), ..artifact(id) };
    candidates.add(nameless(1, Some(20), None));
    candidates.add(nameless(2, Some(21), None));
    candidates.add(nameless(3, Some(22), Some(1)));
    candidates.add(nameless(4, Some(22), None));
    candidates.add(nameless(5, None, Some(1)));
    candidates.add(nameless(6, Some(20), Some(0)));
    candidates.add(artifact(7));
    assert_eq!(candidates.ids(), [1, 2, 3, 4, 5, 7], "those that are no model with any type are dropped");
    assert!(candidates.has_unnamed_types());
    candidates.resolve_types(&HashMap::from([(20, "PushedModel"), (22, "system.Model")]));
    assert_eq!(candidates.ids(), [1, 3, 7]);
    assert!(!candidates.has_unnamed_types());
}

#[test]
fn pushed_is_parsed_from_every_kind_of_property() {
    use Property::{Bool, Double, Int, Text};
    let text = |text: &str| Text(text.to_owned());
    for (property, value) in [
        (Int(0), Some(0)),
        (Int(1), Some(1)),
        (Int(7), Some(7)),
        (Double(0.0), Some(0)),
        (Double(-0.0), Some(0)),
        (Double(1.0), Some(1)),
        (Double(0.5), None),
        (Double(f64::NAN), None),
        (Double(f64::INFINITY), None),
        (Double(1e300), None),
        (Bool(false), Some(0)),
        (Bool(true), Some(1)),
        (text("0"), Some(0)),
        (text(" 1\n"), Some(1)),
        (text("0.0"), Some(0)),
        (text("False"), Some(0)),
        (text("TRUE"), Some(1)),
        (text("yes"), None),
        (text(""), None),
    ] {
        assert_eq!(parse_pushed(&property), value, "{property:?}");
    }
}

#[test]
fn the_pipeline_is_named_by_its_context_in_both_flavors() {
    let contexts = [
        context(9, "system.Pipeline", "later"),
        context(3, "pipeline", "penguin"),
        context(4, "pipeline_run", "penguin-x7k2p"),
        context(5, "node", "penguin.Pusher"),
        context(6, "system.Pipeline", ""),
        context(8, "system.Pipeline", "taxi"),
    ];
    assert_eq!(pipeline_name(RunFlavor::Tfx, &contexts).as_deref(), Some("penguin"));
    assert_eq!(pipeline_name(RunFlavor::KfpV2, &contexts).as_deref(), Some("taxi"));
    assert_eq!(pipeline_name(RunFlavor::KfpV2, &contexts[1..5]), None);
    assert_eq!(pipeline_name(RunFlavor::Tfx, &[]), None);
}

#[test]
fn a_node_is_named_by_the_suffix_after_the_pipeline() {
    let pipeline = context(1, "pipeline", "team.penguin");
    let node_of = |name: &str| node_name(&[pipeline.clone(), context(2, "node", name)]).map(String::from);
    assert_eq!(node_of("team.penguin.Pusher").as_deref(), Some("Pusher"));
    assert_eq!(node_of("team.penguin.Pusher.v2").as_deref(), Some("Pusher.v2"));
    assert_eq!(node_of("other.Pusher").as_deref(), Some("Pusher"));
    assert_eq!(node_of("Pusher").as_deref(), Some("Pusher"));
    assert_eq!(node_of("other."), None);
    assert_eq!(node_name(std::slice::from_ref(&pipeline)), None);
    assert_eq!(node_name(&[context(2, "node", "a.b.Pusher")]).as_deref(), Some("Pusher"));
}

#[test]
fn a_generated_name_contains_task_output_and_index() {
    let task = Execution { task: Some("push".into()), type_name: "system.ContainerExecution".into(), ..execution(5) };
    let unnamed = |output: Option<&str>| ContextArtifact { name: None, output: output.map(Into::into), ..artifact(1) };
    let at = |key: &str, index| Event { key: key.into(), index, ..output(1, 5) };
    let name = |artifact, event, executions: &Executions| {
        found([artifact], &[event], executions)[0].artifact.display_name("penguin", "penguin-x7k2p")
    };
    let kfp_v2 = executions([task]);
    assert_eq!(name(unnamed(None), at("model", 2), &kfp_v2), "penguin:penguin-x7k2p:push:model:2");
    assert_eq!(name(unnamed(Some("model")), at("", 0), &kfp_v2), "penguin:penguin-x7k2p:push:model:0");
    assert_eq!(name(unnamed(None), at("", 0), &kfp_v2), "penguin:penguin-x7k2p:push::0");
    assert_eq!(name(artifact(1), at("model", 2), &kfp_v2), "model 1");
    // The component's class is TFX's default name of a node.
    assert_eq!(
        name(unnamed(None), at("pushed_model", 0), &executions([execution(5)])),
        "penguin:penguin-x7k2p:Pusher:pushed_model:0"
    );
}

#[test]
fn a_node_is_needed_once_and_only_for_an_unnamed_tfx_model() {
    let unnamed = |id| ContextArtifact { name: None, ..artifact(id) };
    let events = [output(1, 6), output(2, 5), output(3, 6), output(4, 7)];
    let executions = executions([5, 6, 7].map(execution));
    let found = found([unnamed(1), unnamed(2), unnamed(3), artifact(4)], &events, &executions);
    assert_eq!(executions_naming_models(RunFlavor::Tfx, &found), [5, 6]);
    assert!(executions_naming_models(RunFlavor::KfpV2, &found).is_empty());
}
