//! Writes marks on Workflows, and removes them.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::Status,
};
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument, Span, field::Empty, info_span};

use super::{Client, object::Object};
use crate::{
    delivery::{MarkChange, MarkError, MarkPatch, Marker},
    model::workflow::MARK_PREFIX,
    telemetry::{Traces, log::chain, metrics::kubernetes::OutcomeLabel, trace::TARGET},
};

/// For one patch, its answer included.
const PATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The field that the API server names where a patch's UID is not the Workflow's.
const UID_FIELD: &str = "metadata.uid";

/// Writes marks through the Kubernetes API, by merge patches with preconditions.
pub struct PatchMarker {
    client: Client,
    pace: Option<Pace>,
}

impl PatchMarker {
    /// `per_second` limits how many patches are sent a second; a burst of as many is let through at once.
    pub fn new(client: Client, per_second: Option<NonZeroU32>) -> Self {
        Self { client, pace: per_second.map(Pace::new) }
    }

    async fn send(&self, patch: &MarkPatch) -> Result<(), MarkError> {
        let api: Api<Object> = Api::namespaced(self.client.kube.clone(), &patch.namespace);
        let body = Patch::Merge(body(patch));
        let params = PatchParams::default();
        let request = api.patch(&patch.name, &params, &body);
        // Not in the client's own layers: those run in a task of their own, which knows nothing of the trace.
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
            if let Some(pace) = &self.pace {
                pace.turn().await;
            }
            let start = Instant::now();
            let result = self.send(patch).await;
            let outcome = result.as_ref().map_or_else(MarkError::code, |()| "ok");
            let metrics = &self.client.metrics;
            metrics.mark_patches.get_or_create(&OutcomeLabel { outcome }).inc();
            metrics.mark_seconds.observe(start.elapsed().as_secs_f64());
            result
        })
    }
}

/// The client's span of a patch, where what it is for is traced.
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
    /// A precondition: the field is immutable, so a patch with another UID is refused.
    uid: String,
    /// A precondition, where present: a patch of another version is a conflict.
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<String>,
    annotations: BTreeMap<String, Option<String>>,
}

fn body(patch: &MarkPatch) -> Body {
    let uid = patch.uid.to_string();
    let (subscriptions, value, resource_version) = match &patch.change {
        MarkChange::Set(subscriptions) => (subscriptions, Some(uid.clone()), None),
        MarkChange::Remove { subscriptions, resource_version } => {
            (subscriptions, None, Some(resource_version.to_string()))
        }
    };
    let annotations = subscriptions.iter().map(|name| (format!("{MARK_PREFIX}{name}"), value.clone())).collect();
    Body { metadata: Metadata { uid, resource_version, annotations } }
}

/// What the API server's refusal means for the mark. Measured on kube-apiserver 1.36: a foreign UID is a 422 whose cause
/// names the field, not a 409.
fn classify(status: &Status) -> MarkError {
    let about_uid = || {
        let causes = status.details.iter().flat_map(|details| &details.causes);
        causes.into_iter().any(|cause| cause.field == UID_FIELD)
    };
    match status.code {
        404 => MarkError::Gone,
        422 if about_uid() => MarkError::Gone,
        409 => MarkError::Conflict,
        429 | 500.. => MarkError::Transient { message: format!("{}: {}", status.code, status.message) },
        // A refusal in JSON that is no Status: not the API server's own words, but those of something before it.
        0 => MarkError::Transient { message: "refused, and not in the API server's words".to_owned() },
        code => MarkError::Refused { status: code, message: status.message.clone() },
    }
}

/// Lets so many through a second, after a burst of as many (the generic cell rate algorithm).
struct Pace {
    interval: Duration,
    /// When the next turn would be, were turns evenly spaced; up to a second in the past.
    next: Mutex<Instant>,
}

impl Pace {
    /// How far turns may lie behind an even spacing: the burst.
    const SLACK: Duration = Duration::from_secs(1);

    fn new(per_second: NonZeroU32) -> Self {
        let interval = Self::SLACK / per_second.get();
        Self { interval, next: Mutex::new(Instant::now()) }
    }

    async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now().checked_sub(Self::SLACK).unwrap_or(*next);
            let at = (*next).max(earliest);
            *next = at + self.interval;
            at
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests;
