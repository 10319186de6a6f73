//! The status of a watch, as shown by the log, the metrics and the server's readiness.
//!
//! A healthy watch can be silent for hours, and one that is answered with 200 can fail with its first event. So a watch
//! has recovered when something was received (a complete list, a change), or when it has been established for a while.

use std::{mem, pin::pin, sync::Arc, time::Duration};

use futures::future::OptionFuture;
use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::{
    error::WatchError,
    namespace_of,
    reconnects::{Reconnects, STARTING},
};
use crate::{
    backoff::Backoff,
    k8s::{
        metrics::{KubernetesMetrics, ScopeLabel, WatchErrorKind, WatchErrorLabel},
        object::{Malformed, Object},
    },
    readiness::{Condition, Readiness},
    store::Scope,
    telemetry::{LogThrottle, log::chain},
};

/// The pauses after errors that the API server, or a proxy, answers with.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), max: Duration::from_secs(2) };
/// The pauses while the API server does not answer, and in [`STARTING`]. Short: once it is back the first event is due
/// within half a second. Watches take turns, see [`Reconnects`].
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(250), max: Duration::from_millis(300) };
/// The age at which an established watch has recovered, without receiving anything.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// Lists at shorter intervals do not reset the backoff.
const MIN_LIST_INTERVAL: Duration = Duration::from_secs(10);
/// The duration of failure after which the scope counts as not served, and the server as not ready if no other scope
/// is.
const UNREADY_AFTER: Duration = Duration::from_secs(120);
/// The limit of remembered log lines: more than the kinds of errors times the usual HTTP statuses.
const LOGGED: usize = 64;
const NOT_LISTED: &str = "the first list of Workflows is not complete";

/// The status of one watch.
pub(super) struct Status {
    scope: Scope,
    condition: Condition,
    metrics: KubernetesMetrics,
    reconnects: Arc<Reconnects>,
    scope_up: Gauge,
    /// The completion of the last list.
    last_list: Option<Instant>,
    up: bool,
    /// The instant at which the established watch has recovered.
    stable_at: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    /// The last attempt without an answer, in this outage.
    unanswered: Option<Instant>,
    outage: Option<Outage>,
    logged_errors: LogThrottle<(WatchErrorKind, u16)>,
    logged_malformed: LogThrottle<()>,
    logged_undecidable: LogThrottle<()>,
}

/// A period in which every attempt failed.
struct Outage {
    since: Instant,
    error: String,
    /// An error was logged, so that the recovery is logged, too.
    logged: bool,
    /// The scope counts as not served because of it.
    unready: bool,
}

impl Status {
    pub(super) fn new(
        scope: &Scope,
        readiness: &Readiness,
        metrics: KubernetesMetrics,
        reconnects: Arc<Reconnects>,
    ) -> Self {
        let name = format!("watch of {scope}");
        metrics.watches.inc();
        // The series of each scope exists from the start, with zero.
        let namespace = namespace_of(scope).unwrap_or_default().to_owned();
        let scope_up = metrics.scope_up.get_or_create_owned(&ScopeLabel { namespace });
        Self {
            scope: scope.clone(),
            condition: readiness.scope(name, NOT_LISTED),
            metrics,
            reconnects,
            scope_up,
            last_list: None,
            up: false,
            stable_at: None,
            failures: 0,
            unanswered: None,
            outage: None,
            logged_errors: LogThrottle::new(LOGGED),
            logged_malformed: LogThrottle::new(1),
            logged_undecidable: LogThrottle::new(1),
        }
    }

