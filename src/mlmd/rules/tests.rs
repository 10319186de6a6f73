use super::*;
use crate::model::{Phase, RunId};

const CREATED: i64 = 1_700_000_000;

fn run(pipeline: PipelineName) -> Workflow {
    Workflow {
        namespace: "team-a".into(),
        name: "penguin-x7k2p".into(),
        uid: 1.into(),
        created: CREATED,
        phase: Phase::Succeeded,
        events_published: false,
        pipeline,
        run_id: Some(RunId::new("0e1f")),
        trace_id: None,
        marks: Box::default(),
        resource_version: None,
    }
}

fn context(id: i64, type_name: &str, name: &str) -> Context {
    Context { id, type_name: type_name.into(), name: name.into(), namespace: None }
}

fn execution(id: i64) -> Execution {
    let type_name = "tfx.components.pusher.component.Pusher".into();
    Execution { id, created: CREATED * 1000 + id, type_name, task: None }
}

fn executions(all: impl IntoIterator<Item = Execution>) -> Executions {
    let mut executions = Executions::of(&run(PipelineName::Unknown));
    all.into_iter().for_each(|execution| executions.add(execution));
    executions
}

fn artifact(id: i64) -> Attributed {
    Attributed {
        id,
        state: State::There,
        type_id: Some(9),
        type_name: "PushedModel".into(),
        uri: format!("gs://models/{id}").into(),
        name: Some(format!("model {id}").into()),
        pushed: Some(1),
        output: None,
    }
}

fn output(artifact: i64, execution: i64) -> Event {
    Event { artifact, execution, output: true, key: "pushed_model".into(), index: 0 }
}

fn found(artifacts: impl IntoIterator<Item = Attributed>, events: &[Event], executions: &Executions) -> Vec<Model> {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    artifacts.into_iter().for_each(|artifact| candidates.add(artifact));
    models(candidates, events, executions)
}

fn ids(models: &[Model]) -> Vec<i64> {
    models.iter().map(|model| model.artifact.id).collect()
}

#[test]
fn a_workflow_with_a_compiled_pipeline_name_is_looked_for_as_tfx_first_and_any_other_as_kfp_v2() {
    let tfx = (Form::Tfx, "penguin-x7k2p".to_owned());
    let kfp_v2 = (Form::KfpV2, "0e1f".to_owned());
    let spec = PipelineName::Spec("penguin".into());
    assert_eq!(forms(&run(spec.clone())), [tfx.clone(), kfp_v2.clone()]);
    assert_eq!(forms(&run(PipelineName::Generated("penguin".into()))), [kfp_v2.clone(), tfx.clone()]);
    assert_eq!(forms(&run(PipelineName::Unknown)), [kfp_v2, tfx.clone()]);
    assert_eq!(forms(&Workflow { run_id: None, ..run(PipelineName::Unknown) }), std::slice::from_ref(&tfx));
    assert_eq!(forms(&Workflow { run_id: Some(RunId::new("")), ..run(spec) }), [tfx]);
    assert_eq!((Form::Tfx.context_type(), Form::KfpV2.context_type()), ("pipeline_run", "system.PipelineRun"));
}

#[test]
fn a_context_of_another_namespace_is_foreign_and_one_that_names_none_is_not() {
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
fn an_execution_more_than_five_minutes_older_than_the_workflow_is_foreign_to_the_millisecond() {
    let at = |id, created| Execution { created, ..execution(id) };
    let earliest = (CREATED - 300) * 1000;
    let executions = executions([at(1, earliest), at(2, earliest - 1), at(2, earliest - 1), at(3, i64::MAX), at(4, 0)]);
    assert!(executions.own(1).is_some() && executions.own(3).is_some());
    assert!(executions.own(2).is_none() && executions.own(4).is_none());
    assert_eq!(executions.foreign(), 2, "each is counted once");
    assert_eq!(executions.last(), Some(3));
}

#[test]
fn only_what_an_execution_of_this_run_put_out_is_its_model() {
    let old = Execution { created: (CREATED - 301) * 1000, ..execution(7) };
    let executions = executions([execution(5), old]);
    let input = |artifact, execution| Event { output: false, ..output(artifact, execution) };
    let events = [output(1, 5), input(2, 5), output(3, 7), output(4, 99), input(5, 5), output(5, 99)];
    let found = found((1..=6).map(artifact), &events, &executions);
    assert_eq!(ids(&found), [1], "read, put out by an older run, by somebody else, read here, no event at all");
}

#[test]
fn models_come_in_the_order_of_their_ids_and_once_however_often_they_are_named() {
    let events = [output(3, 5), output(1, 6), output(3, 6), output(2, 5), output(3, 5)];
    let found = found([3, 1, 2, 3, 1].map(artifact), &events, &executions([execution(5), execution(6)]));
    assert_eq!(ids(&found), [1, 2, 3]);
    assert_eq!(found[2].execution, 5, "the first execution that put it out");
}

#[test]
fn what_an_importer_registers_is_not_put_out_by_the_run() {
    for (type_name, imports) in [
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
        assert_eq!(found([artifact(1)], &[output(1, 5)], &executions).is_empty(), imports, "{type_name}");
    }
}

#[test]
fn type_uri_and_pushed_decide_what_is_a_candidate() {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    candidates.add(artifact(1));
    candidates.add(Attributed { uri: "".into(), ..artifact(2) });
    candidates.add(Attributed { pushed: Some(0), ..artifact(3) });
    candidates.add(Attributed { type_name: "Model".into(), ..artifact(4) });
    candidates.add(Attributed { type_name: "system.Model".into(), ..artifact(5) });
    candidates.add(Attributed { type_name: "system.Model".into(), pushed: None, ..artifact(6) });
    candidates.add(Attributed { type_name: "tfx.PushedModel".into(), pushed: None, ..artifact(7) });
    assert_eq!(candidates.ids(), [1, 5, 7]);
    assert!(!candidates.unresolved());
}

#[test]
fn an_artifact_that_is_gone_is_left_out_and_counted_if_it_would_have_counted() {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    candidates.add(Attributed { state: State::Gone, ..artifact(1) });
    candidates.add(Attributed { state: State::Gone, type_name: "Examples".into(), ..artifact(2) });
    assert_eq!((candidates.ids(), candidates.gone()), (vec![], 1));
}

#[test]
fn types_without_a_name_are_told_by_their_ids() {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    let nameless = |id, type_id, pushed| Attributed { type_id, pushed, type_name: "".into(), ..artifact(id) };
    candidates.add(nameless(1, Some(20), None));
    candidates.add(nameless(2, Some(21), None));
    candidates.add(nameless(3, Some(22), Some(1)));
    candidates.add(nameless(4, Some(22), None));
    candidates.add(nameless(5, None, Some(1)));
    candidates.add(nameless(6, Some(20), Some(0)));
    candidates.add(artifact(7));
    assert_eq!(candidates.ids(), [1, 2, 3, 4, 5, 7], "only what no type could make a model is left out");
    assert!(candidates.unresolved());
    candidates.resolve(&HashMap::from([(20, "PushedModel"), (22, "system.Model")]));
    assert_eq!(candidates.ids(), [1, 3, 7]);
    assert!(!candidates.unresolved());
}

#[test]
fn pushed_is_read_in_whatever_form_it_was_written() {
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
        assert_eq!(pushed(&property), value, "{property:?}");
    }
}

