//! The record that is kept of a Workflow, and the rules that read it.

use std::{collections::HashSet, fmt, sync::Arc};

use uuid::Uuid;

use super::SubscriptionName;

/// Label in which Argo's workflow controller repeats `status.phase`.
pub const PHASE_LABEL: &str = "workflows.argoproj.io/phase";
/// Label that Kubeflow's API server puts on each Workflow that it submits, one-off and recurring, KFP v1 and v2.
pub const RUN_ID_LABEL: &str = "pipeline/runid";
/// Label that kfp-operator's own provider sets after its own delivery. Read (`--skip-labelled`), never written.
pub const EVENTS_PUBLISHED_LABEL: &str = "pipelines.kubeflow.org/events-published";
/// Annotation of KFP v1 whose JSON value holds the pipeline's name under `name`.
pub const PIPELINE_SPEC_ANNOTATION: &str = "pipelines.kubeflow.org/pipeline_spec";
/// Annotation that Argo Workflows 4.1 and later writes when tracing is on: 32 hexadecimal digits.
pub const TRACE_ID_ANNOTATION: &str = "workflows.argoproj.io/trace-id";
/// What the annotations begin with that remember deliveries; the subscription's name follows.
pub const MARK_PREFIX: &str = "published.pipelines.kubeflow.org/";
/// How many marks a Workflow carries at most.
pub const MAX_MARKS: usize = 32;

/// The UID that Kubernetes gave to an object; unlike a name it is never used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Uuid);

impl Uid {
    /// Reads a UID in the form that Kubernetes writes. `None` where it is not a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The sixteen octets of the UID.
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

/// Kubeflow's identifier of a run: nearly always a UUID, which is kept without an allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunId {
    /// A UUID in its usual lower-case form.
    Uuid(Uuid),
    /// Whatever else the label holds.
    Other(Box<str>),
}

impl RunId {
    /// Takes the label's value as it is: displaying the result gives the same text again.
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

/// An OpenTelemetry trace id: sixteen octets, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// Reads 32 hexadecimal digits. `None` for anything else, and for the invalid id of zeros.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        Self::from_bytes(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
    }

    /// The id with these octets. `None` for the invalid id of zeros.
    pub fn from_bytes(octets: [u8; 16]) -> Option<Self> {
        (octets != [0; 16]).then_some(Self(octets))
    }

    /// The sixteen octets of the id.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a Workflow stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The run has finished, and well.
    Succeeded,
    /// Anything else: pending, running, failed, or no phase yet.
    Other,
}

impl Phase {
    /// Reads the value of the label [`PHASE_LABEL`].
    pub fn from_label(value: Option<&str>) -> Self {
        if value == Some("Succeeded") { Self::Succeeded } else { Self::Other }
    }
}

/// What the Workflow itself says of its pipeline's name; never an empty one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PipelineName {
    /// KFP v1: the name in the annotation [`PIPELINE_SPEC_ANNOTATION`]. Certain.
    Spec(Arc<str>),
    /// `generateName` without its trailing `-`. Used where ML Metadata knows no better.
    Generated(Arc<str>),
    /// Recurring runs have neither: only ML Metadata knows.
    Unknown,
}

impl PipelineName {
    /// The name, if the Workflow says one.
    pub fn known(&self) -> Option<&str> {
        match self {
            Self::Spec(name) | Self::Generated(name) => Some(name),
            Self::Unknown => None,
        }
    }
}

/// One annotation that remembers a delivery: `published.pipelines.kubeflow.org/<subscription>: <UID>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The subscription that it belongs to.
    pub subscription: SubscriptionName,
    /// Whether the value is the Workflow's own UID. `argo resubmit` copies annotations, so a copy carries marks that
    /// do not count.
    pub own: bool,
}

