//! Executions of one task, loops, and sub-pipelines.

use super::*;

fn named_artifact(id: i64, name: &str) -> ContextArtifact {
    ContextArtifact { name: Some(name.into()), ..artifact(id) }
}

#[test]
fn only_the_outputs_of_a_nodes_last_execution_count() {
    let executions = executions(RunFlavor::Tfx, [5, 6, 7].map(execution));
    let events = [output(1, 5), output(2, 6), output(3, 7)];
    let nodes = [(5, "Pusher"), (6, "Pusher.eu"), (7, "Pusher")];
    let found = models((1..=3).map(artifact), &events, &executions, &nodes);
    assert_eq!(ids(&found), [2, 3]);
    assert_eq!(names(&found), ["p:w:Pusher.eu:pushed_model:0", "p:w:Pusher:pushed_model:0"]);
    let found = models((1..=3).map(artifact), &events, &executions, &[]);
    assert_eq!(ids(&found), [1, 2, 3], "without its context, an execution is of a node of its own");
}

#[test]
fn nodes_are_asked_for_only_where_a_class_has_several_outputs() {
    let evaluator = Execution { type_name: "tfx.components.Evaluator", ..execution(8) };
    let executions = executions(RunFlavor::Tfx, [execution(5), execution(6), execution(7), evaluator]);
    let ambiguous = |events: &[Event<'_>]| {
        let mut outputs = Outputs::of(&executions);
        for event in events {
            outputs.add(event, &mut ());
        }
        ambiguous_executions(&executions, &outputs)
    };
    assert!(ambiguous(&[output(1, 5), output(2, 5), output(3, 8)]).is_empty());
    assert_eq!(ambiguous(&[output(1, 5), output(2, 7), output(3, 8)]), [5, 7]);
    let other_key = Event { key: "other", ..output(2, 6) };
    assert!(ambiguous(&[output(1, 5), other_key]).is_empty());
}

#[test]
fn a_task_of_kfp_v2_that_ran_again_replaces_its_output() {
    let executions = executions(RunFlavor::KfpV2, [dag(1, None, 0, None), task(2, "push", 1), task(9, "push", 1)]);
    let found = models([artifact(7), artifact(9)], &[kfp_output(7, 2), kfp_output(9, 9)], &executions, &[]);
    assert_eq!(ids(&found), [9]);
    let found = models([artifact(7), artifact(9)], &[kfp_output(7, 2)], &executions, &[]);
    assert_eq!(ids(&found), [7], "the later one has no output");
    let other = Event { key: "other", ..kfp_output(9, 9) };
    let found = models([artifact(7), artifact(9)], &[kfp_output(7, 2), other], &executions, &[]);
    assert_eq!(ids(&found), [7, 9], "an output that the later one does not have");
}

/// The output of the later execution replaces the model even if it is none: not blessed, without a URI, or deleted.
#[test]
fn a_later_output_that_is_no_model_replaces_a_model() {
    let executions = executions(RunFlavor::KfpV2, [dag(1, None, 0, None), task(2, "push", 1), task(9, "push", 1)]);
    let events = [kfp_output(7, 2), kfp_output(9, 9)];
    for later in [
        ContextArtifact { pushed: Some(0), ..artifact(9) },
        ContextArtifact { uri: "".into(), ..artifact(9) },
        ContextArtifact { state: ArtifactState::Removed, ..artifact(9) },
        ContextArtifact { type_name: "system.Model".into(), pushed: None, ..artifact(9) },
    ] {
        assert!(models([artifact(7), later], &events, &executions, &[]).is_empty());
    }
    let abandoned = ContextArtifact { state: ArtifactState::Abandoned, ..artifact(9) };
    assert_eq!(ids(&models([artifact(7), abandoned], &events, &executions, &[])), [7], "it was never completed");
}

#[test]
fn a_later_execution_that_took_the_output_from_a_cache_keeps_it() {
    let executions = executions(RunFlavor::KfpV2, [dag(1, None, 0, None), task(2, "push", 1), task(9, "push", 1)]);
    let found = models([artifact(7)], &[kfp_output(7, 2), kfp_output(7, 9)], &executions, &[]);
    assert_eq!((ids(&found), found[0].execution), (vec![7], 9));
    // The cached model is that of an older run.
    let found = models([artifact(3), artifact(7)], &[kfp_output(7, 2), kfp_output(3, 9)], &executions, &[]);
    assert_eq!(ids(&found), [3]);
}

