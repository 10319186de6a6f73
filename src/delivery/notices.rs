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

/// The result of a run's delivery, without payload and locations of models.
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
    /// True if the run's owner should act.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::registry::Registry;

    use super::*;
    use crate::{
        clock::WallClock,
        delivery::{
            DeliveryMetrics, LookupError,
            fixtures::{KeptNotices, name, run, subscription},
            ledger::Report,
            observer::Observer,
        },
        model::{FilterReason, SkipReason},
        store::Store,
        telemetry::{LimitHits, Traces},
    };

    /// The notices of these reports: reason, subscription, and whether each is a warning.
    fn notices(reports: &[Report]) -> Vec<Notice> {
        let kept = Arc::new(KeptNotices::default());
        let metrics = DeliveryMetrics::new(&mut Registry::default());
        let store = Arc::<Store>::default();
        let clock = WallClock::new(|| 1_700_000_000);
        let mut observer =
            Observer::new(metrics, LimitHits::default(), Some(kept.clone()), Traces::default(), store, clock);
        reports.iter().for_each(|report| observer.report(report));
        kept.take()
    }

    fn failed(error: LookupError, given_up: bool) -> Report {
        Report::LookupFailed { workflow: run("one").into(), error, attempt: 1, retry_in: Duration::ZERO, given_up }
    }

    #[test]
    fn a_notice_has_the_words_of_the_metrics() {
        let (workflow, subscription) = (Arc::new(run("one")), Arc::new(subscription("deploy")));
        let skipped =
            |reason| Report::Skipped { subscription: subscription.clone(), workflow: workflow.clone(), reason };
        let filtered = |by_all| Report::Filtered {
            subscription: subscription.clone(),
            workflow: workflow.clone(),
            reason: FilterReason::Pipelines,
            by_all,
        };
        let confirmed = Report::Confirmed {
            subscription: subscription.clone(),
            workflow: workflow.clone(),
            since_handoff: Duration::ZERO,
            pending_for: Duration::ZERO,
        };
        let reports = [
            confirmed,
            skipped(SkipReason::NoModel),
            skipped(SkipReason::NoPipelineName),
            skipped(SkipReason::TooLarge),
            skipped(SkipReason::Superseded),
            filtered(None),
            filtered(Some(3)),
            failed(LookupError::NoContext, false),
            failed(LookupError::NoContext, true),
            failed(LookupError::TooLarge, true),
            failed(LookupError::ForeignContext { namespace: "secret".to_owned() }, true),
            Report::ForeignExecutions { workflow: workflow.clone(), count: 2 },
            Report::MarksFull { workflow: workflow.clone(), subscription: name("deploy") },
            Report::Expired { workflow: workflow.clone(), without_context: false },
            Report::Expired { workflow: workflow.clone(), without_context: true },
        ];
        let notices = notices(&reports);
        let found: Vec<_> = notices
            .iter()
            .map(|notice| (notice.reason, notice.subscription.as_ref().map(|name| name.as_str()), notice.is_warning))
            .collect();
        let deploy = Some("deploy");
        assert_eq!(
            found,
            [
                ("delivered", deploy, false),
                ("no_model", deploy, false),
                ("no_pipeline_name", deploy, true),
                ("too_large", deploy, true),
                ("superseded", deploy, false),
                ("filtered", None, false),
                ("no_context", None, true),
                ("too_large", None, true),
                ("foreign_context", None, true),
                ("foreign_execution", None, true),
                ("marks_full", deploy, true),
                ("expired", None, true),
            ]
        );
        for notice in notices {
            assert_eq!((&*notice.namespace, &*notice.workflow, notice.uid), ("team", "one", workflow.uid));
            let names_it = notice.subscription.is_none() || notice.text.contains("deploy");
            assert!(names_it && !notice.text.contains("secret"), "{notice:?}");
        }
    }
}
