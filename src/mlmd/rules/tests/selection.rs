//! The outputs that are models, and their names.

use super::*;

#[test]
fn only_outputs_of_the_runs_own_executions_are_models() {
    let old = Execution { created_ms: (CREATED - 301) * 1000, ..execution(7) };
    let executions = executions(RunFlavor::Tfx, [execution(5), old]);
    let input = |artifact, execution| Event { is_output: false, ..output(artifact, execution) };
    let events = [output(1, 5), input(2, 5), output(3, 7), output(4, 99), input(5, 5), output(5, 99)];
    let found = models((1..=6).map(artifact), &events, &executions, &[]);
    assert_eq!(ids(&found), [1], "not inputs, outputs of other runs, or artifacts without events");
}

#[test]
fn models_are_ordered_by_id_without_duplicates() {
    let at = |artifact, execution, index| Event { index: Some(index), ..output(artifact, execution) };
    let events = [at(3, 5, 0), at(1, 6, 0), at(3, 6, 1), at(2, 5, 1), at(3, 5, 0)];
    let executions = executions(RunFlavor::Tfx, [execution(5), execution(6)]);
    let found = models([3, 1, 2, 3, 1].map(artifact), &events, &executions, &[]);
    assert_eq!(ids(&found), [1, 2, 3]);
    assert_eq!(found[2].execution, 5, "the first execution that produced it");
}

#[test]
fn a_location_appears_once() {
    let at = |id, uri: &str| ContextArtifact { uri: uri.into(), ..artifact(id) };
    let artifacts = [at(4, "gs://b"), at(2, "gs://a"), at(3, "gs://a"), at(1, "gs://b")];
    let events = [output(1, 5), output(2, 6), output(3, 7), output(4, 8)];
    let executions = executions(RunFlavor::Tfx, [5, 6, 7, 8].map(execution));
    assert_eq!(ids(&models(artifacts, &events, &executions, &[])), [1, 2], "the artifact with the lowest id");
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
        let executions = executions(RunFlavor::Tfx, [Execution { type_name, ..execution(5) }]);
        let found = models([artifact(1)], &[output(1, 5)], &executions, &[]);
        assert_eq!(found.is_empty(), is_importer, "{type_name}");
    }
}

#[test]
fn a_generated_name_contains_task_output_and_index() {
    let unnamed = |output: Option<&str>| ContextArtifact { output: output.map(Into::into), ..artifact(1) };
    let at = |key, index| Event { key, index, ..output(1, 5) };
    let name =
        |artifact, event, executions: &Executions| names(&models([artifact], &[event], executions, &[])).remove(0);
    let kfp_v2 = executions(RunFlavor::KfpV2, [task(5, "push", 0)]);
    assert_eq!(name(unnamed(None), at("model", Some(2)), &kfp_v2), "p:w:push:model:2");
    assert_eq!(name(unnamed(None), at("model", None), &kfp_v2), "p:w:push:model:0");
    assert_eq!(name(unnamed(Some("model")), at("", None), &kfp_v2), "p:w:push:model:0");
    assert_eq!(name(unnamed(None), at("", None), &kfp_v2), "p:w:push::0");
    let named = ContextArtifact { name: Some("mine".into()), ..artifact(1) };
    assert_eq!(name(named, at("model", None), &kfp_v2), "mine");
    // The component's class is TFX's default name of a node.
    let tfx = executions(RunFlavor::Tfx, [execution(5)]);
    assert_eq!(name(unnamed(None), output(1, 5), &tfx), "p:w:Pusher:pushed_model:0");
    // The metadata-writer of KFP v1 does not know the task.
    let type_name = "components.Push model@sha256=0e1f";
    let by_type = executions(RunFlavor::KfpV1, [Execution { type_name, ..execution(5) }]);
    assert_eq!(name(unnamed(None), kfp_output(1, 5), &by_type), "p:w:Push model:model:0");
    let component = Some("Push");
    let by_component = executions(RunFlavor::KfpV1, [Execution { type_name, component, ..execution(5) }]);
    assert_eq!(name(unnamed(None), kfp_output(1, 5), &by_component), "p:w:Push:model:0");
}

