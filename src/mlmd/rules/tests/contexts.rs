//! The run's context, its namespace, and the executions that belong to the run.

use super::*;

#[test]
fn the_likely_flavor_comes_first() {
    let tfx = (RunFlavor::Tfx, "penguin-x7k2p".to_owned());
    let kfp_v1 = (RunFlavor::KfpV1, "penguin-x7k2p".to_owned());
    let kfp_v2 = (RunFlavor::KfpV2, "0e1f".to_owned());
    let spec = PipelineName::Spec("penguin".into());
    let all = [tfx.clone(), kfp_v2.clone(), kfp_v1.clone()];
    assert_eq!(run_contexts(&run(spec.clone())), all);
    assert_eq!(run_contexts(&run(PipelineName::TooLong)), all);
    let all = [kfp_v2, tfx.clone(), kfp_v1.clone()];
    assert_eq!(run_contexts(&run(PipelineName::Generated("penguin".into()))), all);
    assert_eq!(run_contexts(&run(PipelineName::Unknown)), all);
    let by_name = [tfx, kfp_v1];
    assert_eq!(run_contexts(&Workflow { run_id: None, ..run(PipelineName::Unknown) }), by_name);
    assert_eq!(run_contexts(&Workflow { run_id: Some(RunId::new("")), ..run(spec) }), by_name);
    let types = [RunFlavor::Tfx, RunFlavor::KfpV2, RunFlavor::KfpV1].map(RunFlavor::context_type);
    assert_eq!(types, ["pipeline_run", "system.PipelineRun", "KfpRun"]);
}

#[test]
fn a_context_that_names_another_namespace_is_foreign() {
    let run = run(PipelineName::Unknown);
    for flavor in [RunFlavor::Tfx, RunFlavor::KfpV2, RunFlavor::KfpV1] {
        let of = |namespace: Option<&str>| RunContext { namespace: namespace.map(Into::into), ..run_context(flavor) };
        assert_eq!(check_namespace(&of(None), &run), Ok(()));
        assert_eq!(check_namespace(&of(Some("team-a")), &run), Ok(()));
        let foreign = LookupError::ForeignContext { namespace: "team-b".into() };
        assert_eq!(check_namespace(&of(Some("team-b")), &run), Err(foreign));
    }
}

/// Of executions at the given times before the Workflow, returns the ids of the run's own. The id of the execution is its
/// position.
fn own(run: &Workflow, context: &RunContext, ages_ms: &[i64]) -> Vec<i64> {
    let mut executions = Executions::of(run, context);
    for (id, age_ms) in (1..).zip(ages_ms) {
        executions.add(&Execution { created_ms: CREATED * 1000 - age_ms, ..execution(id) });
    }
    let own: Vec<i64> =
        (1..).zip(ages_ms).map(|(id, _)| id).filter(|id| executions.role(*id) == Role::Producer).collect();
    assert_eq!(executions.foreign_count(), ages_ms.len() - own.len());
    assert_eq!(executions.latest(), own.last().copied());
    own
}

const DAY_MS: i64 = 24 * 3600 * 1000;

#[test]
fn an_execution_5_min_older_than_its_workflow_is_foreign() {
    let run = run(PipelineName::Unknown);
    let ages = [DAY_MS, 300_001, 300_000, 0, -DAY_MS];
    for flavor in [RunFlavor::Tfx, RunFlavor::KfpV1] {
        assert_eq!(own(&run, &run_context(flavor), &ages), [3, 4, 5]);
    }
    let without_namespace = RunContext { namespace: None, ..run_context(RunFlavor::KfpV2) };
    assert_eq!(own(&run, &without_namespace, &ages), [3, 4, 5], "older stores of KFP v2");
}

/// KFP's Retry creates a deleted Workflow again, and does not execute again what had succeeded.
#[test]
fn executions_in_a_context_of_the_namespace_have_any_age() {
    let run = run(PipelineName::Unknown);
    assert_eq!(own(&run, &run_context(RunFlavor::KfpV2), &[DAY_MS, 300_001, 0]), [1, 2, 3]);
}

#[test]
fn a_resubmitted_run_has_nothing_older_than_its_workflow() {
    let run = Workflow { resubmitted: true, ..run(PipelineName::Unknown) };
    for flavor in [RunFlavor::Tfx, RunFlavor::KfpV2, RunFlavor::KfpV1] {
        assert_eq!(own(&run, &run_context(flavor), &[DAY_MS, 5001, 5000, 0]), [3, 4]);
    }
}

