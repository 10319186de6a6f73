//! The reflector's loop: one watch of Workflows' metadata that keeps the store as the API server has it.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event, watcher},
};
use rand::RngExt;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::{Client, client::WATCH_TIMEOUT, object::Object};
use crate::{
    model::Names,
    readiness::{Condition, Readiness},
    store::{Relist, Scope, Store},
    telemetry::{log::chain, metrics::kubernetes::WatchErrorLabel},
};

/// How many Workflows a page of a list holds: a page is in memory as a whole.
const PAGE: u32 = 250;
/// The pauses between two attempts: the first, and the longest. Short: the first event after an API server's restart
/// is to come within two seconds.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// For how long a watch may fail before the server counts as not ready.
const UNREADY_AFTER: Duration = Duration::from_secs(120);
/// How often the same error is logged.
const LOG_AGAIN: Duration = Duration::from_secs(600);

/// One watch. See [`Watch::run`].
pub struct Watch {
    client: Client,
    scope: Scope,
    selector: String,
    store: Arc<Store>,
    names: Names,
    list: Option<Relist>,
    status: Status,
}

/// How the watch is.
struct Status {
    name: String,
    condition: Condition,
    listed: bool,
    up: bool,
    attempt: u32,
    failing_since: Option<Instant>,
    last_error: Option<String>,
    logged: Option<(String, Instant)>,
}

impl Watch {
    /// A watch of the Workflows in `scope` that match the label selector. Blocks `readiness` from now on, until the
    /// first list is complete.
    pub fn new(client: Client, scope: Scope, selector: String, store: Arc<Store>, readiness: &Readiness) -> Self {
        let name = match &scope {
            Scope::All => "watch of all namespaces".to_owned(),
            Scope::Namespace(namespace) => format!("watch of namespace {namespace}"),
        };
        let condition = readiness.condition(&name, "the first list of Workflows is not complete");
        client.metrics.watches.inc();
        let status = Status {
            name,
            condition,
            listed: false,
            up: false,
            attempt: 0,
            failing_since: None,
            last_error: None,
            logged: None,
        };
        Self { client, scope, selector, store, names: Names::default(), list: None, status }
    }

    /// Watches, for ever: whatever fails is tried again.
    pub async fn run(mut self) {
        let api: Api<Object> = match &self.scope {
            Scope::All => Api::all(self.client.kube.clone()),
            Scope::Namespace(namespace) => Api::namespaced(self.client.kube.clone(), namespace),
        };
        let path = Object::url_path(
            &(),
            match &self.scope {
                Scope::All => None,
                Scope::Namespace(namespace) => Some(namespace),
            },
        );
        let mut established = self.client.established(&path);
        let config = watcher::Config::default()
            .labels(&self.selector)
            .page_size(PAGE)
            .timeout(u32::try_from(WATCH_TIMEOUT.as_secs()).unwrap_or(60));
        let mut events = watcher(api, config).boxed();
        loop {
            let unready_at = self.status.unready_at();
            tokio::select! {
                event = events.try_next() => match event {
                    Ok(Some(event)) => self.take(event),
                    // kube's watcher never ends by itself.
                    Ok(None) => return,
                    Err(error) => {
                        let pause = self.failed(&error);
                        sleep(pause).await;
                    }
                },
                Ok(()) = established.changed() => self.is_up(),
                () = until(unready_at) => self.status.unready(),
            }
        }
    }

    fn take(&mut self, event: Event<Object>) {
        match event {
            // Also comes before each failed attempt to list: it is no sign of life.
            Event::Init => self.list = Some(self.store.begin_list(self.scope.clone())),
            Event::InitApply(object) => self.apply(object),
            Event::InitDone => {
                let swept = self.list.take().map_or(0, |list| self.store.finish_list(list));
                self.names.shrink();
                self.client.metrics.lists.inc();
                self.is_alive();
                self.status.listed(self.store.size().0, swept);
            }
            Event::Apply(object) => {
                self.is_alive();
                self.apply(object);
            }
            Event::Delete(object) => {
                self.is_alive();
                if let (namespace, name, Some(uid)) = object.identity() {
                    self.store.delete(namespace, name, uid);
                }
            }
        }
        if self.list.is_none() {
            let (workflows, namespaces) = self.store.size();
            self.client.metrics.workflows.set(i64::try_from(workflows).unwrap_or(i64::MAX));
            self.client.metrics.namespaces.set(i64::try_from(namespaces).unwrap_or(i64::MAX));
        }
    }

