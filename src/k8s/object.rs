//! A Workflow as the API server shows it, decoded to what a record needs.
//!
//! A Workflow's metadata can be tens of kilobytes (managed fields, KFP's component specs), and a list brings hundreds of
//! them at once. So decoding picks the few fields that matter out of the text as it goes by and allocates nothing for
//! the others; the pipeline's name is taken out of its JSON annotation on the spot.
//!
//! One error would spoil the whole page, and every later attempt at it. So what is of another type than Kubernetes writes
//! counts as absent; a Workflow that then lacks its UID is left out by itself.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Resource;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::model::{
    Mark, Names, Phase, PipelineName, RunId, SubscriptionName, TraceId, Uid, Workflow,
    workflow::{
        EVENTS_PUBLISHED_LABEL, MARK_PREFIX, PHASE_LABEL, PIPELINE_SPEC_ANNOTATION, RUN_ID_LABEL, TRACE_ID_ANNOTATION,
        restarted,
    },
};

/// A Workflow, decoded from its metadata.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    /// Holds the resource version and nothing else: kube's watcher reads it from here.
    meta: ObjectMeta,
    fields: Fields,
}

#[derive(Clone, Debug, Default)]
struct Fields {
    namespace: String,
    name: String,
    uid: String,
    created: i64,
    generate_name: Option<String>,
    phase: Option<Phase>,
    labelled: bool,
    run_id: Option<RunId>,
    pipeline: Option<String>,
    trace_id: Option<TraceId>,
    /// Subscription and value.
    marks: Vec<(String, String)>,
}

/// A Workflow whose metadata is not as Kubernetes writes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the Workflow {namespace}/{name} has the UID {uid:?}, which is not a UUID")]
pub(super) struct Malformed {
    namespace: String,
    name: String,
    uid: String,
}

impl Object {
    /// The record of this Workflow.
    pub(super) fn into_record(self, names: &mut Names) -> Result<Workflow, Malformed> {
        let Self { meta, fields } = self;
        let Fields { namespace, name, uid, .. } = fields;
        let Some(uid) = Uid::parse(&uid) else { return Err(Malformed { namespace, name, uid }) };
        let phase = fields.phase.unwrap_or(Phase::Other);
        let mut marks: Box<[Mark]> = fields
            .marks
            .iter()
            .map(|(subscription, value)| Mark {
                subscription: SubscriptionName::from_annotation(names.intern(subscription)),
                current: Uid::parse(value) == Some(uid),
            })
            .collect();
        marks.sort_unstable_by(|a, b| a.subscription.cmp(&b.subscription));
        let generated = fields.generate_name.as_deref().map(|name| name.strip_suffix('-').unwrap_or(name));
        let pipeline = match (fields.pipeline.as_deref(), generated) {
            (Some(name), _) if !name.is_empty() => PipelineName::Spec(names.intern(name)),
            (_, Some(name)) if !name.is_empty() => PipelineName::Generated(names.intern(name)),
            _ => PipelineName::Unknown,
        };
        Ok(Workflow {
            namespace: names.intern(&namespace),
            name: name.into(),
            uid,
            created: fields.created,
            phase,
            events_published: fields.labelled,
            pipeline,
            run_id: fields.run_id,
            trace_id: fields.trace_id,
            resource_version: meta.resource_version.filter(|_| restarted(phase, &marks)).map(Into::into),
            marks,
        })
    }

    /// Namespace, name and UID, for a deletion.
    pub(super) fn identity(&self) -> (&str, &str, Option<Uid>) {
        (&self.fields.namespace, &self.fields.name, Uid::parse(&self.fields.uid))
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

// === Decoding ===

/// The methods of a visitor for what is of another type than it should be: it counts as absent.
macro_rules! absent_if_of_another_type {
    ($lifetime:lifetime: $($visit:ident($type:ty)),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        })*

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }

        fn visit_seq<A: SeqAccess<$lifetime>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
    };
}

/// Picks entries out of a map. A key that it does not know costs nothing: its value is skipped unread.
trait Pick {
    type Key;
    fn key(key: &str) -> Option<Self::Key>;
    fn value<'de, A: MapAccess<'de>>(&mut self, key: Self::Key, map: &mut A) -> Result<(), A::Error>;
}

/// Reads a map into whatever picks from it.
struct Entries<'a, P>(&'a mut P);

