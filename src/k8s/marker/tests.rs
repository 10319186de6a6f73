use serde_json::json;

use super::*;
use crate::{
    k8s::fixtures::{Asked, FakeApi, failure, fake, uid_of, workflow},
    model::{SubscriptionName, Uid},
};

fn set(names: &[&str]) -> MarkPatch {
    patch(MarkChange::Set(subscriptions(names)))
}

fn patch(change: MarkChange) -> MarkPatch {
    MarkPatch { namespace: "team".into(), name: "run-x".into(), uid: Uid::parse(&uid_of("run-x")).unwrap(), change }
}

fn subscriptions(names: &[&str]) -> Vec<SubscriptionName> {
    names.iter().map(|name| SubscriptionName::new(name).unwrap()).collect()
}

/// What the marker makes of this answer, and what it calls that in its metrics.
async fn answered(answer: impl FnOnce(Asked)) -> (Result<(), MarkError>, &'static str) {
    let (client, mut api) = fake();
    let metrics = client.metrics.clone();
    let marker = PatchMarker::new(client, None);
    let patch = set(&["model-update"]);
    let (result, ()) = tokio::join!(marker.patch(&patch), async { answer(api.next().await) });
    let count = |outcome| metrics.mark_patches.get_or_create(&OutcomeLabel { outcome }).get();
    let counted: Vec<_> =
        ["ok", "gone", "conflict", "transient", "refused"].into_iter().filter(|outcome| count(outcome) == 1).collect();
    let [outcome] = counted[..] else { panic!("one outcome, not {counted:?}") };
    (result, outcome)
}

/// Sends this patch; returns the request.
async fn sent(patch: &MarkPatch) -> Asked {
    let (client, mut api) = fake();
    let marker = PatchMarker::new(client, None);
    tokio::select! {
        result = marker.patch(patch) => panic!("nobody has answered: {result:?}"),
        asked = api.next() => asked,
    }
}

#[tokio::test(start_paused = true)]
async fn a_mark_is_the_workflows_uid_under_the_subscriptions_name_with_the_uid_as_precondition() {
    let asked = sent(&set(&["evaluate", "deploy"])).await;
    assert_eq!(asked.line(), "PATCH /apis/argoproj.io/v1alpha1/namespaces/team/workflows/run-x?");
    assert_eq!(asked.header("content-type"), "application/merge-patch+json");
    let uid = uid_of("run-x");
    assert_eq!(
        asked.json(),
        json!({"metadata": {"uid": uid, "annotations": {
            "published.pipelines.kubeflow.org/deploy": uid,
            "published.pipelines.kubeflow.org/evaluate": uid,
        }}})
    );
}

#[tokio::test(start_paused = true)]
async fn a_mark_is_removed_only_from_the_version_that_was_seen() {
    let remove = MarkChange::Remove { subscriptions: subscriptions(&["deploy"]), resource_version: "7".into() };
    assert_eq!(
        sent(&patch(remove)).await.json(),
        json!({"metadata": {
            "uid": uid_of("run-x"), "resourceVersion": "7",
            "annotations": {"published.pipelines.kubeflow.org/deploy": null},
        }})
    );
}

#[tokio::test(start_paused = true)]
async fn metadata_is_all_that_is_asked_for_in_answer_to_a_patch() {
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    assert_eq!(sent(&set(&["deploy"])).await.header("accept"), accept);
}

#[tokio::test(start_paused = true)]
async fn a_patch_that_was_taken_is_ok() {
    assert_eq!(answered(|asked| asked.answer(200, &workflow("run-x", 8))).await, (Ok(()), "ok"));
}

#[tokio::test(start_paused = true)]
async fn a_workflow_that_is_not_there_or_has_another_uid_is_gone() {
    assert_eq!(answered(|asked| asked.refuse(404, "not found")).await, (Err(MarkError::Gone), "gone"));
    let mut immutable = failure(422, "field is immutable");
    immutable["details"] = json!({"causes": [{"field": "metadata.uid", "message": "field is immutable"}]});
    assert_eq!(answered(|asked| asked.answer(422, &immutable)).await, (Err(MarkError::Gone), "gone"));
}

