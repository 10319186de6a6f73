//! How a watch is, and who is told: the log, the metrics, the server's readiness.
//!
//! A watch that brings nothing for hours is well, and one that is answered with 200 may fail with its first event. So it
//! counts as recovered when something has come (a complete list, a change), or when it has stood for a while.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use kube::runtime::watcher;
use rand::RngExt;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    k8s::object::Malformed,
    readiness::{Condition, Readiness},
    store::Scope,
    telemetry::{
        log::chain,
        metrics::{KubernetesMetrics, kubernetes::WatchErrorLabel},
    },
};

/// The pauses between two attempts: the first, and the longest. Short: the first event after an API server's restart
/// is to come within two seconds.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// For how long an established watch has to stand to count as recovered, where it brings nothing.
const SETTLED: Duration = Duration::from_secs(5);
/// Lists that follow each other faster than this are no success: the pauses between them go on growing.
const RELIST: Duration = Duration::from_secs(10);
/// For how long a watch may fail before the server counts as not ready.
const UNREADY_AFTER: Duration = Duration::from_secs(120);
/// How often errors of the same kind are logged.
const LOG_AGAIN: Duration = Duration::from_secs(600);
const NOT_LISTED: &str = "the first list of Workflows is not complete";

/// How the watch is.
pub(super) struct Status {
    name: String,
    condition: Condition,
    metrics: KubernetesMetrics,
    /// When the last list was completed.
    listed: Option<Instant>,
    up: bool,
    /// When the watch that is established will have stood for long enough.
    settles_at: Option<Instant>,
    attempt: u32,
    failing: Option<Failing>,
    /// What was logged when, by kind and HTTP status.
    logged: HashMap<(&'static str, u16), Instant>,
}

/// A time in which every attempt has failed.
struct Failing {
    since: Instant,
    error: String,
    /// Whether the log knows.
    told: bool,
    /// Whether the server counts as not ready because of it.
    unready: bool,
}

impl Status {
    pub(super) fn new(scope: &Scope, readiness: &Readiness, metrics: KubernetesMetrics) -> Self {
        let name = match scope {
            Scope::All => "watch of all namespaces".to_owned(),
            Scope::Namespace(namespace) => format!("watch of namespace {namespace}"),
        };
        let condition = readiness.condition(&name, NOT_LISTED);
        metrics.watches.inc();
        Self {
            name,
            condition,
            metrics,
            listed: None,
            up: false,
            settles_at: None,
            attempt: 0,
            failing: None,
            logged: HashMap::new(),
        }
    }

    /// A list is complete: so many Workflows are held now, so many were gone.
    pub(super) fn listed(&mut self, workflows: usize, swept: usize) {
        let attempt = self.attempt;
        self.alive();
        self.metrics.lists.inc();
        match self.listed.replace(Instant::now()) {
            None => {
                info!(workflows, "the first list of the {} is complete", self.name);
                self.condition.release();
            }
            Some(before) => {
                info!(workflows, swept, "the {} was listed anew", self.name);
                if before.elapsed() < RELIST {
                    self.attempt = attempt;
                }
            }
        }
    }

    /// A list or a change has come.
    pub(super) fn alive(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact for millions of years")]
        self.metrics.last_event.set(Timestamp::now().as_second() as f64);
        self.recovered();
    }

    /// The API server has begun to answer a watch.
    pub(super) fn established(&mut self) {
        if !std::mem::replace(&mut self.up, true) {
            self.metrics.watches_up.inc();
        }
        if self.attempt > 0 {
            self.settles_at = Some(Instant::now() + SETTLED);
        }
    }

