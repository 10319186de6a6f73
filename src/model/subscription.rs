//! The filters and options of one logical consumer of a namespace.

use std::{fmt, sync::Arc, time::Duration};

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::{ArtifactTypes, Include, PipelineName, Workflow};

/// Maximum length of a subscription's name: that of a DNS label, and of the name part of an annotation's key.
pub const MAX_NAME: usize = 63;

/// The name under which deliveries are remembered: the name part of an annotation's key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionName(Arc<str>);

/// The reason why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a DNS label (1 to 63 characters, a-z, 0-9 and '-', beginning and ending with a letter or digit)")]
pub struct NotADnsLabel;

impl SubscriptionName {
    /// A configured name.
    ///
    /// # Errors
    /// If it is not a DNS label (RFC 1123).
    pub fn new(name: &str) -> Result<Self, NotADnsLabel> {
        if is_dns_label(name) { Ok(Self(name.into())) } else { Err(NotADnsLabel) }
    }

    /// The name derived from `EventSource.name`. A text that is not a DNS label becomes one: characters that are not
    /// allowed are replaced, and a short hash of the original distinguishes similar texts.
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

    /// The name part of an existing annotation's key, unchecked.
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

/// Returns whether `text` is a DNS label (RFC 1123), like the name of a namespace in Kubernetes.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| inner(b) || b == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().next_back().is_some_and(inner)
}

/// FNV-1a with 32 bits: the same on every machine and in every release, as names of marks require.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// A filter for names of pipelines.
#[derive(Clone, Debug, Default)]
pub struct PipelineFilter(Option<GlobSet>);

impl PipelineFilter {
    /// Only names that match one of these glob patterns (`*`, `?`, `[a-z]`, `{a,b}`).
    ///
    /// # Errors
    /// The first malformed pattern.
    pub fn matching<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(Glob::new(pattern)?);
        }
        Ok(Self(Some(set.build()?)))
    }

    /// Returns whether the filter matches the name.
    pub fn matches(&self, pipeline: &str) -> bool {
        self.0.as_ref().is_none_or(|set| set.is_match(pipeline))
    }
}

/// The validated `EventSource.config`.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Namespace of the runs.
    pub namespace: Arc<str>,
    /// Name under which deliveries are remembered.
    pub name: SubscriptionName,
    /// Filter for the runs' pipelines.
    pub pipelines: PipelineFilter,
    /// Artifact types that are serving models.
    pub artifact_types: Arc<ArtifactTypes>,
    /// Maximum age of a run, measured from its creation.
    pub max_age: Option<Duration>,
    /// Extra fields of the payload.
    pub include: Include,
}

impl Subscription {
    /// Returns whether this run exceeds the maximum age. `now` is in seconds since the Unix epoch.
    pub fn is_too_old(&self, workflow: &Workflow, now: i64) -> bool {
        self.max_age.is_some_and(|max| i128::from(now) - i128::from(workflow.created) > i128::from(max.as_secs()))
    }

    /// Returns whether this run may match, as far as the Workflow shows: only a lookup may reveal its pipeline.
    pub fn may_match(&self, workflow: &Workflow) -> bool {
        match &workflow.pipeline {
            PipelineName::Spec(name) => self.pipelines.matches(name),
            PipelineName::Generated(_) | PipelineName::Unknown => true,
        }
    }

    /// Returns whether this run is delivered to this subscription. With `skip_labelled`, events sent by kfp-operator's
    /// own provider count, see [`EVENTS_PUBLISHED_LABEL`](super::workflow::EVENTS_PUBLISHED_LABEL).
    pub fn is_delivered(&self, workflow: &Workflow, skip_labelled: bool) -> bool {
        workflow.is_marked_for(&self.name) || (skip_labelled && workflow.events_published)
    }
}

#[cfg(test)]
mod tests;
