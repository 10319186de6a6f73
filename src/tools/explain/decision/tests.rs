use super::*;
use crate::{
    eventsource::config,
    model::{Artifact, Mark, Phase, SubscriptionName, fixtures::succeeded, workflow::MAX_PIPELINE_NAME},
};

const NOW: i64 = 1_700_010_000;
const FINISHED: i64 = NOW - 60;

fn run() -> Workflow {
    Workflow { created: FINISHED - 600, finished: FINISHED, ..succeeded(PipelineName::Spec("penguin".into())) }
}

fn subscription(keys: &str) -> Subscription {
    config::parse("deploy", format!("kfpNamespace: team\n{keys}").as_bytes()).unwrap()
}

fn found() -> Result<RunModels, LookupError> {
    let model = Artifact {
        id: 1.into(),
        name: Some("m".into()),
        uri: "gs://m".into(),
        node: "Pusher".into(),
        key: "k".into(),
        index: 0,
    };
    Ok(RunModels { models: vec![model], ..RunModels::default() })
}

fn circumstances(server: ServerWord<'_>) -> Circumstances<'_> {
    Circumstances { now: NOW, skip_labelled: false, unselected_by: None, server }
}

/// The decision with and without a lookup, as the caller combines them.
fn decide(run: &Workflow, keys: &str, found: &Result<RunModels, LookupError>) -> Decision {
    let circumstances = circumstances(ServerWord::Unknown);
    let subscription = subscription(keys);
    before_lookup(run, &subscription, &circumstances).unwrap_or_else(|| match found {
        Ok(found) => after_lookup(run, &subscription, found, None, &circumstances),
        Err(error) => failed_lookup(run, ModelSource::Mlmd, error, NOW),
    })
}

#[track_caller]
fn assert_decided(decision: &Decision, status: Status, reason: &str, message: &str) {
    assert_eq!((decision.status, decision.reason), (status, reason), "{decision:?}");
    assert!(decision.message.contains(message), "{message:?} is missing in {decision:?}");
}

#[test]
fn every_run_has_a_state_a_reason_and_facts() {
    use Status::{Delivered, Never, Pending};
    let mark = |outcome| [Mark { subscription: SubscriptionName::new("deploy").unwrap(), outcome }].into();
    let failed = || Workflow { phase: Phase::Failed, ..run() };
    let marked = Workflow { marks: mark(RunOutcome::Succeeded), ..run() };
    assert_decided(&decide(&marked, "", &found()), Delivered, "delivered", "published.pipelines.kubeflow.org/deploy");
    let stale = Workflow { marks: mark(RunOutcome::Failed), ..run() };
    assert_decided(&decide(&stale, "", &found()), Pending, "pending", "not delivered yet");
    for phase in [Phase::Active, Phase::Unknown] {
        let running = Workflow { phase, finished: 0, ..run() };
        assert_decided(&decide(&running, "", &found()), Pending, "running", "not ended");
    }
    assert_decided(&decide(&failed(), "", &found()), Never, "failed", "statuses");
    assert_decided(&decide(&failed(), "statuses: [failed]", &Ok(RunModels::default())), Pending, "pending", "");
    let statuses = decide(&run(), "statuses: [failed]", &found());
    assert_decided(&statuses, Never, "filtered", "succeeded");
    assert_eq!(statuses.reason_with_filter(), "filtered (statuses)");
    let old = decide(&run(), "maxAge: 30s", &found());
    assert_decided(&old, Never, "filtered", "ended 60s ago, longer than the subscription's maxAge of 30s");
    assert_eq!(old.filter, Some(FilterReason::MaxAge));
    let other = decide(&run(), "pipelines: [\"iris-*\"]", &found());
    assert_decided(&other, Never, "filtered", "\"penguin\" matches none of the subscription's pipelines [\"iris-*\"]");
    assert_decided(&decide(&run(), "", &Ok(RunModels::default())), Never, "no_model", "");
    let nameless = Workflow { pipeline: PipelineName::Unknown.into(), ..run() };
    assert_decided(&decide(&nameless, "", &found()), Never, "no_pipeline_name", &MAX_PIPELINE_NAME.to_string());
    let mut large = found().unwrap();
    large.models[0].uri = "x".repeat(MAX_PAYLOAD).into();
    assert_decided(&decide(&run(), "", &Ok(large)), Never, "too_large", "payload");
    assert_decided(&decide(&run(), "", &Err(LookupError::TooLarge)), Never, "too_large", "too large to be read");
    let foreign = LookupError::ForeignContext { namespace: "team-b".to_owned() };
    assert_decided(&decide(&run(), "", &Err(foreign)), Never, "foreign_context", "team-b");
    let down = LookupError::Failed { code: "unavailable", message: "refused".to_owned() };
    let down = decide(&run(), "", &Err(down));
    assert_decided(&down, Pending, "unavailable", "ML Metadata cannot be asked, the server retries: refused");
}

/// The name that only ML Metadata has is compared after the lookup.
#[test]
fn the_name_from_the_lookup_is_filtered() {
    let run = Workflow { pipeline: PipelineName::Generated("penguin".into()).into(), ..run() };
    let found = found().map(|found| RunModels { pipeline: Some("iris".into()), ..found });
    assert_decided(&decide(&run, "pipelines: [penguin]", &found), Status::Never, "filtered", "\"iris\"");
    assert_decided(&decide(&run, "pipelines: [iris]", &found), Status::Pending, "pending", "");
}

#[test]
fn an_absent_context_is_expected_for_two_minutes() {
    let absent = Err(LookupError::NoContext);
    let decision = decide(&run(), "", &absent);
    assert_decided(&decision, Status::Pending, "no_context", "within 2m of its end");
    assert_eq!(decision.until, Some(FINISHED + 120));
    let long_ago = Workflow { finished: NOW - 120, ..run() };
    let decision = decide(&long_ago, "", &absent);
    assert_decided(&decision, Status::Never, "no_context", "2m after its end; the server asks again hourly");
    assert_eq!(decision.until, None);
}

/// A task with a model that never ends is left out after two minutes.
#[test]
fn an_unfinished_task_is_waited_for_until_a_known_time() {
    let message = "the task \"push\" has a model and is still running".to_owned();
    let unfinished = LookupError::Failed { code: kfp::UNFINISHED_CODE, message };
    let decision = failed_lookup(&run(), ModelSource::Kfp, &unfinished, NOW);
    assert_decided(&decision, Status::Pending, "unfinished", "still running; it is left out 2m after");
    assert_eq!(decision.until, Some(FINISHED + 120));
}

#[test]
fn only_latest_only_supersedes() {
    let newer = Newer { name: "run-y".to_owned(), finished: FINISHED + 1 };
    let decide = |keys| {
        let circumstances = circumstances(ServerWord::Unknown);
        after_lookup(&run(), &subscription(keys), &found().unwrap(), Some(&newer), &circumstances)
    };
    assert_decided(&decide("latestOnly: true"), Status::Never, "superseded", "run-y");
    assert_decided(&decide(""), Status::Pending, "pending", "");
}

#[test]
fn the_server_knows_more_than_the_workflow() {
    let decide = |server, run: &Workflow| {
        let (circumstances, subscription) = (circumstances(server), subscription(""));
        before_lookup(run, &subscription, &circumstances)
            .unwrap_or_else(|| after_lookup(run, &subscription, &found().unwrap(), None, &circumstances))
    };
    let time = "2026-01-01T00:00:00Z";
    assert_decided(&decide(ServerWord::Delivered(time), &run()), Status::Delivered, "delivered", time);
    let name = SubscriptionName::new("deploy").unwrap();
    let marked = Workflow { marks: [Mark { subscription: name, outcome: RunOutcome::Succeeded }].into(), ..run() };
    assert_decided(&decide(ServerWord::Superseded(time), &marked), Status::Never, "superseded", time);
    assert_decided(&decide(ServerWord::NoStream, &run()), Status::Pending, "pending", "no subscriber is connected");
    let streams = ServerWord::Streams { streams: 2, pending: 7 };
    assert_decided(&decide(streams, &run()), Status::Pending, "pending", "2 streams of the subscription, with 7");
}

#[test]
fn a_workflow_that_the_selector_excludes_is_no_run() {
    let excluded = Circumstances { unselected_by: Some("pipeline/runid"), ..circumstances(ServerWord::Unknown) };
    let decision = before_lookup(&run(), &subscription(""), &excluded).unwrap();
    assert_decided(&decision, Status::Never, "not_selected", "pipeline/runid");
}

#[test]
fn labelled_runs_count_only_if_the_server_says_so() {
    let labelled = Workflow { events_published: true, ..run() };
    assert_eq!(before_lookup(&labelled, &subscription(""), &circumstances(ServerWord::Unknown)), None);
    let skipping = Circumstances { skip_labelled: true, ..circumstances(ServerWord::Unknown) };
    let decision = before_lookup(&labelled, &subscription(""), &skipping).unwrap();
    assert_decided(&decision, Status::Delivered, "delivered", "--skip-labelled");
}

#[test]
fn the_payload_is_that_of_the_server() {
    let found = found().unwrap();
    let with_trace = subscription("include: [traceparent, eventId]");
    let payload = String::from_utf8(payload(&run(), &with_trace, &found).unwrap()).unwrap();
    let expected =
        r#"{"pipelineName":"penguin","servingModelArtifacts":[{"name":"m","location":"gs://m"}],"traceparent":"00-"#;
    assert!(payload.starts_with(expected) && payload.contains("eventId"), "{payload}");
    assert!(!needs_lookup(&Workflow { phase: Phase::Failed, ..run() }));
    assert!(needs_lookup(&Workflow { phase: Phase::Failed, pipeline: PipelineName::Unknown.into(), ..run() }));
}

#[test]
fn every_decision_has_an_advice() {
    for reason in [
        "delivered",
        "running",
        "pending",
        "no_context",
        "no_model",
        "superseded",
        "unavailable",
        "timeout",
        "unfinished",
        "unauthenticated",
        "permission_denied",
    ] {
        assert!(advice(&Decision::new(Status::Pending, reason, "")).len() > 10);
    }
}

#[test]
fn ages_are_short() {
    for (seconds, expected) in [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (3600, "60m"),
        (10_800, "3h"),
        (11_100, "3h5m"),
        (100_000, "27h"),
        (200_000, "2d"),
    ] {
        assert_eq!(age(seconds), expected, "{seconds}");
    }
}
