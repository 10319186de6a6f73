use serde_json::json;

use super::*;
use crate::model::{SubscriptionName, Uid};

const UID: &str = "0b64ec22-9e1f-4c8e-8a2f-6f1c8f4f6a01";

fn patch(change: MarkChange) -> MarkPatch {
    MarkPatch { namespace: "n".into(), name: "w".into(), uid: Uid::parse(UID).unwrap(), change }
}

fn name(name: &str) -> SubscriptionName {
    SubscriptionName::new(name).unwrap()
}

#[test]
fn a_mark_is_the_workflows_uid_under_the_subscriptions_name_with_the_uid_as_precondition() {
    let set = patch(MarkChange::Set(vec![name("a"), name("b")]));
    assert_eq!(
        serde_json::to_value(body(&set)).unwrap(),
        json!({"metadata": {"uid": UID, "annotations": {
            "published.pipelines.kubeflow.org/a": UID,
            "published.pipelines.kubeflow.org/b": UID,
        }}})
    );
}

#[test]
fn a_mark_is_removed_only_from_the_version_that_was_seen() {
    let remove = patch(MarkChange::Remove { subscriptions: vec![name("a")], resource_version: "7".into() });
    assert_eq!(
        serde_json::to_value(body(&remove)).unwrap(),
        json!({"metadata": {"uid": UID, "resourceVersion": "7", "annotations": {"published.pipelines.kubeflow.org/a": null}}})
    );
}

fn status(code: u16, field: Option<&str>) -> Status {
    let causes =
        field.map(|field| json!([{"reason": "FieldValueInvalid", "message": "field is immutable", "field": field}]));
    serde_json::from_value(json!({
        "kind": "Status", "status": "Failure", "code": code, "reason": "x", "message": "words", "details": {"causes": causes.unwrap_or(json!([]))},
    }))
    .unwrap()
}

#[test]
fn refusals_mean_what_the_api_server_means() {
    assert_eq!(classify(&status(404, None)), MarkError::Gone);
    assert_eq!(classify(&status(422, Some("metadata.uid"))), MarkError::Gone);
    assert_eq!(
        classify(&status(422, Some("metadata.annotations"))),
        MarkError::Refused { status: 422, message: "words".into() }
    );
    assert_eq!(classify(&status(409, None)), MarkError::Conflict);
    assert_eq!(classify(&status(403, None)), MarkError::Refused { status: 403, message: "words".into() });
    for code in [429, 500, 503, 504] {
        assert_eq!(classify(&status(code, None)), MarkError::Transient { message: format!("{code}: words") });
    }
}

#[tokio::test(start_paused = true)]
async fn patches_keep_to_their_rate_after_a_burst() {
    let pace = Pace::new(NonZeroU32::new(10).unwrap());
    tokio::time::advance(Duration::from_secs(5)).await;
    let start = Instant::now();
    for _ in 0..31 {
        pace.turn().await;
    }
    assert_eq!(start.elapsed().as_millis() / 100, 20, "ten of a burst at once, and twenty-one at ten a second");
}
