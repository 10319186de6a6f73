//! Notices: what has become of a run, for the owner of its Workflow.

use std::{fmt, sync::Arc};

use crate::model::{SubscriptionName, Uid, Workflow};

/// The reason of a notice about a confirmed event.
pub(super) const DELIVERED: &str = "delivered";
/// The reason of a notice about a run that the filters of every attached subscription exclude.
pub(super) const FILTERED: &str = "filtered";

/// A destination of notices.
pub trait NoticeSink: fmt::Debug + Send + Sync + 'static {
    /// Accepts a notice. Called by the delivery task, so it has to return at once: without room, the notice is dropped.
    fn notify(&self, notice: Notice);
}

/// What has become of a run. It contains no payload and no place of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The Workflow's namespace.
    pub namespace: Arc<str>,
    /// The Workflow's name.
    pub workflow: Box<str>,
    /// The Workflow's UID.
    pub uid: Uid,
    /// The end of the run in seconds since the Unix epoch: a run that was retried has another one.
    pub finished: i64,
    /// The subscription; `None` if the notice is about all of them.
    pub subscription: Option<SubscriptionName>,
    /// `delivered`, `filtered`, or a value of the label `reason` of `modelupdate_runs_skipped_total`.
    pub reason: &'static str,
    /// Whether the owner should do something about it.
    pub is_warning: bool,
    /// One sentence, with the subscription.
    pub text: String,
}

impl Notice {
    pub(super) fn new(
        workflow: &Workflow,
        subscription: Option<&SubscriptionName>,
        reason: &'static str,
        is_warning: bool,
        text: String,
    ) -> Self {
        Self {
            namespace: workflow.namespace.clone(),
            workflow: workflow.name.clone(),
            uid: workflow.uid,
            finished: workflow.finished,
            subscription: subscription.cloned(),
            reason,
            is_warning,
            text,
        }
    }
}