    /// Waits for this work, and handles timers in the meantime.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                // In this order: what has happened counts before the time that has passed.
                biased;
                output = &mut work => return output,
                Some(()) = OptionFuture::from(self.deadline().map(sleep_until)) => self.check(),
            }
        }
    }

    /// Handles a complete list, after which the store holds `workflows`, and `removed` are gone.
    pub(super) fn listed(&mut self, workflows: usize, removed: usize) {
        let failures = self.failures;
        self.received();
        self.reconnects.succeeded();
        self.metrics.lists.inc();
        let namespace = namespace_of(&self.scope);
        match self.last_list.replace(Instant::now()) {
            None => {
                info!(namespace, workflows, "first list of Workflows complete");
                self.condition.release();
            }
            Some(before) => {
                info!(namespace, workflows, removed, "Workflows listed again");
                if before.elapsed() < MIN_LIST_INTERVAL {
                    self.failures = failures;
                }
            }
        }
    }

    /// Handles a list or a change.
    pub(super) fn received(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact for millions of years")]
        self.metrics.last_event.set(Timestamp::now().as_second() as f64);
        self.recovered();
    }

    /// Handles the headers of a successful answer to a watch.
    pub(super) fn established(&mut self) {
        self.reconnects.succeeded();
        if !mem::replace(&mut self.up, true) {
            self.metrics.watches_up.inc();
            self.scope_up.set(1);
        }
        if self.failures > 0 {
            self.stable_at = Some(Instant::now() + STABLE_AFTER);
        }
    }

    /// Handles an error, and waits until the next attempt.
    pub(super) async fn failed(&mut self, error: &WatchError) {
        let Some(pause) = self.pause_after(error) else { return };
        let reconnects = self.reconnects.clone();
        self.during(async {
            sleep(pause).await;
            reconnects.turn().await;
        })
        .await;
    }

    /// Handles an error. Returns the pause before the next attempt; `None` for an attempt at once.
    fn pause_after(&mut self, error: &WatchError) -> Option<Duration> {
        self.down();
        let (kind, code) = (error.kind(), error.code());
        self.metrics.watch_errors.get_or_create(&WatchErrorLabel { kind }).inc();
        let (namespace, text) = (namespace_of(&self.scope), chain(error));
        // Normal after a restart of the API server: the list contains the missed changes.
        let expected = kind == WatchErrorKind::Expired;
        let logged = !expected && self.logged_errors.allows((kind, code), &());
        if logged {
            warn!(
                namespace,
                kind = kind.as_str(),
                error = text,
                hint = error.hint(),
                "watch of Workflows failed, retrying"
            );
        } else {
            debug!(namespace, kind = kind.as_str(), error = text, "watch of Workflows failed, retrying");
        }
        let outage = self.outage.get_or_insert_with(|| Outage {
            since: Instant::now(),
            error: String::new(),
            logged: false,
            unready: false,
        });
        outage.logged |= logged;
        outage.error = text;
        if self.last_list.is_none() {
            self.condition.block(format!("{NOT_LISTED}: {}", outage.error));
        } else if outage.unready {
            self.condition.block(outage.reason());
        }
        self.failures = self.failures.saturating_add(1);
        // Normal after a restart, and a list is the remedy. Lists that expire again and again have pauses.
        if expected && self.last_list.is_some_and(|last| last.elapsed() >= MIN_LIST_INTERVAL) {
            return None;
        }
        if error.is_unanswered() {
            self.unanswered = Some(Instant::now());
            self.reconnects.unanswered();
        } else {
            self.reconnects.refused();
        }
        let is_outage = self.unanswered.is_some_and(|last| last.elapsed() < STARTING);
        let backoff = if is_outage { RECONNECT } else { BACKOFF };
        Some(backoff.pause(self.failures, &mut rand::rng()))
    }

    /// Handles a Workflow that is ignored.
    pub(super) fn malformed(&mut self, error: &Malformed) {
        self.metrics.malformed.inc();
        if self.logged_malformed.allows((), &()) {
            warn!(%error, "ignoring malformed Workflow");
        } else {
            debug!(%error, "ignoring malformed Workflow");
        }
    }

    /// Handles a Workflow whose run has ended, with a label that does not say how.
    pub(super) fn undecidable(&mut self, object: &Object) {
        self.metrics.undecidable.inc();
        let (namespace, workflow) = object.name();
        if self.logged_undecidable.allows((), &()) {
            warn!(
                namespace,
                workflow,
                hint = "is the label workflows.argoproj.io/phase removed by another program?",
                "run has ended without a phase label, whether it succeeded is not known"
            );
        } else {
            debug!(namespace, workflow, "run has ended without a phase label, whether it succeeded is not known");
        }
    }

    /// Returns the instant at which to call [`Status::check`].
    fn deadline(&self) -> Option<Instant> {
        [self.stable_at, self.unready_at()].into_iter().flatten().min()
    }

    /// Handles the passage of time: a watch has recovered, or has failed for too long.
    fn check(&mut self) {
        let now = Instant::now();
        if self.stable_at.is_some_and(|at| at <= now) {
            self.recovered();
        }
        if self.unready_at().is_some_and(|at| at <= now)
            && let Some(outage) = &mut self.outage
        {
            outage.unready = true;
            warn!(
                namespace = namespace_of(&self.scope),
                error = outage.error,
                after_s = UNREADY_AFTER.as_secs(),
                "watch of Workflows keeps failing, its namespaces are not served"
            );
            self.condition.block(outage.reason());
        }
    }

    fn unready_at(&self) -> Option<Instant> {
        // Before the first list the server is not ready anyway.
        self.last_list?;
        let outage = self.outage.as_ref().filter(|outage| !outage.unready)?;
        Some(outage.since + UNREADY_AFTER)
    }

    fn recovered(&mut self) {
        self.failures = 0;
        self.unanswered = None;
        self.stable_at = None;
        let Some(outage) = self.outage.take() else { return };
        if outage.unready {
            self.condition.release();
        }
        if outage.logged || outage.unready {
            let after_s = outage.since.elapsed().as_secs();
            info!(namespace = namespace_of(&self.scope), after_s, "watch of Workflows recovered");
        }
    }

    fn down(&mut self) {
        self.stable_at = None;
        if mem::replace(&mut self.up, false) {
            self.metrics.watches_up.dec();
            self.scope_up.set(0);
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        self.down();
        self.metrics.watches.dec();
    }
}

impl Outage {
    fn reason(&self) -> String {
        format!("failing for {} s or longer: {}", UNREADY_AFTER.as_secs(), self.error)
    }
}
