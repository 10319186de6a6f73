//! Patches that write and remove marks.

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::Status,
};
use serde::Serialize;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span, field::Empty, info_span};

use super::{
    Client,
    metrics::{OutcomeLabel, PatchOutcome},
    object::Object,
};
use crate::{
    delivery::{MarkChange, MarkError, MarkPatch, MarkPlace, Marker},
    model::{Mark, workflow::MARK_PREFIX},
    telemetry::{Traces, log::chain, trace::TARGET},
};

/// The deadline for a patch and its answer.
const PATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The field that the API server names if a patch has a wrong UID.
const UID_FIELD: &str = "metadata.uid";
/// The field and the reason that the API server names if the annotations would be too large.
const NO_ROOM: (&str, &str) = ("metadata.annotations", "FieldValueTooLong");

/// Writes marks with merge patches that have preconditions.
pub struct PatchMarker {
    client: Client,
}

impl PatchMarker {
    /// A marker that sends its patches through this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn send(&self, patch: &MarkPatch) -> Result<(), MarkError> {
        let api: Api<Object> = Api::namespaced(self.client.kube.clone(), &patch.namespace);
        let body = Patch::Merge(body(patch));
        let params = PatchParams::default();
        let request = api.patch(&patch.name, &params, &body);
        // Not in the client's layers: those run in a separate task, outside the trace.
        let span = request_span();
        let answer = timeout(PATCH_TIMEOUT, request).instrument(span.clone()).await;
        let status = match &answer {
            Ok(Ok(_)) => Some(200),
            Ok(Err(kube::Error::Api(status))) => Some(status.code),
            _ => None,
        };
        status.inspect(|status| {
            span.record("http.response.status_code", status);
        });
        if status != Some(200) {
            span.record("error.type", status.map_or_else(|| "error".to_owned(), |status| status.to_string()));
            span.record("otel.status_code", "ERROR");
        }
        match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) => Err(classify(&status)),
            Ok(Err(error)) => Err(MarkError::Transient { message: chain(&error) }),
            Err(_) => Err(MarkError::Transient { message: format!("no answer within {} s", PATCH_TIMEOUT.as_secs()) }),
        }
    }
}

impl Marker for PatchMarker {
    fn patch<'a>(&'a self, patch: &'a MarkPatch) -> BoxFuture<'a, Result<(), MarkError>> {
        Box::pin(async move {
            let start = Instant::now();
            let result = self.send(patch).await;
            let metrics = &self.client.metrics;
            let outcome = PatchOutcome::from(&result);
            metrics.mark_patches.get_or_create(&OutcomeLabel { outcome }).inc();
            metrics.mark_patch_duration.observe(start.elapsed().as_secs_f64());
            result
        })
    }
}

/// The client span of a patch, if its step is traced.
fn request_span() -> Span {
    if !Traces::is_within() {
        return Span::none();
    }
    info_span!(
        target: TARGET,
        "request",
        otel.name = "PATCH workflows",
        otel.kind = "client",
        http.request.method = "PATCH",
        http.response.status_code = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

#[derive(Debug, Serialize)]
struct Body {
    metadata: Metadata,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    /// A precondition: the field is immutable, so the API server refuses another UID.
    uid: String,
    /// An optional precondition: another version is a conflict.
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, Option<String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, Option<String>>,
}

fn body(patch: &MarkPatch) -> Body {
    let uid = patch.uid.to_string();
    let key = |name: &_| format!("{MARK_PREFIX}{name}");
    let metadata = match &patch.change {
        MarkChange::Set(marks) => {
            let value = |mark: &Mark| (key(&mark.subscription), Some(Mark::value(patch.uid, mark.outcome)));
            let marks = marks.iter().map(value).collect();
            let (annotations, labels) = match patch.place {
                MarkPlace::Annotation => (marks, BTreeMap::new()),
                MarkPlace::Label => (BTreeMap::new(), marks),
            };
            Metadata { uid, resource_version: None, annotations, labels }
        }
        MarkChange::Remove { subscriptions, resource_version } => {
            let removed: BTreeMap<_, _> = subscriptions.iter().map(|name| (key(name), None)).collect();
            let resource_version = Some(resource_version.to_string());
            Metadata { uid, resource_version, annotations: removed.clone(), labels: removed }
        }
    };
    Body { metadata }
}

/// Classifies the API server's refusal. kube-apiserver 1.36 answers a wrong UID with a 422 that names the field, not
/// with a 409.
fn classify(status: &Status) -> MarkError {
    let causes = || status.details.iter().flat_map(|details| &details.causes);
    let wrong_uid = || causes().any(|cause| cause.field == UID_FIELD);
    let no_room = || causes().any(|cause| (&*cause.field, &*cause.reason) == NO_ROOM);
    match status.code {
        404 => MarkError::Gone,
        422 if wrong_uid() => MarkError::Gone,
        422 if no_room() => MarkError::NoRoom,
        409 => MarkError::Conflict,
        429 | 500.. => MarkError::Transient { message: format!("{}: {}", status.code, status.message) },
        // JSON that is not a Status: the answer of a proxy, not of the API server.
        0 => {
            MarkError::Transient { message: "refused without a Kubernetes Status, so not by the API server".to_owned() }
        }
        code => MarkError::Refused { status: code, message: status.message.clone() },
    }
}

#[cfg(test)]
mod tests;