/// KFP v2 restarts a container within its execution.
#[test]
fn an_output_that_was_written_twice_is_the_later_artifact() {
    let executions = executions(RunFlavor::KfpV2, [dag(1, None, 0, None), task(2, "push", 1)]);
    let events = [kfp_output(9, 2), kfp_output(7, 2)];
    assert_eq!(ids(&models([artifact(7), artifact(9)], &events, &executions, &[])), [9]);
    let unblessed = ContextArtifact { pushed: Some(0), ..artifact(9) };
    assert!(models([artifact(7), unblessed], &events, &executions, &[]).is_empty());
    let list = [Event { index: Some(0), ..events[0] }, Event { index: Some(1), ..events[1] }];
    assert_eq!(ids(&models([artifact(7), artifact(9)], &list, &executions, &[])), [7, 9], "a list of two");
    let without_keys = events.map(|event| Event { key: "", ..event });
    assert_eq!(
        ids(&models([artifact(7), artifact(9)], &without_keys, &executions, &[])),
        [7, 9],
        "perhaps two outputs"
    );
}

#[test]
fn a_foreign_execution_replaces_nothing() {
    let mut executions =
        Executions::of(&Workflow { resubmitted: true, ..run(PipelineName::Unknown) }, &run_context(RunFlavor::KfpV2));
    let before = |execution: Execution<'static>| Execution { created_ms: (CREATED - 60) * 1000, ..execution };
    // Newer versions of KFP use the DAG of the original again.
    for execution in [before(dag(1, None, 0, None)), task(2, "push", 1), before(task(9, "push", 1))] {
        executions.add(&execution);
    }
    let found = models([artifact(7), artifact(9)], &[kfp_output(7, 2), kfp_output(9, 9)], &executions, &[]);
    assert_eq!(ids(&found), [7]);
}

/// A loop with three iterations of a task.
fn three_iterations() -> Vec<Execution<'static>> {
    let mut all = vec![dag(1, None, 0, None), dag(2, Some("for-loop-1"), 1, None)];
    for iteration in 0..3 {
        let dag_id = 10 + i64::from(iteration);
        all.push(dag(dag_id, Some("for-loop-1"), 2, Some(iteration)));
        // They end in the opposite order.
        all.push(task(dag_id + 10, "push", dag_id));
    }
    all
}

#[test]
fn each_iteration_has_a_model_and_names_it() {
    let executions = executions(RunFlavor::KfpV2, three_iterations());
    let events = [kfp_output(3, 20), kfp_output(2, 21), kfp_output(1, 22)];
    let artifacts = || (1..=3).map(artifact);
    let found = models(artifacts(), &events, &executions, &[]);
    assert_eq!(names(&found), ["p:w:push:model:2", "p:w:push:model:1", "p:w:push:model:0"]);
    let same_names = artifacts().map(|artifact| named_artifact(artifact.id, "model"));
    assert_eq!(names(&models(same_names, &events, &executions, &[])), names(&found));
    let same_place = artifacts().map(|artifact| ContextArtifact { uri: "gs://a".into(), ..artifact });
    assert_eq!(names(&models(same_place, &events, &executions, &[])), ["p:w:push:model:2"]);
    // One model is no reason for another index.
    assert_eq!(names(&models([artifact(2)], &events, &executions, &[])), ["p:w:push:model:1"]);
}

#[test]
fn an_iteration_that_ran_again_replaces_only_its_own_output() {
    let again = [dag(30, Some("for-loop-1"), 2, Some(1)), task(31, "push", 30), task(32, "push", 12)];
    let executions = executions(RunFlavor::KfpV2, three_iterations().into_iter().chain(again));
    let events = [kfp_output(1, 20), kfp_output(2, 21), kfp_output(3, 22), kfp_output(4, 31), kfp_output(5, 32)];
    let found = models((1..=5).map(artifact), &events, &executions, &[]);
    assert_eq!(ids(&found), [1, 4, 5]);
    assert_eq!(names(&found), ["p:w:push:model:0", "p:w:push:model:1", "p:w:push:model:2"]);
}

/// The second time, the loop has fewer iterations.
#[test]
fn a_loop_that_ran_again_replaces_all_its_iterations() {
    let again = [dag(30, Some("for-loop-1"), 1, None), dag(31, Some("for-loop-1"), 30, Some(0)), task(32, "push", 31)];
    let executions = executions(RunFlavor::KfpV2, three_iterations().into_iter().chain(again));
    let events = [kfp_output(1, 20), kfp_output(2, 21), kfp_output(3, 22), kfp_output(4, 32)];
    assert_eq!(ids(&models((1..=4).map(artifact), &events, &executions, &[])), [4]);
}