#[test]
fn the_pipeline_is_named_by_its_own_context_in_either_form() {
    let contexts = [
        context(9, "system.Pipeline", "later"),
        context(3, "pipeline", "penguin"),
        context(4, "pipeline_run", "penguin-x7k2p"),
        context(5, "node", "penguin.Pusher"),
        context(6, "system.Pipeline", ""),
        context(8, "system.Pipeline", "taxi"),
    ];
    assert_eq!(pipeline(Form::Tfx, &contexts).as_deref(), Some("penguin"));
    assert_eq!(pipeline(Form::KfpV2, &contexts).as_deref(), Some("taxi"));
    assert_eq!(pipeline(Form::KfpV2, &contexts[1..5]), None);
    assert_eq!(pipeline(Form::Tfx, &[]), None);
}

#[test]
fn a_node_is_what_follows_the_pipelines_name() {
    let pipeline = context(1, "pipeline", "team.penguin");
    let node_of = |name: &str| node(&[pipeline.clone(), context(2, "node", name)]).map(String::from);
    assert_eq!(node_of("team.penguin.Pusher").as_deref(), Some("Pusher"));
    assert_eq!(node_of("team.penguin.Pusher.v2").as_deref(), Some("Pusher.v2"));
    assert_eq!(node_of("other.Pusher").as_deref(), Some("Pusher"));
    assert_eq!(node_of("Pusher").as_deref(), Some("Pusher"));
    assert_eq!(node_of("other."), None);
    assert_eq!(node(std::slice::from_ref(&pipeline)), None);
    assert_eq!(node(&[context(2, "node", "a.b.Pusher")]).as_deref(), Some("Pusher"));
}

#[test]
fn a_name_is_made_of_the_task_the_output_and_the_place_in_it() {
    let task = Execution { task: Some("push".into()), type_name: "system.ContainerExecution".into(), ..execution(5) };
    let unnamed = |output: Option<&str>| Attributed { name: None, output: output.map(Into::into), ..artifact(1) };
    let at = |key: &str, index| Event { key: key.into(), index, ..output(1, 5) };
    let name = |artifact, event, executions: &Executions| {
        found([artifact], &[event], executions)[0].artifact.display_name("penguin", "penguin-x7k2p")
    };
    let kfp_v2 = executions([task]);
    assert_eq!(name(unnamed(None), at("model", 2), &kfp_v2), "penguin:penguin-x7k2p:push:model:2");
    assert_eq!(name(unnamed(Some("model")), at("", 0), &kfp_v2), "penguin:penguin-x7k2p:push:model:0");
    assert_eq!(name(unnamed(None), at("", 0), &kfp_v2), "penguin:penguin-x7k2p:push::0");
    assert_eq!(name(artifact(1), at("model", 2), &kfp_v2), "model 1");
    // Until the node is asked for, the component's class stands in: that is what TFX names a node by default.
    assert_eq!(
        name(unnamed(None), at("pushed_model", 0), &executions([execution(5)])),
        "penguin:penguin-x7k2p:Pusher:pushed_model:0"
    );
}

#[test]
fn a_node_is_asked_for_once_and_only_where_it_becomes_part_of_a_name() {
    let unnamed = |id| Attributed { name: None, ..artifact(id) };
    let events = [output(1, 6), output(2, 5), output(3, 6), output(4, 7)];
    let executions = executions([5, 6, 7].map(execution));
    let found = found([unnamed(1), unnamed(2), unnamed(3), artifact(4)], &events, &executions);
    assert_eq!(nodes_wanted(Form::Tfx, &found), [5, 6]);
    assert!(nodes_wanted(Form::KfpV2, &found).is_empty());
}