#[test]
fn extreme_times_do_not_overflow() {
    for created in [i64::MIN, i64::MAX] {
        for resubmitted in [false, true] {
            let run = Workflow { created, resubmitted, ..run(PipelineName::Unknown) };
            let mut executions = Executions::of(&run, &run_context(RunFlavor::Tfx));
            executions.add(&Execution { created_ms: i64::MIN, ..execution(1) });
            executions.add(&Execution { created_ms: i64::MAX, ..execution(2) });
            assert_eq!(executions.latest(), Some(2));
        }
    }
}

fn context<'a>(id: i64, type_name: &'a str, name: &'a str) -> Context<'a> {
    Context { id, type_name, name, namespace: None }
}

fn context_names<'a>(contexts: impl IntoIterator<Item = Context<'a>>) -> ContextNames {
    let mut names = ContextNames::default();
    contexts.into_iter().for_each(|context| names.add(&context));
    names
}

#[test]
fn the_pipeline_is_named_by_its_oldest_context() {
    let contexts = [
        context(9, "system.Pipeline", "later"),
        context(3, "pipeline", "penguin"),
        context(4, "pipeline_run", "penguin-x7k2p"),
        context(5, "node", "penguin.Pusher"),
        context(6, "system.Pipeline", ""),
        context(8, "system.Pipeline", "taxi"),
    ];
    let names = context_names(contexts.clone());
    assert_eq!(names.pipeline(RunFlavor::Tfx, "team-a").as_deref(), Some("penguin"));
    assert_eq!(names.pipeline(RunFlavor::KfpV2, "team-a").as_deref(), Some("taxi"));
    assert_eq!(names.pipeline(RunFlavor::KfpV1, "team-a"), None);
    let names = context_names(contexts[1..5].iter().cloned());
    assert_eq!(names.pipeline(RunFlavor::KfpV2, "team-a"), None);
    assert_eq!(ContextNames::default().pipeline(RunFlavor::Tfx, "team-a"), None);
}

#[test]
fn a_pipelines_name_loses_the_prefix_of_its_own_namespace() {
    let name = |name| context_names([context(1, "system.Pipeline", name)]).pipeline(RunFlavor::KfpV2, "team-a");
    for (context, expected) in [
        ("namespace/team-a/pipeline/penguin", "penguin"),
        ("pipeline/penguin", "penguin"),
        ("penguin", "penguin"),
        ("namespace/team-b/pipeline/penguin", "namespace/team-b/pipeline/penguin"),
        ("namespace/team-ab/pipeline/penguin", "namespace/team-ab/pipeline/penguin"),
        ("namespace/team-a/penguin", "namespace/team-a/penguin"),
        ("namespace/pipeline/penguin", "namespace/pipeline/penguin"),
        ("pipeline/namespace/team-a/pipeline/penguin", "namespace/team-a/pipeline/penguin"),
        ("my/pipeline/penguin", "my/pipeline/penguin"),
    ] {
        assert_eq!(name(context).as_deref(), Some(expected), "{context}");
    }
    assert_eq!(name("pipeline/"), None);
    let tfx = context_names([context(1, "pipeline", "pipeline/penguin")]);
    assert_eq!(tfx.pipeline(RunFlavor::Tfx, "team-a").as_deref(), Some("pipeline/penguin"), "only KFP has prefixes");
}

#[test]
fn a_long_name_is_cut_and_stays_too_long() {
    let long = "ü".repeat(100_000);
    let names = context_names([context(1, "system.Pipeline", &long)]);
    let name = names.pipeline(RunFlavor::KfpV2, "team-a").unwrap();
    assert!(name.len() > crate::model::workflow::MAX_PIPELINE_NAME && name.len() <= MAX_CONTEXT_NAME);
}

#[test]
fn a_node_is_named_by_the_suffix_after_the_pipeline() {
    let pipeline = context(1, "pipeline", "team.penguin");
    let node_of = |name| context_names([pipeline.clone(), context(2, "node", name)]).node().map(String::from);
    assert_eq!(node_of("team.penguin.Pusher").as_deref(), Some("Pusher"));
    assert_eq!(node_of("team.penguin.Pusher.v2").as_deref(), Some("Pusher.v2"));
    assert_eq!(node_of("other.Pusher").as_deref(), Some("Pusher"));
    assert_eq!(node_of("Pusher").as_deref(), Some("Pusher"));
    assert_eq!(node_of("other."), None);
    assert_eq!(context_names([pipeline.clone()]).node(), None);
    assert_eq!(context_names([context(2, "node", "a.b.Pusher")]).node().as_deref(), Some("Pusher"));
}