    fn apply(&mut self, object: Object) {
        match object.into_record(&mut self.names) {
            Ok(workflow) => self.store.apply(workflow),
            Err(error) => {
                self.client.metrics.malformed.inc();
                warn!("left out: {error}");
            }
        }
    }

    fn is_alive(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact for millions of years")]
        self.client.metrics.last_event.set(Timestamp::now().as_second() as f64);
        self.is_up();
    }

    fn is_up(&mut self) {
        if !std::mem::replace(&mut self.status.up, true) {
            self.client.metrics.watches_up.inc();
        }
        self.status.recovered();
    }

    /// Notes an error. Returns how long to pause.
    fn failed(&mut self, error: &watcher::Error) -> Duration {
        if std::mem::replace(&mut self.status.up, false) {
            self.client.metrics.watches_up.dec();
        }
        self.client.metrics.watch_errors.get_or_create(&WatchErrorLabel { kind: kind(error) }).inc();
        self.status.failed(error);
        let (first, longest) = BACKOFF;
        let pause = first.saturating_mul(1 << self.status.attempt.saturating_sub(1).min(8)).min(longest);
        rand::rng().random_range(pause / 2..=pause)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.client.metrics.watches.dec();
        if self.status.up {
            self.client.metrics.watches_up.dec();
        }
    }
}

impl Status {
    fn listed(&mut self, workflows: usize, swept: usize) {
        if !std::mem::replace(&mut self.listed, true) {
            info!(workflows, "the first list of the {} is complete", self.name);
        } else {
            info!(workflows, swept, "the {} was listed anew", self.name);
        }
        self.condition.release();
    }

    fn recovered(&mut self) {
        self.attempt = 0;
        if let Some(since) = self.failing_since.take() {
            info!(after_s = since.elapsed().as_secs(), "the {} is established again", self.name);
        }
        self.last_error = None;
        if self.listed {
            self.condition.release();
        }
    }

    fn failed(&mut self, error: &watcher::Error) {
        self.attempt += 1;
        self.failing_since.get_or_insert_with(Instant::now);
        let text = chain(error);
        if !self.listed {
            self.condition.block(format!("the first list of Workflows is not complete: {text}"));
        }
        let again = match &self.logged {
            Some((logged, at)) => *logged != text || at.elapsed() >= LOG_AGAIN,
            None => true,
        };
        if again {
            warn!("the {} failed and is tried again: {text}{}", self.name, hint(error));
            self.logged = Some((text.clone(), Instant::now()));
        } else {
            debug!("the {} failed again: {text}", self.name);
        }
        self.last_error = Some(text);
    }

    /// When the server stops being ready, unless the watch recovers.
    fn unready_at(&self) -> Option<Instant> {
        let since = self.failing_since.filter(|_| self.listed)?;
        Some(since + UNREADY_AFTER).filter(|at| *at > Instant::now())
    }

    fn unready(&self) {
        let error = self.last_error.as_deref().unwrap_or("unknown");
        self.condition.block(format!("has failed for {} s: {error}", UNREADY_AFTER.as_secs()));
        warn!("not ready: the {} has failed for {} s", self.name, UNREADY_AFTER.as_secs());
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn kind(error: &watcher::Error) -> &'static str {
    match error {
        watcher::Error::InitialListFailed(_) => "list",
        watcher::Error::WatchStartFailed(_) => "start",
        watcher::Error::WatchError(status) if status.code == 410 => "expired",
        watcher::Error::WatchError(_) => "status",
        watcher::Error::WatchFailed(_) => "stream",
        watcher::Error::NoResourceVersion => "other",
    }
}

/// What the reader of the log can do about it.
fn hint(error: &watcher::Error) -> &'static str {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) => match status.code {
            400 => " (is --selector a label selector?)",
            401 => " (are the credentials of this server still valid?)",
            403 => {
                " (its service account needs the verbs list, watch and patch on workflows.argoproj.io, in all namespaces \
                 or in those of --namespaces)"
            }
            404 => " (is Argo Workflows' CustomResourceDefinition installed?)",
            _ => "",
        },
        _ => "",
    }
}