#[test]
fn an_iteration_may_be_a_container() {
    let iteration = |id, iteration| Execution { iteration: Some(iteration), ..task(id, "push", 2) };
    let all = [dag(1, None, 0, None), dag(2, Some("loop"), 1, None), iteration(3, 0), iteration(4, 1), iteration(5, 1)];
    let executions = executions(RunFlavor::KfpV2, all);
    let events = [kfp_output(1, 3), kfp_output(2, 4), kfp_output(3, 5)];
    let found = models((1..=3).map(artifact), &events, &executions, &[]);
    assert_eq!(names(&found), ["p:w:push:model:0", "p:w:push:model:1"]);
    assert_eq!(ids(&found), [1, 3]);
}

#[test]
fn nested_loops_and_sub_pipelines_count_as_one_loop() {
    let mut all = vec![dag(1, None, 0, None), dag(2, Some("outer"), 1, None)];
    let mut events = Vec::new();
    let mut next = 10;
    for outer in 0..2 {
        let (outer_dag, inner_loop) = (next, next + 1);
        all.push(dag(outer_dag, Some("outer"), 2, Some(outer)));
        all.push(dag(inner_loop, Some("inner"), outer_dag, None));
        next += 2;
        for inner in 0..3 {
            all.push(dag(next, Some("inner"), inner_loop, Some(inner)));
            all.push(dag(next + 1, Some("sub-pipeline"), next, None));
            all.push(task(next + 2, "push", next + 1));
            events.push(kfp_output(i64::try_from(events.len()).unwrap() + 1, next + 2));
            next += 3;
        }
    }
    let executions = executions(RunFlavor::KfpV2, all);
    let found = models((1..=6).map(artifact), &events, &executions, &[]);
    assert_eq!(names(&found), (0..6).map(|index| format!("p:w:push:model:{index}")).collect::<Vec<_>>());
}

/// Runs of the SDK of KFP v1 and of KFP v2's compatible mode have no DAGs.
#[test]
fn without_dags_the_pod_tells_executions_of_a_task_apart() {
    let pod = |execution, pod| Execution { pod: Some(pod), ..execution };
    let component = |id| Execution { component: Some("Push"), type_name: "components.Push", ..execution(id) };
    let runs = [
        executions(
            RunFlavor::KfpV1,
            [pod(component(1), "run-x-1"), pod(component(2), "run-x-2"), pod(component(3), "run-x-1")],
        ),
        executions(
            RunFlavor::KfpV2,
            [
                pod(task(1, "Push", 0), "run-x-1"),
                pod(task(2, "Push", 0), "run-x-2"),
                pod(task(3, "Push", 0), "run-x-1"),
            ],
        ),
    ];
    for executions in runs {
        let events = [kfp_output(1, 1), kfp_output(2, 2), kfp_output(3, 3)];
        let found = models((1..=3).map(artifact), &events, &executions, &[]);
        assert_eq!(ids(&found), [2, 3]);
        assert_eq!(names(&found), ["p:w:Push:model:0", "p:w:Push:model:1"]);
    }
    let without_pods = executions(RunFlavor::KfpV1, [component(1), component(2)]);
    let found = models((1..=2).map(artifact), &[kfp_output(1, 1), kfp_output(2, 2)], &without_pods, &[]);
    assert_eq!(ids(&found), [1, 2], "a component may be used twice");
}

#[test]
fn a_parent_that_is_unknown_or_younger_is_harmless() {
    let all = [task(5, "push", 99), task(6, "push", 98), task(7, "push", 7), task(8, "push", 99), task(9, "push", 0)];
    let executions = executions(RunFlavor::KfpV2, all);
    let events = [kfp_output(1, 5), kfp_output(2, 6), kfp_output(3, 7), kfp_output(4, 8), kfp_output(5, 9)];
    let found = models((1..=5).map(artifact), &events, &executions, &[]);
    // 98 and 99 are younger than their children, so all of them have no parent and are one task.
    assert_eq!(ids(&found), [5]);
    let executions = self::executions(RunFlavor::KfpV2, [task(105, "push", 50), task(106, "push", 51)]);
    let found = models((1..=2).map(artifact), &[kfp_output(1, 105), kfp_output(2, 106)], &executions, &[]);
    assert_eq!(ids(&found), [1, 2]);
}

#[test]
fn a_deep_nesting_and_extreme_iterations_are_harmless() {
    let mut all = vec![dag(1, None, 0, None)];
    for id in 2..10_000 {
        all.push(dag(id, Some("deep"), id - 1, Some(u32::MAX)));
    }
    all.push(task(10_000, "push", 9999));
    let executions = executions(RunFlavor::KfpV2, all);
    let found = models([artifact(1)], &[kfp_output(1, 10_000)], &executions, &[]);
    assert_eq!(found[0].artifact.index, i64::MAX);
}
