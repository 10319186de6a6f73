//! The fields of a Workflow's metadata that a record needs.

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess},
};

use super::lenient::{Entry, Lenient, lenient, lenient_structs};
use crate::model::{
    Mark, RunOutcome, TraceId, Uid,
    workflow::{
        COMPLETED_LABEL, EVENTS_PUBLISHED_LABEL, MARK_PREFIX, MAX_PIPELINE_NAME, PHASE_LABEL, PIPELINE_SPEC_ANNOTATION,
        RESUBMITTED_LABEL, RUN_ID_LABEL, TRACE_ID_ANNOTATION,
    },
};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(deserialize_with = "lenient")]
    pub(super) namespace: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) name: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) uid: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) resource_version: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub(super) generate_name: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) creation_timestamp: Seconds,
    #[serde(deserialize_with = "lenient")]
    pub(super) labels: Labels,
    #[serde(deserialize_with = "lenient")]
    pub(super) annotations: Annotations,
    #[serde(deserialize_with = "lenient")]
    pub(super) managed_fields: ManagedFields,
}

/// A time in seconds since the Unix epoch; 0 if there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seconds(pub(super) i64);

impl Lenient for Seconds {
    fn from_text(text: &str) -> Self {
        Self(text.parse().map_or(0, Timestamp::as_second))
    }
}

// === Labels and annotations ===

/// A mark of a subscription on the Workflow with this UID: the Workflow itself, or that from which it was copied.
#[derive(Clone, Debug)]
pub(super) struct FoundMark {
    pub(super) subscription: String,
    pub(super) uid: Uid,
    pub(super) outcome: RunOutcome,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Labels {
    pub(super) phase: Option<String>,
    pub(super) completed: Option<String>,
    pub(super) run_id: Option<String>,
    pub(super) resubmitted: bool,
    pub(super) events_published: bool,
    pub(super) marks: Vec<FoundMark>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Annotations {
    pub(super) pipeline: SpecName,
    pub(super) trace_id: Option<TraceId>,
    pub(super) marks: Vec<FoundMark>,
}

/// A key of labels or annotations.
#[derive(Default)]
enum Key {
    Phase,
    Completed,
    RunId,
    Resubmitted,
    EventsPublished,
    PipelineSpec,
    TraceId,
    /// A mark of this subscription.
    Mark(String),
    #[default]
    Other,
}

impl Lenient for Key {
    fn from_text(key: &str) -> Self {
        match key {
            PHASE_LABEL => Self::Phase,
            COMPLETED_LABEL => Self::Completed,
            RUN_ID_LABEL => Self::RunId,
            RESUBMITTED_LABEL => Self::Resubmitted,
            EVENTS_PUBLISHED_LABEL => Self::EventsPublished,
            PIPELINE_SPEC_ANNOTATION => Self::PipelineSpec,
            TRACE_ID_ANNOTATION => Self::TraceId,
            _ => key.strip_prefix(MARK_PREFIX).map_or(Self::Other, |name| Self::Mark(name.to_owned())),
        }
    }
}

/// The value of a mark.
#[derive(Default)]
struct MarkValue(Option<(Uid, RunOutcome)>);

impl Lenient for MarkValue {
    fn from_text(value: &str) -> Self {
        Self(Mark::parse(value))
    }
}

/// Reads the value of a mark. Other texts under its key are none.
fn read_mark<'de, A: MapAccess<'de>>(
    subscription: String,
    marks: &mut Vec<FoundMark>,
    map: &mut A,
) -> Result<(), A::Error> {
    let Entry(MarkValue(value)) = map.next_value()?;
    marks.extend(value.map(|(uid, outcome)| FoundMark { subscription, uid, outcome }));
    Ok(())
}

impl Lenient for Labels {
    fn from_object<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut labels = Self::default();
        while let Some(Entry(key)) = map.next_key()? {
            match key {
                Key::Phase => labels.phase = map.next_value::<Entry<_>>()?.0,
                Key::Completed => labels.completed = map.next_value::<Entry<_>>()?.0,
                Key::RunId => labels.run_id = map.next_value::<Entry<_>>()?.0,
                Key::Resubmitted => labels.resubmitted = map.next_value::<Entry<Option<String>>>()?.0.is_some(),
                Key::EventsPublished => {
                    labels.events_published = map.next_value::<Entry<String>>()?.0 == "true";
                }
                Key::Mark(subscription) => read_mark(subscription, &mut labels.marks, &mut map)?,
                Key::PipelineSpec | Key::TraceId | Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(labels)
    }
}

impl Lenient for Annotations {
    fn from_object<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut annotations = Self::default();
        while let Some(Entry(key)) = map.next_key()? {
            match key {
                Key::PipelineSpec => {
                    let Entry(PipelineSpec { name }) = map.next_value()?;
                    annotations.pipeline = name;
                }
                Key::TraceId => annotations.trace_id = map.next_value::<Entry<_>>()?.0,
                Key::Mark(subscription) => read_mark(subscription, &mut annotations.marks, &mut map)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(annotations)
    }
}

impl Lenient for Option<TraceId> {
    fn from_text(text: &str) -> Self {
        TraceId::parse(text)
    }
}

/// The JSON in KFP v1's annotation. Every user can write annotations: other JSON, or none, is a spec without a name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PipelineSpec {
    pub(super) name: SpecName,
}

impl Lenient for PipelineSpec {
    fn from_text(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }
}

/// A pipeline's name. One that is too long is not copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum SpecName {
    #[default]
    None,
    Name(Box<str>),
    TooLong,
}

impl Lenient for SpecName {
    fn from_text(name: &str) -> Self {
        match name.len() {
            0 => Self::None,
            length if length > MAX_PIPELINE_NAME => Self::TooLong,
            _ => Self::Name(name.into()),
        }
    }
}

impl<'de> Deserialize<'de> for SpecName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient(deserializer)
    }
}

// === Managed fields ===

/// The latest update of the phase label by one of its owners: Argo's controller, unless the label is edited.
/// Nothing else of the managed fields is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ManagedFields {
    pub(super) phase_updated: Seconds,
}

impl Lenient for ManagedFields {
    fn from_array<'de, A: SeqAccess<'de>>(mut entries: A) -> Result<Self, A::Error> {
        let mut latest = 0;
        while let Some(Entry(entry)) = entries.next_element::<Entry<ManagedEntry>>()? {
            if entry.fields.metadata.labels.phase.0 {
                latest = latest.max(entry.time.0);
            }
        }
        Ok(Self { phase_updated: Seconds(latest) })
    }
}

/// The fields that one manager owns.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ManagedEntry {
    #[serde(deserialize_with = "lenient")]
    time: Seconds,
    #[serde(rename = "fieldsV1", deserialize_with = "lenient")]
    fields: OwnedFields,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OwnedFields {
    #[serde(rename = "f:metadata", deserialize_with = "lenient")]
    metadata: OwnedMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OwnedMetadata {
    #[serde(rename = "f:labels", deserialize_with = "lenient")]
    labels: OwnedLabels,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OwnedLabels {
    // A literal, as attributes take nothing else; a test compares it with the label's constant.
    #[serde(rename = "f:workflows.argoproj.io/phase", deserialize_with = "lenient")]
    phase: Present,
}

/// A field that is there, with any object as value.
#[derive(Default)]
struct Present(bool);

impl Lenient for Present {
    fn from_object<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self(true))
    }
}

lenient_structs!(Metadata, ManagedEntry, OwnedFields, OwnedMetadata, OwnedLabels);