#[test]
fn a_given_name_that_several_models_have_names_none() {
    let named = |id, name: &str| ContextArtifact { name: Some(name.into()), ..artifact(id) };
    let executions = executions(RunFlavor::KfpV2, [task(5, "a", 0), task(6, "b", 0), task(7, "c", 0)]);
    let events = [kfp_output(1, 5), kfp_output(2, 6), kfp_output(3, 7)];
    let found = models([named(1, "model"), named(2, "model"), named(3, "mine")], &events, &executions, &[]);
    assert_eq!(names(&found), ["p:w:a:model:0", "p:w:b:model:0", "mine"]);
}

#[test]
fn tasks_of_the_same_name_are_named_by_their_paths() {
    let executions = executions(
        RunFlavor::KfpV2,
        [
            dag(1, None, 0, None),
            dag(2, Some("blue"), 1, None),
            dag(3, Some("green"), 1, None),
            task(4, "push", 2),
            task(5, "push", 3),
            task(6, "push", 1),
        ],
    );
    let events = [kfp_output(1, 4), kfp_output(2, 5), kfp_output(3, 6)];
    let found = models((1..=3).map(artifact), &events, &executions, &[]);
    assert_eq!(names(&found), ["p:w:blue/push:model:0", "p:w:green/push:model:0", "p:w:push:model:0"]);
    let found = models((1..=1).map(artifact), &events[..1], &executions, &[]);
    assert_eq!(names(&found), ["p:w:push:model:0"], "the task's name is enough");
}

#[test]
fn names_that_are_still_equal_get_the_next_free_index() {
    // Two nodes of TFX whose contexts are unknown, and an output with two artifacts and a free index between.
    let executions = executions(RunFlavor::Tfx, [execution(5), execution(6)]);
    let at = |artifact, execution, index| Event { index: Some(index), ..output(artifact, execution) };
    let events = [at(1, 5, 0), at(2, 5, 2), at(3, 6, 0), at(4, 6, 1)];
    let found = models((1..=4).map(artifact), &events, &executions, &[]);
    let indices: Vec<i64> = found.iter().map(|model| model.artifact.index).collect();
    assert_eq!(indices, [0, 2, 1, 3]);
}

#[test]
fn a_node_is_needed_once_and_only_for_an_unnamed_tfx_model() {
    let named = ContextArtifact { name: Some("mine".into()), ..artifact(4) };
    let at = |artifact, execution, index| Event { index: Some(index), ..output(artifact, execution) };
    let events = [at(1, 6, 0), at(2, 5, 0), at(3, 6, 1), at(4, 7, 0)];
    let executions = executions(RunFlavor::Tfx, [5, 6, 7].map(execution));
    let found = models([artifact(1), artifact(2), artifact(3), named], &events, &executions, &[]);
    assert_eq!(executions_naming_models(RunFlavor::Tfx, &found), [5, 6]);
    assert!(executions_naming_models(RunFlavor::KfpV2, &found).is_empty());
}

#[test]
fn kept_bytes_count_shared_names_once() {
    let mut executions = Executions::of(&run(PipelineName::Unknown), &run_context(RunFlavor::KfpV2));
    let first = executions.add(&task(1, "a-task-with-a-long-name", 0));
    let second = executions.add(&task(2, "a-task-with-a-long-name", 0));
    assert!(first >= second + 20 && second < 250, "{first}, {second}");
    let mut outputs = Outputs::of(&executions);
    assert!(outputs.add(&kfp_output(1, 1), &mut ()) > 0);
    assert_eq!(outputs.add(&kfp_output(1, 99), &mut ()), 0, "of another run");
}