impl<'de, P: Pick> DeserializeSeed<'de> for Entries<'_, P> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, P: Pick> Visitor<'de> for Entries<'_, P> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    absent_if_of_another_type!('de: visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Text(P::key))? {
            match key.flatten() {
                Some(key) => self.0.value(key, &mut map)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Reads a string, without keeping it, into what a function makes of it.
struct Text<F>(F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Text<F> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T, F: FnOnce(&str) -> T> Visitor<'de> for Text<F> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    absent_if_of_another_type!('de: visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<T>, E> {
        Ok(Some((self.0)(text)))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Self::default();
        Entries(&mut object).deserialize(deserializer)?;
        Ok(object)
    }
}

impl Pick for Object {
    type Key = ();

    fn key(key: &str) -> Option<()> {
        (key == "metadata").then_some(())
    }

    fn value<'de, A: MapAccess<'de>>(&mut self, (): (), map: &mut A) -> Result<(), A::Error> {
        map.next_value_seed(Entries(&mut Metadata(self)))
    }
}

struct Metadata<'a>(&'a mut Object);

enum Field {
    Namespace,
    Name,
    Uid,
    ResourceVersion,
    GenerateName,
    CreationTimestamp,
    Labels,
    Annotations,
}

impl Pick for Metadata<'_> {
    type Key = Field;

    fn key(key: &str) -> Option<Field> {
        Some(match key {
            "namespace" => Field::Namespace,
            "name" => Field::Name,
            "uid" => Field::Uid,
            "resourceVersion" => Field::ResourceVersion,
            "generateName" => Field::GenerateName,
            "creationTimestamp" => Field::CreationTimestamp,
            "labels" => Field::Labels,
            "annotations" => Field::Annotations,
            _ => return None,
        })
    }

    fn value<'de, A: MapAccess<'de>>(&mut self, key: Field, map: &mut A) -> Result<(), A::Error> {
        let fields = &mut self.0.fields;
        match key {
            Field::Namespace => fields.namespace = owned(map)?.unwrap_or_default(),
            Field::Name => fields.name = owned(map)?.unwrap_or_default(),
            Field::Uid => fields.uid = owned(map)?.unwrap_or_default(),
            Field::ResourceVersion => self.0.meta.resource_version = owned(map)?,
            Field::GenerateName => fields.generate_name = owned(map)?,
            Field::CreationTimestamp => {
                let parsed = map.next_value_seed(Text(|text: &str| text.parse::<Timestamp>().ok()))?;
                fields.created = parsed.flatten().map_or(0, Timestamp::as_second);
            }
            Field::Labels => map.next_value_seed(Entries(&mut Labels(fields)))?,
            Field::Annotations => map.next_value_seed(Entries(&mut Annotations(fields)))?,
        }
        Ok(())
    }
}

fn owned<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<String>, A::Error> {
    map.next_value_seed(Text(str::to_owned))
}

struct Labels<'a>(&'a mut Fields);

enum Label {
    Phase,
    RunId,
    EventsPublished,
}

impl Pick for Labels<'_> {
    type Key = Label;

    fn key(key: &str) -> Option<Label> {
        Some(match key {
            PHASE_LABEL => Label::Phase,
            RUN_ID_LABEL => Label::RunId,
            EVENTS_PUBLISHED_LABEL => Label::EventsPublished,
            _ => return None,
        })
    }

    fn value<'de, A: MapAccess<'de>>(&mut self, key: Label, map: &mut A) -> Result<(), A::Error> {
        match key {
            Label::Phase => self.0.phase = map.next_value_seed(Text(|text: &str| Phase::from_label(Some(text))))?,
            Label::RunId => self.0.run_id = map.next_value_seed(Text(RunId::new))?,
            Label::EventsPublished => {
                self.0.labelled = map.next_value_seed(Text(|text: &str| text == "true"))?.unwrap_or(false);
            }
        }
        Ok(())
    }
}

struct Annotations<'a>(&'a mut Fields);

enum Annotation {
    PipelineSpec,
    TraceId,
    Mark(String),
}

impl Pick for Annotations<'_> {
    type Key = Annotation;

    fn key(key: &str) -> Option<Annotation> {
        Some(match key {
            PIPELINE_SPEC_ANNOTATION => Annotation::PipelineSpec,
            TRACE_ID_ANNOTATION => Annotation::TraceId,
            _ => Annotation::Mark(key.strip_prefix(MARK_PREFIX)?.to_owned()),
        })
    }

    fn value<'de, A: MapAccess<'de>>(&mut self, key: Annotation, map: &mut A) -> Result<(), A::Error> {
        match key {
            Annotation::PipelineSpec => self.0.pipeline = map.next_value_seed(Text(spec_name))?.flatten(),
            Annotation::TraceId => self.0.trace_id = map.next_value_seed(Text(TraceId::parse))?.flatten(),
            Annotation::Mark(subscription) => {
                let value = owned(map)?.unwrap_or_default();
                self.0.marks.push((subscription, value));
            }
        }
        Ok(())
    }
}

/// The pipeline's name in KFP v1's annotation. Anyone may write annotations: what is no such JSON names nothing.
fn spec_name(json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Spec {
        name: String,
    }
    serde_json::from_str::<Spec>(json).ok().map(|spec| spec.name)
}

#[cfg(test)]
mod tests;