    /// An attempt has failed. Returns how long to pause before the next one.
    pub(super) fn failed(&mut self, error: &watcher::Error) -> Duration {
        self.down();
        let (kind, code) = (kind(error), code(error));
        self.metrics.watch_errors.get_or_create(&WatchErrorLabel { kind }).inc();
        let text = chain(error);
        let told = if kind == "expired" {
            // In the nature of things after an API server's restart: what has changed meanwhile comes with the list.
            debug!("the {} has fallen behind and is listed anew: {text}", self.name);
            false
        } else if self.is_due((kind, code)) {
            warn!("the {} failed and is tried again: {text}{}", self.name, hint(error));
            true
        } else {
            debug!("the {} failed again: {text}", self.name);
            false
        };
        let failing = self.failing.get_or_insert_with(|| Failing {
            since: Instant::now(),
            error: String::new(),
            told: false,
            unready: false,
        });
        failing.told |= told;
        failing.error = text;
        if self.listed.is_none() {
            self.condition.block(format!("{NOT_LISTED}: {}", failing.error));
        } else if failing.unready {
            self.condition.block(failing.reason());
        }
        self.attempt = self.attempt.saturating_add(1);
        let (first, longest) = BACKOFF;
        let pause = first.saturating_mul(1 << (self.attempt - 1).min(8)).min(longest);
        rand::rng().random_range(pause / 2..=pause)
    }

    /// A Workflow is left out.
    pub(super) fn malformed(&mut self, error: &Malformed) {
        self.metrics.malformed.inc();
        if self.is_due(("malformed", 0)) {
            warn!("left out: {error}");
        } else {
            debug!("left out: {error}");
        }
    }

    /// When [`Status::check`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.settles_at, self.unready_at()].into_iter().flatten().min()
    }

    /// Notices what comes of nothing happening: a watch that stands, or that has failed for too long.
    pub(super) fn check(&mut self) {
        let now = Instant::now();
        if self.settles_at.is_some_and(|at| at <= now) {
            self.recovered();
        }
        if self.unready_at().is_some_and(|at| at <= now)
            && let Some(failing) = &mut self.failing
        {
            failing.unready = true;
            warn!("not ready: the {} {}", self.name, failing.reason());
            self.condition.block(failing.reason());
        }
    }

    fn unready_at(&self) -> Option<Instant> {
        // Before the first list it is not ready anyway.
        self.listed?;
        let failing = self.failing.as_ref().filter(|failing| !failing.unready)?;
        Some(failing.since + UNREADY_AFTER)
    }

    fn recovered(&mut self) {
        self.attempt = 0;
        self.settles_at = None;
        let Some(failing) = self.failing.take() else { return };
        if failing.unready {
            self.condition.release();
        }
        if failing.told || failing.unready {
            info!(after_s = failing.since.elapsed().as_secs(), "the {} has recovered", self.name);
        }
    }

    fn down(&mut self) {
        self.settles_at = None;
        if std::mem::replace(&mut self.up, false) {
            self.metrics.watches_up.dec();
        }
    }

    /// Whether this kind of thing is to be logged (again).
    fn is_due(&mut self, kind: (&'static str, u16)) -> bool {
        let due = self.logged.get(&kind).is_none_or(|at| at.elapsed() >= LOG_AGAIN);
        if due {
            self.logged.insert(kind, Instant::now());
        }
        due
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        self.down();
        self.metrics.watches.dec();
    }
}

impl Failing {
    fn reason(&self) -> String {
        format!("has failed for {} s and more: {}", UNREADY_AFTER.as_secs(), self.error)
    }
}

/// What the error is called in metrics: one of a bounded set.
fn kind(error: &watcher::Error) -> &'static str {
    match error {
        watcher::Error::InitialListFailed(_) => "list",
        watcher::Error::WatchStartFailed(_) if is_expired(error) => "expired",
        watcher::Error::WatchStartFailed(_) => "start",
        watcher::Error::WatchError(_) if is_expired(error) => "expired",
        watcher::Error::WatchError(_) => "status",
        watcher::Error::WatchFailed(_) => "stream",
        watcher::Error::NoResourceVersion => "other",
    }
}

/// The HTTP status, or 0 where there was none.
fn code(error: &watcher::Error) -> u16 {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code,
        _ => 0,
    }
}

/// Whether the version from which the watch was to go on is too old: 410.
pub(super) fn is_expired(error: &watcher::Error) -> bool {
    code(error) == 410
}

/// What the reader of the log can do about it.
fn hint(error: &watcher::Error) -> &'static str {
    match code(error) {
        400 => " (is --selector a label selector?)",
        401 => " (are the credentials of this server still valid?)",
        403 => {
            " (its service account needs the verbs list, watch and patch on workflows.argoproj.io, in all namespaces or \
             in those of --namespaces)"
        }
        404 => " (is Argo Workflows' CustomResourceDefinition installed?)",
        _ => "",
    }
}