#[tokio::test(start_paused = true)]
async fn a_patch_of_a_version_that_has_gone_by_is_a_conflict() {
    let refuse = |asked: Asked| asked.refuse(409, "the object has been modified");
    assert_eq!(answered(refuse).await, (Err(MarkError::Conflict), "conflict"));
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_by_itself_is_transient() {
    for code in [429, 500, 502, 503, 504] {
        let (result, outcome) = answered(|asked| asked.refuse(code, "words")).await;
        assert_eq!(result, Err(MarkError::Transient { message: format!("{code}: words") }));
        assert_eq!(outcome, "transient");
    }
    let (result, outcome) = answered(Asked::break_off).await;
    let Err(MarkError::Transient { message }) = result else { panic!("not transient: {result:?}") };
    assert!(message.contains("connection reset by peer"), "{message}");
    assert_eq!(outcome, "transient");
}

#[tokio::test(start_paused = true)]
async fn what_a_proxy_says_in_the_api_servers_place_does_not_make_a_workflow_gone() {
    for (code, body) in [(502, "<html>Bad gateway</html>"), (502, r#"{"error": "no"}"#), (404, r#"{"error": "no"}"#)] {
        let (result, _) = answered(|asked| asked.answer_text(code, body)).await;
        assert!(matches!(result, Err(MarkError::Transient { .. })), "{code} {body}: {result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_otherwise_is_told_with_its_status() {
    for code in [400, 401, 403, 413, 422] {
        let (result, outcome) = answered(|asked| asked.refuse(code, "words")).await;
        assert_eq!(result, Err(MarkError::Refused { status: code, message: "words".into() }));
        assert_eq!(outcome, "refused");
    }
}

#[tokio::test(start_paused = true)]
async fn a_patch_that_is_not_answered_is_given_up_after_ten_seconds() {
    let (client, mut api) = fake();
    let metrics = client.metrics.clone();
    let marker = PatchMarker::new(client, None);
    let start = Instant::now();
    let patch = set(&["deploy"]);
    let (result, _unanswered) = tokio::join!(marker.patch(&patch), api.next());
    assert_eq!(result, Err(MarkError::Transient { message: "no answer within 10 s".into() }));
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(metrics.mark_patches.get_or_create(&OutcomeLabel { outcome: "transient" }).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn turns_keep_to_their_rate_after_a_burst() {
    let pace = Pace::new(NonZeroU32::new(10).unwrap());
    tokio::time::advance(Duration::from_secs(5)).await;
    let start = Instant::now();
    for _ in 0..31 {
        pace.turn().await;
    }
    assert_eq!(start.elapsed().as_millis() / 100, 20, "ten of a burst at once, and twenty-one at ten a second");
}

#[tokio::test(start_paused = true)]
async fn patches_wait_for_their_turn_and_not_for_each_other() {
    let (client, mut api) = fake();
    let marker = PatchMarker::new(client, NonZeroU32::new(2));
    tokio::time::advance(Duration::from_secs(5)).await;
    let start = Instant::now();
    let patches: Vec<_> = (0..5).map(|_| set(&["deploy"])).collect();
    let marked = futures::future::join_all(patches.iter().map(|patch| marker.patch(patch)));
    let answers = async |api: &mut FakeApi| {
        let mut held = Vec::new();
        let mut at = Vec::new();
        for _ in 0..5 {
            held.push(api.next().await);
            at.push(start.elapsed().as_millis());
        }
        held.into_iter().for_each(|asked| asked.answer(200, &workflow("run-x", 8)));
        at
    };
    let (results, at) = tokio::join!(marked, answers(&mut api));
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(at.iter().map(|ms| (ms + 5) / 10 * 10).collect::<Vec<_>>(), [0, 0, 0, 500, 1000]);
}
