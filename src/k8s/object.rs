//! A Workflow's metadata, decoded to the fields of a record.
//!
//! The metadata of one Workflow can be tens of kilobytes (managed fields, KFP's component specs), and a page of a list
//! holds hundreds of Workflows. Decoding keeps the few fields that a record needs and allocates nothing for the others.
//! The pipeline's name is read from its JSON annotation in place.
//!
//! One decoding error would fail the whole page, and every retry of it. So fields with an unexpected type are ignored,
//! and a Workflow without a valid UID is skipped on its own.

use std::{borrow::Cow, fmt, marker::PhantomData};

use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Resource;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use crate::model::{
    Mark, Names, Phase, PipelineName, RunId, SubscriptionName, TraceId, Uid, Workflow,
    workflow::{MARK_PREFIX, PIPELINE_SPEC_ANNOTATION, TRACE_ID_ANNOTATION, stale_marks},
};

/// A Workflow, decoded from its metadata.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    /// The resource version and nothing else: kube's watcher reads it from here.
    meta: ObjectMeta,
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Root {
    #[serde(deserialize_with = "lenient")]
    metadata: Metadata,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    #[serde(deserialize_with = "lenient")]
    namespace: String,
    #[serde(deserialize_with = "lenient")]
    name: String,
    #[serde(deserialize_with = "lenient")]
    uid: String,
    #[serde(deserialize_with = "lenient")]
    resource_version: Option<String>,
    #[serde(deserialize_with = "lenient")]
    generate_name: String,
    #[serde(deserialize_with = "lenient")]
    creation_timestamp: String,
    #[serde(deserialize_with = "lenient")]
    labels: Labels,
    #[serde(deserialize_with = "lenient")]
    annotations: Annotations,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(rename = "workflows.argoproj.io/phase", deserialize_with = "lenient")]
    phase: String,
    #[serde(rename = "workflows.argoproj.io/completed", deserialize_with = "lenient")]
    completed: String,
    #[serde(rename = "pipeline/runid", deserialize_with = "lenient")]
    run_id: Option<String>,
    #[serde(rename = "pipelines.kubeflow.org/events-published", deserialize_with = "lenient")]
    events_published: String,
}

#[derive(Clone, Debug, Default)]
struct Annotations {
    pipeline: PipelineSpec,
    trace_id: Option<TraceId>,
    /// The marks: subscription and value.
    marks: Vec<(String, Box<str>)>,
}

/// A Workflow without a valid UID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the Workflow {namespace}/{name} has the UID {uid:?}, which is not a UUID")]
pub(super) struct Malformed {
    namespace: String,
    name: String,
    uid: String,
}

impl Object {
    /// Returns the record of this Workflow.
    pub(super) fn into_record(self, names: &mut Names) -> Result<Workflow, Malformed> {
        let Self { meta, metadata } = self;
        let Metadata { namespace, name, uid, generate_name, creation_timestamp, labels, annotations, .. } = metadata;
        let Some(uid) = Uid::parse(&uid) else { return Err(Malformed { namespace, name, uid }) };
        let phase = Phase::from_labels(Some(&labels.phase), Some(&labels.completed));
        let mut marks: Box<[Mark]> = annotations
            .marks
            .iter()
            .filter_map(|(subscription, value)| {
                let outcome = Mark::parse_value(value, uid)?;
                Some(Mark { subscription: SubscriptionName::from_annotation(names.intern(subscription)), outcome })
            })
            .collect();
        marks.sort_unstable_by(|a, b| a.subscription.cmp(&b.subscription));
        let generated = generate_name.strip_suffix('-').unwrap_or(&generate_name);
        let pipeline = match (&*annotations.pipeline.name, generated) {
            ("", "") => PipelineName::Unknown,
            ("", generated) => PipelineName::Generated(names.intern(generated)),
            (name, _) => PipelineName::Spec(names.intern(name)),
        };
        Ok(Workflow {
            namespace: names.intern(&namespace),
            name: name.into(),
            uid,
            created: creation_timestamp.parse().map_or(0, Timestamp::as_second),
            finished: 0,
            phase,
            resubmitted: false,
            events_published: labels.events_published == "true",
            pipeline,
            run_id: labels.run_id.as_deref().map(RunId::new),
            trace_id: annotations.trace_id,
            resource_version: meta
                .resource_version
                .filter(|_| stale_marks(phase, &marks).next().is_some())
                .map(Into::into),
            marks,
        })
    }

