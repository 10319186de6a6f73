//! The record of a Workflow, and the rules that read it.

use std::{collections::HashSet, fmt, sync::Arc};

use uuid::Uuid;

use super::SubscriptionName;

/// Label in which Argo's workflow controller copies `status.phase`.
pub const PHASE_LABEL: &str = "workflows.argoproj.io/phase";
/// Label that Kubeflow's API server sets on each Workflow that it submits, one-off and recurring, KFP v1 and v2.
pub const RUN_ID_LABEL: &str = "pipeline/runid";
/// Label that kfp-operator's own provider sets after its own delivery. Read (`--skip-labelled`), never written.
pub const EVENTS_PUBLISHED_LABEL: &str = "pipelines.kubeflow.org/events-published";
/// Annotation of KFP v1 whose JSON value contains the pipeline's name under `name`.
pub const PIPELINE_SPEC_ANNOTATION: &str = "pipelines.kubeflow.org/pipeline_spec";
/// Annotation that Argo Workflows 4.1 and later writes when tracing is on: 32 hexadecimal digits.
pub const TRACE_ID_ANNOTATION: &str = "workflows.argoproj.io/trace-id";
/// Prefix of the annotations that record deliveries; the subscription's name follows.
pub const MARK_PREFIX: &str = "published.pipelines.kubeflow.org/";
/// Maximum number of marks on a Workflow.
pub const MAX_MARKS: usize = 32;

/// The UID of an object in Kubernetes. Unlike a name it is never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Uuid);

impl Uid {
    /// Parses a UID as Kubernetes writes it. Returns `None` if it is not a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The sixteen bytes of the UID.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl From<u128> for Uid {
    fn from(value: u128) -> Self {
        Self(Uuid::from_u128(value))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Kubeflow's id of a run: nearly always a UUID, which is stored without an allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunId {
    /// A UUID in lower case with dashes.
    Uuid(Uuid),
    /// Any other text.
    Other(Box<str>),
}

impl RunId {
    /// The label's value; `Display` returns the same text.
    pub fn new(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().to_string() == text => Self::Uuid(uuid),
            _ => Self::Other(text.into()),
        }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.hyphenated().fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// An OpenTelemetry trace id: sixteen bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// Parses 32 hexadecimal digits. Returns `None` for other texts, and for the invalid id of zeros.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        Self::from_bytes(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
    }

    /// The id with these bytes. Returns `None` for the invalid id of zeros.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// The sixteen bytes of the id.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The phase of a Workflow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The run succeeded.
    Succeeded,
    /// Any other phase, or none yet.
    Other,
}

impl Phase {
    /// Parses the value of the label [`PHASE_LABEL`].
    pub fn from_label(value: Option<&str>) -> Self {
        if value == Some("Succeeded") { Self::Succeeded } else { Self::Other }
    }
}

/// The pipeline's name as the Workflow contains it; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PipelineName {
    /// KFP v1: the name in the annotation [`PIPELINE_SPEC_ANNOTATION`]. Certain.
    Spec(Arc<str>),
    /// `generateName` without its trailing `-`. Used if ML Metadata has no name.
    Generated(Arc<str>),
    /// Neither, as in recurring runs: only ML Metadata has the name.
    Unknown,
}

impl PipelineName {
    /// The name, if the Workflow contains one.
    pub fn known(&self) -> Option<&str> {
        match self {
            Self::Spec(name) | Self::Generated(name) => Some(name),
            Self::Unknown => None,
        }
    }
}

/// An annotation that records a delivery: `published.pipelines.kubeflow.org/<subscription>: <UID>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The subscription that received the event.
    pub subscription: SubscriptionName,
    /// True if the value is the UID of this Workflow. `argo resubmit` copies annotations, so a copy has marks that do
    /// not count.
    pub current: bool,
}

/// The record of a Workflow: about a hundred bytes, out of tens of kilobytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workflow {
    /// The namespace, shared by all records of the namespace.
    pub namespace: Arc<str>,
    /// The object's name, unique in its namespace at any one time.
    pub name: Box<str>,
    /// The object's UID, never reused.
    pub uid: Uid,
    /// `creationTimestamp`, in seconds since the Unix epoch.
    pub created: i64,
    /// The run's phase.
    pub phase: Phase,
    /// True if the label [`EVENTS_PUBLISHED_LABEL`] is `true`.
    pub events_published: bool,
    /// The pipeline's name, as far as the Workflow contains it.
    pub pipeline: PipelineName,
    /// Kubeflow's run id, from the label [`RUN_ID_LABEL`].
    pub run_id: Option<RunId>,
    /// Argo's trace id, if Argo traces.
    pub trace_id: Option<TraceId>,
    /// Deliveries, ordered by the subscriptions' names.
    pub marks: Box<[Mark]>,
    /// The `resourceVersion`, kept only where marks must be removed (see [`Workflow::is_restarted`]).
    pub resource_version: Option<Box<str>>,
}

