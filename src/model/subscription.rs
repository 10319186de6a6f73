//! The filters and options of one logical consumer of a namespace.

use std::{fmt, sync::Arc, time::Duration};

use ring::digest::{SHA256, digest};

use super::{
    ArtifactTypes, Include, PipelineName, RunOutcome, Workflow,
    glob::{self, InvalidGlob},
};

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

    /// The name of a subscription of this scope: an account's namespace, or a user's hash. It is shortened with
    /// a hash where it would be longer than the name part of an annotation's key may be.
    #[must_use]
    pub fn scoped(&self, scope: &str) -> Self {
        let name = format!("{self}.{scope}");
        if name.len() <= MAX_NAME {
            return Self(name.into());
        }
        // A hash without known collisions: a second name for it would be that of another account's subscription. The
        // underscore distinguishes it from names that are not shortened: no namespace has one.
        let hash = digest(&SHA256, name.as_bytes());
        let hash: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let stem: String = name.chars().take(MAX_NAME - 1 - hash.len()).collect();
        let stem = stem.trim_end_matches(['-', '.']);
        Self(format!("{stem}_{hash}").into())
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
    text.len() <= MAX_NAME && has_dns_label_syntax(text)
}

/// As [`is_dns_label`], for a text of any length: Kubernetes limits prefixes of label keys only as a whole.
pub(crate) fn has_dns_label_syntax(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.bytes().all(|b| inner(b) || b == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().next_back().is_some_and(inner)
}

/// FNV-1a with 32 bits: the same on every machine and in every release, as names of marks require.
pub(crate) fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// A filter for names of pipelines. Each entry is a name and a glob pattern at once: it matches the name that it
/// equals, and those that it matches as a pattern. Names that Kubeflow ships contain brackets. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PipelineFilter(Option<Arc<[Box<str>]>>);

impl PipelineFilter {
    /// Only names that equal or match one of these entries.
    ///
    /// # Errors
    /// The first entry that is not a valid pattern.
    pub fn matching<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, (&'a str, InvalidGlob)> {
        let mut checked: Vec<Box<str>> = Vec::new();
        for entry in entries {
            glob::check(entry).map_err(|error| (entry, error))?;
            checked.push(entry.into());
        }
        checked.sort_unstable();
        checked.dedup();
        Ok(Self(Some(checked.into())))
    }

    /// The entries. Without any, no name matches, unless the filter is unlimited.
    pub fn entries(&self) -> &[Box<str>] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Returns whether every name matches.
    pub fn is_unlimited(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether the filter matches the name. The work is bounded by the sizes of both, but not small: callers
    /// that ask for many names remember the answers.
    pub fn matches(&self, pipeline: &str) -> bool {
        self.0.as_ref().is_none_or(|entries| {
            entries.iter().any(|entry| **entry == *pipeline)
                || entries.iter().any(|entry| glob::matches(entry, pipeline))
        })
    }
}

/// The outcomes of runs that a subscription receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Statuses {
    /// Runs that succeeded and pushed a model.
    pub succeeded: bool,
    /// Runs that failed.
    pub failed: bool,
}

impl Default for Statuses {
    /// Only runs that succeeded.
    fn default() -> Self {
        Self { succeeded: true, failed: false }
    }
}

impl Statuses {
    /// Returns whether the subscription receives runs with this outcome.
    pub fn accept(self, outcome: RunOutcome) -> bool {
        match outcome {
            RunOutcome::Succeeded => self.succeeded,
            RunOutcome::Failed => self.failed,
        }
    }
}

/// The filter of a subscription that excludes a run. Each is a value of a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterReason {
    /// `pipelines` does not match the pipeline's name.
    Pipelines,
    /// The run finished longer ago than `maxAge`.
    MaxAge,
    /// `statuses` does not contain the run's outcome.
    Statuses,
}

impl FilterReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Pipelines, Self::MaxAge, Self::Statuses];

    /// The word for it in metrics, logs, traces and `explain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pipelines => "pipelines",
            Self::MaxAge => "max_age",
            Self::Statuses => "statuses",
        }
    }
}

/// The validated `EventSource.config`.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Namespace of the runs.
    pub namespace: Arc<str>,
    /// Name under which deliveries are remembered.
    pub name: SubscriptionName,
    /// The name without its scope, if it has one: deliveries that were remembered before names had scopes count, too.
    pub unscoped: Option<SubscriptionName>,
    /// Filter for the runs' pipelines.
    pub pipelines: PipelineFilter,
    /// Artifact types that are serving models.
    pub artifact_types: Arc<ArtifactTypes>,
    /// Maximum age of a run, measured from its end.
    pub max_age: Option<Duration>,
    /// Of the pending runs of one pipeline, only the newest is sent. The others are marked as superseded.
    pub latest_only: bool,
    /// The outcomes of runs that are sent.
    pub statuses: Statuses,
    /// False for a stream of a person: it begins with runs that end from now on, and neither marks deliveries nor
    /// affects those of other streams.
    pub remember: bool,
    /// Extra fields of the payload.
    pub include: Include,
}

impl Subscription {
    /// The same subscription under a name of this scope.
    #[must_use]
    pub fn scoped(self, scope: &str) -> Self {
        Self { name: self.name.scoped(scope), unscoped: Some(self.name), ..self }
    }

    /// Returns whether this run exceeds the maximum age. `now` is in seconds since the Unix epoch. The age of a run
    /// whose end is unknown counts from its creation.
    pub fn is_too_old(&self, workflow: &Workflow, now: i64) -> bool {
        self.max_age.is_some_and(|max| i128::from(now) - i128::from(workflow.end()) > i128::from(max.as_secs()))
    }

    /// The name that `pipelines` is to be matched with, if the Workflow itself contains it for certain. Otherwise only
    /// a lookup reveals it. A failed run is looked up only if it contains no name at all.
    pub fn certain_pipeline(workflow: &Workflow) -> Option<&Arc<str>> {
        match (&*workflow.pipeline, workflow.outcome()) {
            (PipelineName::Spec(name), _) | (PipelineName::Generated(name), Some(RunOutcome::Failed)) => Some(name),
            (PipelineName::Generated(_) | PipelineName::Unknown | PipelineName::TooLong, _) => None,
        }
    }

    /// Returns whether this run is delivered to this subscription. With `skip_labelled`, events sent by kfp-operator's
    /// own provider count, see [`EVENTS_PUBLISHED_LABEL`](super::workflow::EVENTS_PUBLISHED_LABEL).
    pub fn is_delivered(&self, workflow: &Workflow, skip_labelled: bool) -> bool {
        workflow.is_marked_for(&self.name)
            || self.unscoped.as_ref().is_some_and(|name| workflow.is_marked_for(name))
            || (skip_labelled && workflow.events_published)
    }
}

#[cfg(test)]
mod tests;
