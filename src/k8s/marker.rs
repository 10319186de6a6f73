//! Patches that write and remove marks.

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

use super::{
    Client,
    metrics::{OutcomeLabel, PatchOutcome},
    object::Object,
};
use crate::{
    delivery::{MarkChange, MarkError, MarkPatch, Marker},
    model::workflow::MARK_PREFIX,
    telemetry::{Traces, log::chain, trace::TARGET},
};

/// The deadline for a patch and its answer.
const PATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The field that the API server names if a patch has a wrong UID.
const UID_FIELD: &str = "metadata.uid";

/// Writes marks with merge patches that have preconditions.
pub struct PatchMarker {
    client: Client,
    limiter: Option<RateLimiter>,
}

impl PatchMarker {
    /// A marker that sends at most `per_second` patches a second, after a burst of as many.
    pub fn new(client: Client, per_second: Option<NonZeroU32>) -> Self {
        Self { client, limiter: per_second.map(RateLimiter::new) }
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
            if let Some(limiter) = &self.limiter {
                limiter.acquire().await;
            }
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

/// Classifies the API server's refusal. kube-apiserver 1.36 answers a wrong UID with a 422 that names the field, not
/// with a 409.
fn classify(status: &Status) -> MarkError {
    let wrong_uid = || {
        let causes = status.details.iter().flat_map(|details| &details.causes);
        causes.into_iter().any(|cause| cause.field == UID_FIELD)
    };
    match status.code {
        404 => MarkError::Gone,
        422 if wrong_uid() => MarkError::Gone,
        409 => MarkError::Conflict,
        429 | 500.. => MarkError::Transient { message: format!("{}: {}", status.code, status.message) },
        // JSON that is not a Status: the answer of a proxy, not of the API server.
        0 => {
            MarkError::Transient { message: "refused without a Kubernetes Status, so not by the API server".to_owned() }
        }
        code => MarkError::Refused { status: code, message: status.message.clone() },
    }
}

/// Limits a rate, after a burst of one second's worth (the generic cell rate algorithm).
struct RateLimiter {
    interval: Duration,
    /// The instant of the next permit if permits were evenly spaced; up to [`Self::BURST`] in the past.
    next: Mutex<Instant>,
}

impl RateLimiter {
    const BURST: Duration = Duration::from_secs(1);

    fn new(per_second: NonZeroU32) -> Self {
        let interval = Self::BURST / per_second.get();
        Self { interval, next: Mutex::new(Instant::now()) }
    }

    /// Waits for a permit.
    async fn acquire(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now().checked_sub(Self::BURST).unwrap_or(*next);
            let at = (*next).max(earliest);
            *next = at + self.interval;
            at
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests;
