use serde_json::json;

use super::*;
use crate::{
    k8s::fixtures::{PendingRequest, failure, fake_client, uid_of, workflow},
    model::{RunOutcome, SubscriptionName, Uid},
};

fn set(names: &[&str]) -> MarkPatch {
    let mark = |subscription| Mark { subscription, outcome: RunOutcome::Succeeded };
    patch(MarkChange::Set(subscriptions(names).into_iter().map(mark).collect()))
}

fn patch(change: MarkChange) -> MarkPatch {
    let uid = Uid::parse(&uid_of("run-x")).unwrap();
    MarkPatch { namespace: "team".into(), name: "run-x".into(), uid, change, place: MarkPlace::Annotation }
}

fn subscriptions(names: &[&str]) -> Vec<SubscriptionName> {
    names.iter().map(|name| SubscriptionName::new(name).unwrap()).collect()
}

/// The marker's result for this answer, and the outcome in its metrics.
async fn answered(answer: impl FnOnce(PendingRequest)) -> (Result<(), MarkError>, PatchOutcome) {
    let (client, mut api) = fake_client();
    let metrics = client.metrics.clone();
    let marker = PatchMarker::new(client);
    let patch = set(&["model-update"]);
    let (result, ()) = tokio::join!(marker.patch(&patch), async { answer(api.next().await) });
    let count = |outcome| metrics.mark_patches.get_or_create(&OutcomeLabel { outcome }).get();
    let counted: Vec<_> = PatchOutcome::ALL.iter().copied().filter(|&outcome| count(outcome) == 1).collect();
    let [outcome] = counted[..] else { panic!("one outcome, not {counted:?}") };
    (result, outcome)
}

/// Sends this patch, and returns the request.
async fn sent(patch: &MarkPatch) -> PendingRequest {
    let (client, mut api) = fake_client();
    let marker = PatchMarker::new(client);
    tokio::select! {
        result = marker.patch(patch) => panic!("no answer was sent: {result:?}"),
        request = api.next() => request,
    }
}

#[tokio::test(start_paused = true)]
async fn a_mark_has_the_uid_as_value_and_as_precondition() {
    let request = sent(&set(&["evaluate", "deploy"])).await;
    assert_eq!(request.line(), "PATCH /apis/argoproj.io/v1alpha1/namespaces/team/workflows/run-x?");
    assert_eq!(request.header("content-type"), "application/merge-patch+json");
    let uid = uid_of("run-x");
    assert_eq!(
        request.json(),
        json!({"metadata": {"uid": uid, "annotations": {
            "published.pipelines.kubeflow.org/deploy": uid,
            "published.pipelines.kubeflow.org/evaluate": uid,
        }}})
    );
}

#[tokio::test(start_paused = true)]
async fn a_removal_has_the_resource_version_as_precondition() {
    let remove = MarkChange::Remove { subscriptions: subscriptions(&["deploy"]), resource_version: "7".into() };
    assert_eq!(
        sent(&patch(remove)).await.json(),
        json!({"metadata": {
            "uid": uid_of("run-x"), "resourceVersion": "7",
            "annotations": {"published.pipelines.kubeflow.org/deploy": null},
            "labels": {"published.pipelines.kubeflow.org/deploy": null},
        }})
    );
}

#[tokio::test(start_paused = true)]
async fn a_mark_of_a_failed_run_may_be_a_label() {
    let mark = Mark { subscription: SubscriptionName::new("deploy").unwrap(), outcome: RunOutcome::Failed };
    let label = MarkPatch { place: MarkPlace::Label, ..patch(MarkChange::Set(vec![mark])) };
    let uid = uid_of("run-x");
    assert_eq!(
        sent(&label).await.json(),
        json!({"metadata": {
            "uid": uid, "labels": {"published.pipelines.kubeflow.org/deploy": format!("{uid}.failed")},
        }})
    );
}

#[tokio::test(start_paused = true)]
async fn full_annotations_have_no_room() {
    let mut full = failure(422, "Too long: may not be more than 262144 bytes");
    full["details"] = json!({"causes": [{"field": "metadata.annotations", "reason": "FieldValueTooLong"}]});
    assert_eq!(answered(|request| request.answer(422, &full)).await, (Err(MarkError::NoRoom), PatchOutcome::NoRoom));
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_patch_is_metadata_only() {
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    assert_eq!(sent(&set(&["deploy"])).await.header("accept"), accept);
}

#[tokio::test(start_paused = true)]
async fn an_applied_patch_is_ok() {
    assert_eq!(answered(|request| request.answer(200, &workflow("run-x", 8))).await, (Ok(()), PatchOutcome::Ok));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_or_replaced_workflow_is_gone() {
    assert_eq!(answered(|request| request.refuse(404, "not found")).await, (Err(MarkError::Gone), PatchOutcome::Gone));
    let mut immutable = failure(422, "field is immutable");
    immutable["details"] = json!({"causes": [{"field": "metadata.uid", "message": "field is immutable"}]});
    assert_eq!(answered(|request| request.answer(422, &immutable)).await, (Err(MarkError::Gone), PatchOutcome::Gone));
}

#[tokio::test(start_paused = true)]
async fn an_outdated_version_is_a_conflict() {
    let refuse = |request: PendingRequest| request.refuse(409, "the object has been modified");
    assert_eq!(answered(refuse).await, (Err(MarkError::Conflict), PatchOutcome::Conflict));
}

#[tokio::test(start_paused = true)]
async fn temporary_errors_are_transient() {
    for code in [429, 500, 502, 503, 504] {
        let (result, outcome) = answered(|request| request.refuse(code, "message")).await;
        assert_eq!(result, Err(MarkError::Transient { message: format!("{code}: message") }));
        assert_eq!(outcome, PatchOutcome::Transient);
    }
    let (result, outcome) = answered(PendingRequest::reset).await;
    let Err(MarkError::Transient { message }) = result else { panic!("not transient: {result:?}") };
    assert!(message.contains("connection reset by peer"), "{message}");
    assert_eq!(outcome, PatchOutcome::Transient);
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_a_proxy_is_transient() {
    for (code, body) in [(502, "<html>Bad gateway</html>"), (502, r#"{"error": "no"}"#), (404, r#"{"error": "no"}"#)] {
        let (result, _) = answered(|request| request.answer_text(code, body)).await;
        assert!(matches!(result, Err(MarkError::Transient { .. })), "{code} {body}: {result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_refusals_carry_their_status() {
    for code in [400, 401, 403, 413, 422] {
        let (result, outcome) = answered(|request| request.refuse(code, "message")).await;
        assert_eq!(result, Err(MarkError::Refused { status: code, message: "message".into() }));
        assert_eq!(outcome, PatchOutcome::Refused);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_patch_times_out_after_ten_seconds() {
    let (client, mut api) = fake_client();
    let metrics = client.metrics.clone();
    let marker = PatchMarker::new(client);
    let start = Instant::now();
    let patch = set(&["deploy"]);
    let (result, _unanswered) = tokio::join!(marker.patch(&patch), api.next());
    assert_eq!(result, Err(MarkError::Transient { message: "no answer within 10 s".into() }));
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(metrics.mark_patches.get_or_create(&OutcomeLabel { outcome: PatchOutcome::Transient }).get(), 1);
}
