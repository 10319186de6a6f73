//! Which marks are removed and set, and which runs a window contains.

use super::*;
use crate::model::{PipelineName, fixtures::succeeded};

fn found(name: &str, marks: &[&str]) -> VersionedWorkflow {
    let mark = |name: &&str| Mark {
        subscription: SubscriptionName::from_annotation((*name).into()),
        outcome: RunOutcome::Succeeded,
    };
    let workflow = Workflow {
        name: name.into(),
        marks: marks.iter().map(mark).collect(),
        ..succeeded(PipelineName::Spec("penguin-pipeline".into()))
    };
    VersionedWorkflow { workflow, resource_version: "7".to_owned() }
}

fn deployer() -> NamedSubscription {
    NamedSubscription::parse("deployer").unwrap()
}

fn redelivery(marks: &[&str], given: &str) -> Result<(Vec<String>, usize), LeftOut> {
    let given = NamedSubscription::parse(given).unwrap();
    let step = step(found("run", marks), &given, Wish::Redeliver)?;
    Ok((step.marks.iter().map(ToString::to_string).collect(), step.events))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_redelivery_removes_every_mark_that_counts() {
    assert_eq!(redelivery(&["deployer", "other"], "deployer"), Ok((names(&["deployer"]), 1)));
    let all = ["deployer", "deployer.a", "deployer.b", "other"];
    assert_eq!(redelivery(&all, "deployer"), Ok((names(&all[..3]), 2)), "one event to each scope");
    assert_eq!(redelivery(&all, "deployer.a"), Ok((names(&all[..2]), 1)), "the plain mark counts for it, too");
    assert_eq!(redelivery(&["other"], "deployer"), Err(LeftOut::NotDelivered));
}

#[test]
fn only_the_delivery_of_the_present_outcome_is_repeated() {
    let mut failed = found("run", &["deployer"]);
    failed.workflow.phase = Phase::Failed;
    assert_eq!(step(failed.clone(), &deployer(), Wish::Redeliver), Err(LeftOut::NotSucceeded));
    let delivered = |mark: &Mark| Mark { outcome: RunOutcome::Failed, ..mark.clone() };
    failed.workflow.marks = failed.workflow.marks.iter().map(delivered).collect();
    assert_eq!(step(failed.clone(), &deployer(), Wish::Redeliver).map(|step| step.events), Ok(1));
    assert_eq!(step(failed, &deployer(), Wish::Skip), Err(LeftOut::NotSucceeded));
    let mut running = found("run", &["deployer"]);
    running.workflow.phase = Phase::Active;
    for wish in [Wish::Redeliver, Wish::Skip] {
        assert_eq!(step(running.clone(), &deployer(), wish), Err(LeftOut::NotEnded));
    }
}

#[test]
fn a_run_is_skipped_by_the_mark_of_the_name() {
    let skip = |marks: &[&str], given: &str| {
        let given = NamedSubscription::parse(given).unwrap();
        step(found("run", marks), &given, Wish::Skip).map(|step| step.marks[0].to_string())
    };
    assert_eq!(skip(&[], "deployer"), Ok("deployer".to_owned()));
    assert_eq!(skip(&["deployer"], "deployer"), Err(LeftOut::Marked));
    assert_eq!(skip(&["deployer"], "deployer.a"), Err(LeftOut::Marked), "it counts for every scope");
    assert_eq!(skip(&["deployer.a"], "deployer"), Ok("deployer".to_owned()), "not for the other scopes");
    let many: Vec<String> = (0..MAX_MARKS).map(|n| format!("s{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(skip(&many, "deployer"), Err(LeftOut::Full));
}

#[test]
fn a_window_selects_by_end_and_pipeline() {
    let ended_at = |name: &str, finished: i64| {
        let mut found = found(name, &["deployer"]);
        found.workflow.finished = finished;
        found
    };
    let mut other = ended_at("other", 2_000);
    other.workflow.pipeline = PipelineName::Spec("iris".into()).into();
    let mut recurring = ended_at("recurring", 2_000);
    recurring.workflow.pipeline = PipelineName::Unknown.into();
    let mut failed = ended_at("failed", 2_000);
    failed.workflow.phase = Phase::Failed;
    let mut unmarked = ended_at("unmarked", 2_000);
    unmarked.workflow.marks = [].into();
    let all = vec![
        ended_at("late", 3_000),
        ended_at("early", 1_500),
        ended_at("before", 999),
        other,
        recurring,
        failed,
        unmarked,
    ];
    let in_window = |since, pipelines: &[String]| {
        let window = Window { since, pipelines };
        let (steps, left_out) = steps(all.clone(), &window, &deployer(), Wish::Redeliver);
        let steps: Vec<_> = steps.iter().map(|step| step.found.workflow.name.to_string()).collect();
        (steps, left_out)
    };
    let unmarked = ("unmarked".to_owned(), LeftOut::NotDelivered);
    let (found, left_out) = in_window(Some(1_000), &[]);
    assert_eq!(
        found.iter().filter(|name| ["early", "late"].contains(&name.as_str())).collect::<Vec<_>>(),
        ["early", "late"]
    );
    assert_eq!((found.len(), left_out), (4, vec![unmarked.clone()]));
    let (found, left_out) = in_window(None, &["peng*".to_owned()]);
    assert_eq!(found, ["before", "early", "late"], "the oldest first");
    assert_eq!(left_out, [("recurring".to_owned(), LeftOut::UnknownPipeline), unmarked]);
    assert_eq!(begin(10_000, Duration::from_secs(3 * 3600)), -800);
}
