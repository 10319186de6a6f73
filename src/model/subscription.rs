//! What one logical consumer of a namespace wants.

use std::{fmt, sync::Arc, time::Duration};

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::{ArtifactTypes, Include, PipelineName, Workflow};

/// The longest name of a subscription: that of a DNS label, and of the name part of an annotation's key.
pub const MAX_NAME: usize = 63;

/// The name under which deliveries are remembered: the name part of an annotation's key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionName(Arc<str>);

/// Why a text is no name of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a DNS label (1 to 63 characters, a-z, 0-9 and '-', beginning and ending with a letter or digit)")]
pub struct NotADnsLabel;

impl SubscriptionName {
    /// A name that somebody chose.
    ///
    /// # Errors
    /// Where it is not a DNS label (RFC 1123).
    pub fn new(name: &str) -> Result<Self, NotADnsLabel> {
        if is_dns_label(name) { Ok(Self(name.into())) } else { Err(NotADnsLabel) }
    }

    /// The name that follows from `EventSource.name`. One that is no DNS label becomes one: what is not allowed is
    /// replaced, and a short hash of the original keeps two odd names apart.
    pub fn derived_from(event_source: &str) -> Self {
        Self::new(event_source).unwrap_or_else(|_| {
            let replaced: String = event_source
                .chars()
                .map(|c| c.to_ascii_lowercase())
                .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
                .take(MAX_NAME - 9)
                .collect();
            let stem = match replaced.trim_matches('-') {
                "" => "subscription",
                stem => stem,
            };
            Self(format!("{stem}-{:08x}", fnv1a(event_source.as_bytes())).into())
        })
    }

    /// Takes the name part of an existing annotation's key as it is; who wrote it is not known.
    pub fn from_annotation(shared: Arc<str>) -> Self {
        Self(shared)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Whether `text` is a DNS label as RFC 1123 defines it and Kubernetes names namespaces.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| inner(b) || b == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().next_back().is_some_and(inner)
}

/// FNV-1a with 32 bits: stable over releases and machines, which the name of a mark must be.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Which pipelines' runs are wanted.
#[derive(Clone, Debug, Default)]
pub struct PipelineFilter(Option<GlobSet>);

impl PipelineFilter {
    /// Only runs of pipelines that match one of these glob patterns (`*`, `?`, `[a-z]`, `{a,b}`).
    ///
    /// # Errors
    /// The first pattern that is malformed.
    pub fn matching<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(Glob::new(pattern)?);
        }
        Ok(Self(Some(set.build()?)))
    }

    /// Whether a run of this pipeline is wanted.
    pub fn matches(&self, pipeline: &str) -> bool {
        self.0.as_ref().is_none_or(|set| set.is_match(pipeline))
    }
}

/// What a stream asked for: the valid form of `EventSource.config`.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The namespace whose runs are wanted.
    pub namespace: Arc<str>,
    /// The name under which deliveries are remembered.
    pub name: SubscriptionName,
    /// Which pipelines' runs are wanted.
    pub pipelines: PipelineFilter,
    /// Which artifacts count as serving models.
    pub artifact_types: Arc<ArtifactTypes>,
    /// Runs created longer ago are not announced.
    pub max_age: Option<Duration>,
    /// Extra fields of the payload.
    pub include: Include,
}

impl Subscription {
    /// Whether this run was created too long ago. `now` is in seconds since the Unix epoch.
    pub fn is_too_old(&self, workflow: &Workflow, now: i64) -> bool {
        self.max_age.is_some_and(|max| i128::from(now) - i128::from(workflow.created) > i128::from(max.as_secs()))
    }

    /// Whether this run may be wanted, as far as the Workflow itself tells: its pipeline may be known only later.
    pub fn may_want(&self, workflow: &Workflow) -> bool {
        match &workflow.pipeline {
            PipelineName::Spec(name) => self.pipelines.matches(name),
            PipelineName::Generated(_) | PipelineName::Unknown => true,
        }
    }

    /// Whether this run counts as delivered to this subscription already. `skip_labelled` counts runs that
    /// kfp-operator's own provider (or the Go server) has announced, see [`EVENTS_PUBLISHED_LABEL`](super::workflow::EVENTS_PUBLISHED_LABEL).
    pub fn has_got(&self, workflow: &Workflow, skip_labelled: bool) -> bool {
        workflow.is_marked_for(&self.name) || (skip_labelled && workflow.labelled)
    }
}

#[cfg(test)]
mod tests;