    /// Returns namespace, name and UID, for a deletion.
    pub(super) fn identity(&self) -> (&str, &str, Option<Uid>) {
        let Metadata { namespace, name, uid, .. } = &self.metadata;
        (namespace, name, Uid::parse(uid))
    }
}

impl Resource for Object {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Workflow".into()
    }
    fn group((): &()) -> Cow<'_, str> {
        "argoproj.io".into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1alpha1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        "workflows".into()
    }
    /// Makes kube ask for `PartialObjectMetadata` in lists, watches and answers to patches.
    fn metadata_api() -> bool {
        true
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Root { mut metadata } = lenient(deserializer)?;
        let meta = ObjectMeta { resource_version: metadata.resource_version.take(), ..ObjectMeta::default() };
        Ok(Self { meta, metadata })
    }
}

// === Lenient ===

/// A value that decodes from any JSON: from a text or from an object, whichever its type expects, else to its default.
trait Lenient: Default {
    fn from_text(_: &str) -> Self {
        Self::default()
    }

    fn from_object<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }
}

/// Decodes a [`Lenient`] value. Text is borrowed from the input, or from the decoder's buffer.
fn lenient<'de, D: Deserializer<'de>, T: Lenient>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(LenientVisitor(PhantomData))
}

/// A [`Lenient`] key or value of a map.
struct Entry<T>(T);

impl<'de, T: Lenient> Deserialize<'de> for Entry<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient(deserializer).map(Self)
    }
}

struct LenientVisitor<T>(PhantomData<T>);

impl<'de, T: Lenient> Visitor<'de> for LenientVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::from_text(text))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::from_object(map)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(T::default())
    }
    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        Ok(T::default())
    }
    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        Ok(T::default())
    }
    fn visit_u64<E>(self, _: u64) -> Result<T, E> {
        Ok(T::default())
    }
    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::default())
    }
    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }
}

// === Objects ===

impl Lenient for Root {
    fn from_object<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        Self::deserialize(MapAccessDeserializer::new(map))
    }
}

impl Lenient for Metadata {
    fn from_object<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        Self::deserialize(MapAccessDeserializer::new(map))
    }
}

impl Lenient for Labels {
    fn from_object<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        Self::deserialize(MapAccessDeserializer::new(map))
    }
}

/// By hand: a mark's key contains the subscription, and one value is parsed in place.
impl Lenient for Annotations {
    fn from_object<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut annotations = Self::default();
        while let Some(Entry(key)) = map.next_key()? {
            match key {
                AnnotationKey::PipelineSpec => annotations.pipeline = map.next_value::<Entry<_>>()?.0,
                AnnotationKey::TraceId => {
                    let Entry(id): Entry<String> = map.next_value()?;
                    annotations.trace_id = TraceId::parse(&id);
                }
                AnnotationKey::Mark(subscription) => {
                    let Entry(uid): Entry<String> = map.next_value()?;
                    annotations.marks.push((subscription, uid.into()));
                }
                AnnotationKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(annotations)
    }
}

// === Texts ===

impl Lenient for String {
    fn from_text(text: &str) -> Self {
        text.to_owned()
    }
}

impl Lenient for Option<String> {
    fn from_text(text: &str) -> Self {
        Some(text.to_owned())
    }
}

#[derive(Default)]
enum AnnotationKey {
    PipelineSpec,
    TraceId,
    /// A mark of this subscription.
    Mark(String),
    #[default]
    Other,
}

impl Lenient for AnnotationKey {
    fn from_text(key: &str) -> Self {
        match key {
            PIPELINE_SPEC_ANNOTATION => Self::PipelineSpec,
            TRACE_ID_ANNOTATION => Self::TraceId,
            _ => key.strip_prefix(MARK_PREFIX).map_or(Self::Other, |name| Self::Mark(name.to_owned())),
        }
    }
}

/// The JSON in KFP v1's annotation. Every user can write annotations: other JSON, or none, is a spec without a name.
#[derive(Clone, Debug, Default, Deserialize)]
struct PipelineSpec {
    name: String,
}

impl Lenient for PipelineSpec {
    fn from_text(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
