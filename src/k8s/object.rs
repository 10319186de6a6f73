//! A Workflow's metadata, decoded to the fields of a record.
//!
//! The metadata of one Workflow can be hundreds of kilobytes (managed fields, KFP's component specs), and a tenant
//! decides most of it. Decoding keeps the few fields that a record needs, each with a limit, and allocates nothing for
//! the others. The pipeline's name is read from its JSON annotation in place.
//!
//! Fields with an unexpected type are ignored, and a Workflow without a valid UID is skipped on its own: no Workflow
//! affects those beside it in a page.

mod lenient;
mod metadata;

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Deserializer};

use self::{
    lenient::{lenient, lenient_structs},
    metadata::{FoundMark, Metadata, SpecName},
};
use crate::{
    model::{
        Interner, Mark, Marks, Phase, PipelineName, RunId, RunOutcome, SubscriptionName, SubscriptionsInUse, Uid,
        Workflow,
        mark::stale_marks,
        workflow::{MAX_MARKS, MAX_PIPELINE_NAME},
    },
    telemetry::{Limit, LimitHits},
};

/// A Workflow, decoded from its metadata.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Root {
    #[serde(deserialize_with = "lenient")]
    metadata: Metadata,
}

lenient_structs!(Root);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Root { metadata } = lenient(deserializer)?;
        Ok(Self { metadata })
    }
}

/// The reason why a Workflow is ignored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the Workflow {namespace}/{name} has the UID {uid:?}, which is not a UUID")]
    Uid { namespace: String, name: String, uid: String },
    #[error("a Workflow has more than {limit} bytes of metadata")]
    TooLarge { limit: usize },
    #[error("a Workflow is not JSON: {0}")]
    Json(String),
}

impl Object {
    /// Returns the `resourceVersion`.
    pub(super) fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }

    /// Returns namespace and name, for logs.
    pub(super) fn name(&self) -> (&str, &str) {
        (&self.metadata.namespace, &self.metadata.name)
    }

    /// Returns namespace, name and UID, for a deletion.
    pub(super) fn identity(&self) -> (&str, &str, Option<Uid>) {
        let Metadata { namespace, name, uid, .. } = &self.metadata;
        (namespace, name, Uid::parse(uid))
    }

    /// Returns whether the run has ended, but the label that names its outcome is absent.
    pub(super) fn is_undecidable(&self) -> bool {
        let labels = &self.metadata.labels;
        labels.completed.as_deref() == Some("true") && labels.phase.as_deref().unwrap_or_default().is_empty()
    }
}

/// Makes records of Workflows. Shared by all watches, so that values that records have in common are kept once.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    interner: Arc<Mutex<Interner>>,
    in_use: SubscriptionsInUse,
    limits: LimitHits,
}

impl Decoder {
    /// A decoder that prefers the marks of these subscriptions where a Workflow has too many.
    pub(super) fn new(in_use: SubscriptionsInUse, limits: LimitHits) -> Self {
        Self { interner: Arc::default(), in_use, limits }
    }

    /// Returns the record of a Workflow.
    pub(super) fn record(&self, object: Object) -> Result<Workflow, Malformed> {
        let Metadata { namespace, name, uid, generate_name, resource_version, labels, annotations, .. } =
            object.metadata;
        let Some(uid) = Uid::parse(&uid) else { return Err(Malformed::Uid { namespace, name, uid }) };
        let phase = Phase::from_labels(labels.phase.as_deref(), labels.completed.as_deref());
        let is_final = matches!(phase, Phase::Succeeded | Phase::Failed);
        let mut interner = self.interner.lock().unwrap_or_else(PoisonError::into_inner);
        let marks = self.marks(&namespace, uid, annotations.marks.into_iter().chain(labels.marks), &mut interner);
        Ok(Workflow {
            namespace: interner.string(&namespace),
            name: name.into(),
            uid,
            created: object.metadata.creation_timestamp.0,
            // Each update of a running Workflow changes the time, and would make a new record.
            finished: if is_final { object.metadata.managed_fields.phase_updated.0 } else { 0 },
            phase,
            resubmitted: labels.resubmitted,
            events_published: labels.events_published,
            pipeline: self.pipeline(&annotations.pipeline, &generate_name, &mut interner),
            run_id: labels.run_id.as_deref().map(RunId::new),
            trace_id: annotations.trace_id.map(Box::new),
            marks: match resource_version.filter(|_| stale_marks(phase, &marks).next().is_some()) {
                Some(version) => Marks::from(marks).at_version(&version),
                None => interner.marks(marks),
            },
        })
    }

    /// Frees the shared values that no record contains any more.
    pub(super) fn shrink(&self) {
        self.interner.lock().unwrap_or_else(PoisonError::into_inner).shrink();
    }

    fn pipeline(&self, spec: &SpecName, generate_name: &str, interner: &mut Interner) -> Arc<PipelineName> {
        let generated = generate_name.strip_suffix('-').unwrap_or(generate_name);
        let name = match (spec, generated) {
            (SpecName::Name(name), _) => PipelineName::Spec(interner.string(name)),
            (SpecName::None, "") => PipelineName::Unknown,
            (SpecName::None, generated) if generated.len() <= MAX_PIPELINE_NAME => {
                PipelineName::Generated(interner.string(generated))
            }
            (SpecName::None | SpecName::TooLong, _) => {
                self.limits.hit(Limit::PipelineName);
                PipelineName::TooLong
            }
        };
        interner.pipeline(name)
    }

    /// Returns the marks of this Workflow, from annotations and labels: at most [`MAX_MARKS`] of them.
    fn marks(
        &self,
        namespace: &str,
        uid: Uid,
        found: impl Iterator<Item = FoundMark>,
        interner: &mut Interner,
    ) -> Vec<Mark> {
        let own = found.filter(|mark| mark.uid == uid).map(|mark| (mark.subscription, mark.outcome));
        let mut own: Vec<(String, RunOutcome)> = own.collect();
        own.sort_unstable();
        own.dedup();
        if own.len() > MAX_MARKS {
            self.limits.hit(Limit::Marks);
            // Stable: the others stay in the order of their names, so that each decoding keeps the same ones.
            own.sort_by_cached_key(|(name, _)| !self.in_use.contains(namespace, name));
            own.truncate(MAX_MARKS);
            own.sort_unstable();
        }
        let mark = |(name, outcome): (String, RunOutcome)| Mark {
            subscription: SubscriptionName::from_annotation(interner.string(&name)),
            outcome,
        };
        own.into_iter().map(mark).collect()
    }
}

#[cfg(test)]
mod tests;
