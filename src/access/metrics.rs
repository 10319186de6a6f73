//! Metrics of access control.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::Refusal;
use crate::telemetry::{MAX_NAMESPACES, OTHER_NAMESPACES, label_values};

label_values! {
    /// A kind of review.
    pub(super) enum ReviewKind {
        /// TokenReview.
        Token = "token",
        /// SubjectAccessReview.
        Access = "access",
    }
}

label_values! {
    /// The result of a review.
    pub(super) enum ReviewResult {
        /// The token is valid, or the user has the right.
        Positive = "positive",
        /// The token is not valid, or the user has no right.
        Negative = "negative",
        /// There is no answer.
        Error = "error",
    }
}

label_values! {
    /// The decision about a request.
    pub(super) enum Decision {
        /// Allowed.
        Allowed = "allowed",
        /// No token, or an invalid one.
        Unauthenticated = "unauthenticated",
        /// No right.
        Denied = "denied",
        /// No answer to a review.
        Unavailable = "unavailable",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    kind: ReviewKind,
    result: ReviewResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    decision: Decision,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditLabels {
    namespace: String,
    decision: Decision,
}

/// Metrics of access control. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AccessMetrics {
    reviews: Family<ReviewLabels, Counter>,
    decisions: Family<DecisionLabels, Counter>,
    audit_refusals: Family<AuditLabels, Counter>,
    namespaces: Arc<Mutex<HashSet<String>>>,
}

impl AccessMetrics {
    /// Creates and registers the metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for kind in ReviewKind::ALL {
            for result in ReviewResult::ALL {
                drop(metrics.reviews.get_or_create(&ReviewLabels { kind: *kind, result: *result }));
            }
        }
        for decision in Decision::ALL {
            drop(metrics.decisions.get_or_create(&DecisionLabels { decision: *decision }));
        }
        registry.register(
            "auth_reviews",
            "Reviews made by the Kubernetes API server, by kind and result; cached answers are not counted",
            metrics.reviews.clone(),
        );
        registry.register(
            "auth_decisions",
            "Decisions about subscriptions and rechecks of open streams, with --auth audit or token",
            metrics.decisions.clone(),
        );
        registry.register(
            "auth_audit_refusals",
            "Subscriptions accepted with --auth audit that --auth token would refuse, by namespace",
            metrics.audit_refusals.clone(),
        );
        metrics
    }

    pub(super) fn reviewed(&self, kind: ReviewKind, result: ReviewResult) {
        self.reviews.get_or_create(&ReviewLabels { kind, result }).inc();
    }

    pub(super) fn decided(&self, refusal: Option<&Refusal>) {
        self.decisions.get_or_create(&DecisionLabels { decision: decision(refusal) }).inc();
    }

    pub(super) fn audited(&self, namespace: &str, refusal: &Refusal) {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = namespaces.contains(namespace)
            || (namespaces.len() < MAX_NAMESPACES && namespaces.insert(namespace.to_owned()));
        let namespace = if is_known { namespace } else { OTHER_NAMESPACES }.to_owned();
        self.audit_refusals.get_or_create(&AuditLabels { namespace, decision: decision(Some(refusal)) }).inc();
    }
}

fn decision(refusal: Option<&Refusal>) -> Decision {
    match refusal {
        None => Decision::Allowed,
        Some(Refusal::NoToken | Refusal::InvalidToken { .. }) => Decision::Unauthenticated,
        Some(Refusal::Denied { .. }) => Decision::Denied,
        Some(Refusal::Unavailable { .. }) => Decision::Unavailable,
    }
}