impl Workflow {
    /// Returns whether the run succeeded.
    pub fn succeeded(&self) -> bool {
        self.phase == Phase::Succeeded
    }

    /// Returns whether a current mark records the delivery to this subscription.
    pub fn is_marked_for(&self, subscription: &SubscriptionName) -> bool {
        self.marks.iter().any(|mark| mark.current && mark.subscription == *subscription)
    }

    /// Returns whether the run was restarted (`argo retry`) after a delivery: it has a current mark and is not
    /// succeeded. Its marks have to be removed, or its next success would not be delivered.
    pub fn is_restarted(&self) -> bool {
        restarted(self.phase, &self.marks)
    }
}

/// The rule of [`Workflow::is_restarted`], for code that builds a record.
pub fn restarted(phase: Phase, marks: &[Mark]) -> bool {
    phase != Phase::Succeeded && marks.iter().any(|mark| mark.current)
}

/// Interned strings of many records: namespaces, pipelines, subscriptions.
#[derive(Debug, Default)]
pub struct Names(HashSet<Arc<str>>);

impl Names {
    /// Returns the shared copy of `text`.
    pub fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(shared) = self.0.get(text) {
            return shared.clone();
        }
        let shared: Arc<str> = text.into();
        self.0.insert(shared.clone());
        shared
    }

    /// Drops the strings without another reference.
    pub fn shrink(&mut self) {
        self.0.retain(|shared| Arc::strong_count(shared) > 1);
        self.0.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";

    fn mark(name: &str, current: bool) -> Mark {
        Mark { subscription: SubscriptionName::new(name).unwrap(), current }
    }

    #[test]
    fn a_uid_has_the_format_of_kubernetes() {
        assert_eq!(Uid::parse(UID).unwrap().to_string(), UID);
        for text in ["", "run-x", &UID[1..], &format!("{UID}0"), "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4g"] {
            assert_eq!(Uid::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_run_id_keeps_its_text() {
        for text in [UID, &UID.to_uppercase(), &UID.replace('-', ""), "", "a run", "{0a1b2c3d}"] {
            assert_eq!(RunId::new(text).to_string(), text);
        }
        assert!(matches!(RunId::new(UID), RunId::Uuid(_)));
    }

    #[test]
    fn a_trace_id_is_32_hexadecimal_digits_and_not_all_zero() {
        let valid = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(TraceId::parse(valid).unwrap().to_string(), valid);
        assert_eq!(TraceId::parse(&valid.to_uppercase()).unwrap().to_string(), valid);
        for text in
            ["", &valid[1..], &format!("{valid}0"), &"0".repeat(32), &"g".repeat(32), "+bf92f3577b34da6a3ce929d0e0e473"]
        {
            assert_eq!(TraceId::parse(text), None, "{text:?}");
        }
        assert_eq!(TraceId::from_bytes([0; 16]), None);
    }

    #[test]
    fn only_the_label_succeeded_is_a_success() {
        assert_eq!(Phase::from_label(Some("Succeeded")), Phase::Succeeded);
        for label in [None, Some(""), Some("succeeded"), Some("Running"), Some("Failed"), Some("Error")] {
            assert_eq!(Phase::from_label(label), Phase::Other, "{label:?}");
        }
    }

    #[test]
    fn a_run_with_a_current_mark_that_is_not_succeeded_is_restarted() {
        for (phase, marks, expected) in [
            (Phase::Other, vec![mark("a", true)], true),
            (Phase::Other, vec![mark("a", false), mark("b", true)], true),
            (Phase::Other, vec![mark("a", false)], false),
            (Phase::Other, vec![], false),
            (Phase::Succeeded, vec![mark("a", true)], false),
        ] {
            assert_eq!(restarted(phase, &marks), expected, "{phase:?} with {marks:?}");
        }
    }

    #[test]
    fn equal_names_are_shared_and_unused_ones_dropped() {
        let mut names = Names::default();
        let (team, again, other) = (names.intern("team"), names.intern("team"), names.intern("other"));
        assert!(Arc::ptr_eq(&team, &again) && !Arc::ptr_eq(&team, &other));
        drop(other);
        names.shrink();
        assert_eq!(names.0.len(), 1);
        assert!(Arc::ptr_eq(&team, &names.intern("team")));
    }

    #[test]
    fn a_record_fits_its_budget() {
        assert!(size_of::<Workflow>() <= 192, "{} bytes", size_of::<Workflow>());
    }
}
