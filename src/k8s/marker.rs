//! Patches that write and remove marks.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span, field::Empty, info_span, warn};

use super::{
    Client,
    client::{Refusal, RequestError},
    metrics::{OutcomeLabel, PatchOutcome},
    workflows_path,
};
use crate::{
    delivery::{MarkChange, MarkError, MarkPatch, MarkPlace, Marker},
    model::{Mark, workflow::MARK_PREFIX},
    telemetry::{LogThrottle, Traces, log::chain, trace::TARGET},
};

/// The deadline for a patch and its answer.
const PATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The field that the API server names if a patch has a wrong UID.
const UID_FIELD: &str = "metadata.uid";
/// The field and the reason that the API server names if the annotations would be too large.
const NO_ROOM: (&str, &str) = ("metadata.annotations", "FieldValueTooLong");
/// Parts of the messages of kube-apiserver 1.36 for refusals by admission policies and by webhooks.
const ADMISSION: [&str; 3] = ["ValidatingAdmissionPolicy", "MutatingAdmissionPolicy", "admission webhook"];
const LOGGED: usize = 16;

/// Writes marks with merge patches that have preconditions.
pub struct PatchMarker {
    client: Client,
    /// By the HTTP status. The message differs from Workflow to Workflow.
    logged_admission: Mutex<LogThrottle<u16>>,
}

impl PatchMarker {
    /// A marker that sends its patches through this client.
    pub fn new(client: Client) -> Self {
        Self { client, logged_admission: Mutex::new(LogThrottle::new(LOGGED)) }
    }

    async fn send(&self, patch: &MarkPatch) -> Result<(), MarkError> {
        // Not in the client's layers: those run in a separate task, outside the trace.
        let span = request_span();
        let answer = timeout(PATCH_TIMEOUT, self.request(patch)).instrument(span.clone()).await;
        let code = match &answer {
            Ok(Ok(())) => 200,
            Ok(Err(error)) => error.code(),
            Err(_) => 0,
        };
        if code != 0 {
            span.record("http.response.status_code", code);
        }
        if code != 200 {
            span.record("error.type", if code == 0 { "error".to_owned() } else { code.to_string() });
            span.record("otel.status_code", "ERROR");
        }
        match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(RequestError::Refused(refusal))) => Err(classify(patch, &refusal)),
            Ok(Err(error)) => Err(MarkError::Transient { message: chain(&error) }),
            Err(_) => Err(MarkError::Transient { message: format!("no answer within {} s", PATCH_TIMEOUT.as_secs()) }),
        }
    }

    /// Sends the patch, and reads the answer to its end without keeping it: the metadata of some Workflows is large.
    async fn request(&self, patch: &MarkPatch) -> Result<(), RequestError> {
        let request = kube::core::Request::new(workflows_path(Some(&patch.namespace)));
        let body = Patch::Merge(body(patch));
        let request = request.patch_metadata(&patch.name, &PatchParams::default(), &body)?;
        let mut answer = self.client.send(request, PATCH_TIMEOUT).await?;
        if !answer.content_type.starts_with("application/json") {
            return Err(RequestError::Malformed(format!(
                "content type {:?}, not that of an API server",
                answer.content_type
            )));
        }
        while answer.next().await?.is_some() {}
        Ok(())
    }

    /// Logs a refusal by an admission policy or webhook, with the way out.
    fn log_admission(&self, patch: &MarkPatch, error: &MarkError) {
        let MarkError::Refused { status, message } = error else { return };
        if !ADMISSION.iter().any(|words| message.contains(words)) {
            return;
        }
        if self.logged_admission.lock().unwrap_or_else(PoisonError::into_inner).allows(*status, &()) {
            warn!(
                namespace = %patch.namespace, workflow = %patch.name, error = message,
                hint = "exclude this server's service account from policies and webhooks that change or refuse Workflows; \
                        if the chart's own policy refuses what another one has changed, and that one must stay, set \
                        admissionPolicy.enabled=false",
                "an admission policy or webhook refuses marks"
            );
        }
    }
}

impl Marker for PatchMarker {
    fn patch<'a>(&'a self, patch: &'a MarkPatch) -> BoxFuture<'a, Result<(), MarkError>> {
        Box::pin(async move {
            let start = Instant::now();
            let result = self.send(patch).await;
            if let Err(error) = &result {
                self.log_admission(patch, error);
            }
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

/// Classifies a refusal. kube-apiserver 1.36 answers a wrong UID with a 422 that names the field, not with a 409. What is
/// not a Kubernetes Status was not written by the API server, so nothing follows from it.
fn classify(patch: &MarkPatch, refusal: &Refusal) -> MarkError {
    let Some(status) = &refusal.status else { return MarkError::Transient { message: refusal.to_string() } };
    let causes = || status.details.iter().flat_map(|details| &details.causes);
    let wrong_uid = || causes().any(|cause| cause.field == UID_FIELD);
    let no_room = || causes().any(|cause| (&*cause.field, &*cause.reason) == NO_ROOM);
    let not_found = || {
        let details = status.details.as_ref();
        status.reason == "NotFound" && details.is_some_and(|it| it.kind == "workflows" && *it.name == *patch.name)
    };
    match refusal.code {
        404 if not_found() => MarkError::Gone,
        422 if wrong_uid() => MarkError::Gone,
        422 if no_room() => MarkError::NoRoom,
        409 => MarkError::Conflict,
        404 | 429 | 500.. => MarkError::Transient { message: refusal.to_string() },
        code => MarkError::Refused { status: code, message: refusal.message.clone() },
    }
}

#[cfg(test)]
mod tests;