/// What is kept of a Workflow: about a hundred octets, out of tens of kilobytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workflow {
    /// The namespace, shared by all records of that namespace.
    pub namespace: Arc<str>,
    /// The object's name, unique in its namespace at any one time.
    pub name: Box<str>,
    /// The object's UID, unique for ever.
    pub uid: Uid,
    /// `creationTimestamp`, in seconds since the Unix epoch.
    pub created: i64,
    /// Where the run stands.
    pub phase: Phase,
    /// Whether the label [`EVENTS_PUBLISHED_LABEL`] is `true`.
    pub labelled: bool,
    /// What the Workflow says of its pipeline's name.
    pub pipeline: PipelineName,
    /// Kubeflow's run id, from the label [`RUN_ID_LABEL`].
    pub run_id: Option<RunId>,
    /// Argo's trace id, where Argo traces.
    pub trace_id: Option<TraceId>,
    /// What has been delivered, in the order of the subscriptions' names.
    pub marks: Box<[Mark]>,
    /// The `resourceVersion`, kept only where marks must be removed (see [`Workflow::is_restarted`]).
    pub resource_version: Option<Box<str>>,
}

impl Workflow {
    /// Whether the run succeeded.
    pub fn succeeded(&self) -> bool {
        self.phase == Phase::Succeeded
    }

    /// Whether a mark says that this subscription has got this very run.
    pub fn is_marked_for(&self, subscription: &SubscriptionName) -> bool {
        self.marks.iter().any(|mark| mark.own && mark.subscription == *subscription)
    }

    /// Whether the run was restarted (`argo retry`) after it had been delivered: it carries its own mark and is not
    /// succeeded. Its marks have to go, or its next success would never be announced.
    pub fn is_restarted(&self) -> bool {
        restarted(self.phase, &self.marks)
    }
}

/// The rule behind [`Workflow::is_restarted`], for whoever builds a record.
pub fn restarted(phase: Phase, marks: &[Mark]) -> bool {
    phase != Phase::Succeeded && marks.iter().any(|mark| mark.own)
}

/// Strings that many records share (namespaces, pipelines, subscriptions), each kept once.
#[derive(Debug, Default)]
pub struct Names(HashSet<Arc<str>>);

impl Names {
    /// The shared copy of `text`.
    pub fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(shared) = self.0.get(text) {
            return shared.clone();
        }
        let shared: Arc<str> = text.into();
        self.0.insert(shared.clone());
        shared
    }

    /// Forgets the strings that nobody else holds any more.
    pub fn shrink(&mut self) {
        self.0.retain(|shared| Arc::strong_count(shared) > 1);
        self.0.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";

    fn mark(name: &str, own: bool) -> Mark {
        Mark { subscription: SubscriptionName::new(name).unwrap(), own }
    }

    #[test]
    fn a_uid_reads_and_writes_as_kubernetes_writes_it() {
        assert_eq!(Uid::parse(UID).unwrap().to_string(), UID);
        for text in ["", "run-x", &UID[1..], &format!("{UID}0"), "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4g"] {
            assert_eq!(Uid::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_run_id_is_shown_as_it_was_read() {
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
    fn only_the_label_succeeded_is_success() {
        assert_eq!(Phase::from_label(Some("Succeeded")), Phase::Succeeded);
        for label in [None, Some(""), Some("succeeded"), Some("Running"), Some("Failed"), Some("Error")] {
            assert_eq!(Phase::from_label(label), Phase::Other, "{label:?}");
        }
    }

    #[test]
    fn a_run_was_restarted_if_it_carries_its_own_mark_and_is_not_succeeded() {
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
    fn equal_names_are_kept_once_and_those_that_nobody_holds_are_forgotten() {
        let mut names = Names::default();
        let (team, again, other) = (names.intern("team"), names.intern("team"), names.intern("other"));
        assert!(Arc::ptr_eq(&team, &again) && !Arc::ptr_eq(&team, &other));
        drop(other);
        names.shrink();
        assert_eq!(names.0.len(), 1);
        assert!(Arc::ptr_eq(&team, &names.intern("team")));
    }

    #[test]
    fn a_record_is_as_small_as_its_budget_needs() {
        assert!(size_of::<Workflow>() <= 192, "{} octets", size_of::<Workflow>());
    }
}
