//! The status of a watch, as shown by the log, the metrics and the server's readiness.
//!
//! A healthy watch can be silent for hours, and one that is answered with 200 can fail with its first event. So a watch
//! has recovered when something was received (a complete list, a change), or when it has been established for a while.

use std::{mem, time::Duration};

use jiff::Timestamp;
use kube::runtime::watcher;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::namespace_of;
use crate::{
    backoff::Backoff,
    k8s::{
        metrics::{KubernetesMetrics, WatchErrorKind, WatchErrorLabel},
        object::Malformed,
    },
    readiness::{Condition, Readiness},
    store::Scope,
    telemetry::{LogThrottle, log::chain},
};

/// The pauses between attempts. Short: after a restart of the API server the first event is due within two seconds.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), max: Duration::from_secs(2) };
/// The age at which an established watch has recovered, without receiving anything.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// Lists at shorter intervals do not reset the backoff.
const MIN_LIST_INTERVAL: Duration = Duration::from_secs(10);
/// The duration of failure after which the server is not ready.
const UNREADY_AFTER: Duration = Duration::from_secs(120);
/// The limit of remembered log lines: more than the kinds of errors times the usual HTTP statuses.
const LOGGED: usize = 64;
const NOT_LISTED: &str = "the first list of Workflows is not complete";

/// The status of one watch.
pub(super) struct Status {
    scope: Scope,
    condition: Condition,
    metrics: KubernetesMetrics,
    /// The completion of the last list.
    last_list: Option<Instant>,
    up: bool,
    /// The instant at which the established watch has recovered.
    stable_at: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    outage: Option<Outage>,
    logged_errors: LogThrottle<(WatchErrorKind, u16)>,
    logged_malformed: LogThrottle<()>,
}

/// A period in which every attempt failed.
struct Outage {
    since: Instant,
    error: String,
    /// Whether an error was logged, so that the recovery is logged, too.
    logged: bool,
    /// Whether the server is not ready because of it.
    unready: bool,
}

impl Status {
    pub(super) fn new(scope: &Scope, readiness: &Readiness, metrics: KubernetesMetrics) -> Self {
        let name = match namespace_of(scope) {
            None => "watch of all namespaces".to_owned(),
            Some(namespace) => format!("watch of namespace {namespace}"),
        };
        metrics.watches.inc();
        Self {
            scope: scope.clone(),
            condition: readiness.condition(name, NOT_LISTED),
            metrics,
            last_list: None,
            up: false,
            stable_at: None,
            failures: 0,
            outage: None,
            logged_errors: LogThrottle::new(LOGGED),
            logged_malformed: LogThrottle::new(1),
        }
    }

    /// Handles a complete list, after which the store holds `workflows`, and `removed` are gone.
    pub(super) fn listed(&mut self, workflows: usize, removed: usize) {
        let failures = self.failures;
        self.received();
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
        if !mem::replace(&mut self.up, true) {
            self.metrics.watches_up.inc();
        }
        if self.failures > 0 {
            self.stable_at = Some(Instant::now() + STABLE_AFTER);
        }
    }

    /// Handles an error. Returns the pause before the next attempt.
    pub(super) fn failed(&mut self, error: &watcher::Error) -> Duration {
        self.down();
        let (kind, code) = (kind(error), code(error));
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
                hint = hint(code),
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
        BACKOFF.pause(self.failures, &mut rand::rng())
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

    /// Returns the instant at which to call [`Status::check`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.stable_at, self.unready_at()].into_iter().flatten().min()
    }

    /// Handles the passage of time: a watch has recovered, or has failed for too long.
    pub(super) fn check(&mut self) {
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
                "watch of Workflows keeps failing, not ready"
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

fn kind(error: &watcher::Error) -> WatchErrorKind {
    match error {
        watcher::Error::InitialListFailed(_) => WatchErrorKind::List,
        watcher::Error::WatchStartFailed(_) | watcher::Error::WatchError(_) if is_expired(error) => {
            WatchErrorKind::Expired
        }
        watcher::Error::WatchStartFailed(_) => WatchErrorKind::Start,
        watcher::Error::WatchError(_) => WatchErrorKind::Status,
        watcher::Error::WatchFailed(_) => WatchErrorKind::Stream,
        watcher::Error::NoResourceVersion => WatchErrorKind::Other,
    }
}

/// Returns the HTTP status, or 0 where there was none.
fn code(error: &watcher::Error) -> u16 {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code,
        _ => 0,
    }
}

/// Returns whether the resource version of the watch is too old: 410.
pub(super) fn is_expired(error: &watcher::Error) -> bool {
    code(error) == 410
}

/// Returns the usual cause of an HTTP status.
fn hint(code: u16) -> Option<&'static str> {
    match code {
        400 => Some("is --selector a label selector?"),
        401 => Some("are the credentials of this server still valid?"),
        403 => Some(
            "the service account needs the verbs list, watch and patch on workflows.argoproj.io, in all namespaces or \
             in those of --namespaces",
        ),
        404 => Some("is Argo Workflows' CustomResourceDefinition installed?"),
        _ => None,
    }
}
