//! The reflector's loop: lists Workflow metadata, watches its changes, and keeps the store in step with the API server.
//!
//! Answers are decoded as they arrive, and each record goes to the store at once, so memory does not depend on the size
//! of a page. There is no limit on the duration of a list, only on its silence.

mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod reconnects;
pub(super) mod split;
mod status;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use kube::{
    api::{ListParams, WatchParams},
    core::Status as ApiStatus,
};
use serde::Deserialize;
use tokio::{
    task::coop::consume_budget,
    time::{Instant, sleep_until},
};

use self::{
    error::WatchError,
    reconnects::Reconnects,
    split::{LineSplitter, ListMetadata, ListSplitter, MAX_OBJECT, Oversized, Piece},
    status::Status,
};
use super::{
    Client,
    client::RequestError,
    object::{Decoder, Malformed, Object},
    workflows_path,
};
use crate::{
    model::SubscriptionsInUse,
    readiness::Readiness,
    store::{Scope, Size, Store},
    telemetry::{Limit, LimitHits},
};

/// The size of a list page, in Workflows. A page costs the API server memory, not this process.
const PAGE: u32 = 250;
/// The size of a list page, in bytes, above which the next has half as many Workflows. Smaller pages spare the API
/// server, which builds each one in memory, and an answer takes less time.
const MAX_PAGE_BYTES: usize = 4 << 20;
/// The size of a list page, in bytes, below which the next has twice as many Workflows.
const SMALL_PAGE_BYTES: usize = MAX_PAGE_BYTES / 4;
/// The longest silence within the answer to a list. The API server's own deadline for a request is 60 s.
const LIST_SILENCE: Duration = Duration::from_secs(60);
/// The duration of a watch before the API server ends it and the next begins. Each one detects withdrawn rights and an
/// API server that hangs; without deliveries there are no other requests. Costs four cheap requests a minute.
const WATCH_DURATION: Duration = Duration::from_secs(15);
/// The longest silence of a watch. Longer than a watch, which may be silent to its end.
const WATCH_SILENCE: Duration = Duration::from_secs(20);
/// The shortest interval between two watches of which the first ends without an error. With an API server, or a proxy,
/// that ends each watch at once, the loop would be a busy one.
const MIN_WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// The parts that all watches share.
pub struct Watches {
    client: Client,
    selector: String,
    store: Arc<Store>,
    readiness: Readiness,
    decoder: Decoder,
    limits: LimitHits,
    reconnects: Arc<Reconnects>,
}

impl Watches {
    /// Watches of the Workflows that match the label selector. Of too many marks on a Workflow they keep those of the
    /// subscriptions in use.
    pub fn new(
        client: Client,
        selector: String,
        store: Arc<Store>,
        readiness: Readiness,
        in_use: SubscriptionsInUse,
        limits: LimitHits,
    ) -> Self {
        let decoder = Decoder::new(in_use, limits.clone());
        Self { client, selector, store, readiness, decoder, limits, reconnects: Arc::default() }
    }

    /// A watch of one scope. The scope is not served until its first list is complete, and again while the watch has
    /// been failing for two minutes.
    pub fn watch(&self, scope: Scope) -> Watch {
        Watch {
            client: self.client.clone(),
            status: Status::new(&scope, &self.readiness, self.client.metrics.clone(), self.reconnects.clone()),
            path: workflows_path(namespace_of(&scope)),
            scope,
            selector: self.selector.clone(),
            store: self.store.clone(),
            decoder: self.decoder.clone(),
            limits: self.limits.clone(),
            page: PAGE,
            version: None,
        }
    }
}

/// One watch. See [`Watch::run`].
pub struct Watch {
    client: Client,
    scope: Scope,
    path: String,
    selector: String,
    store: Arc<Store>,
    decoder: Decoder,
    limits: LimitHits,
    status: Status,
    /// The size of the next list page, in Workflows.
    page: u32,
    /// The version from which the watch continues; `None` to list first.
    version: Option<String>,
}

impl Watch {
    /// Watches until it is dropped. Every error is retried.
    pub async fn run(mut self) {
        loop {
            let outcome = match self.version.clone() {
                None => self.list().await,
                Some(version) => self.follow(version).await,
            };
            if let Err(error) = outcome {
                if !error.is_resumable() {
                    self.version = None;
                }
                self.status.failed(&error).await;
            }
        }
    }

    /// Lists the Workflows, page by page.
    async fn list(&mut self) -> Result<(), WatchError> {
        let list = self.store.begin_list(self.scope.clone());
        let mut token = None;
        let version = loop {
            let ListMetadata { resource_version, token: next } = self.list_page(token).await?;
            match next.filter(|next| !next.is_empty()) {
                Some(next) => token = Some(next),
                None => break resource_version,
            }
        };
        let version = version.filter(|version| !version.is_empty()).ok_or(WatchError::NoVersion)?;
        let removed = self.store.finish_list(list);
        self.version = Some(version);
        self.decoder.shrink();
        self.update_sizes();
        self.status.listed(self.store.size().workflows, removed);
        Ok(())
    }

    async fn list_page(&mut self, token: Option<String>) -> Result<ListMetadata, WatchError> {
        let mut parameters = ListParams::default().labels(&self.selector).limit(self.page);
        parameters.continue_token = token;
        let request = kube::core::Request::new(&self.path).list_metadata(&parameters);
        let request = request.map_err(|error| WatchError::List(error.into()))?;
        let answer = self.client.send(request, LIST_SILENCE);
        let mut answer = self.status.during(answer).await.map_err(WatchError::List)?;
        let mut splitter = ListSplitter::default();
        let mut bytes = 0;
        while let Some(chunk) = self.status.during(answer.next()).await.map_err(WatchError::List)? {
            bytes += chunk.len();
            let mut rest = &chunk[..];
            while let Some(item) = splitter.next(&mut rest).map_err(|error| WatchError::not_a_list(&error))? {
                match decode(item) {
                    Ok(object) => self.apply(object),
                    Err(error) => self.status.malformed(&error),
                }
                consume_budget().await;
            }
        }
        self.adapt_page(bytes);
        splitter.finish().map_err(|error| WatchError::not_a_list(&error))
    }

    /// Chooses the size of the next page.
    fn adapt_page(&mut self, bytes: usize) {
        if bytes > MAX_PAGE_BYTES {
            self.page = (self.page / 2).max(1);
            self.limits.hit(Limit::ListPage);
        } else if bytes < SMALL_PAGE_BYTES {
            self.page = (self.page * 2).min(PAGE);
        }
    }

    /// Follows the changes after a version, until the API server ends the watch.
    async fn follow(&mut self, version: String) -> Result<(), WatchError> {
        let start = Instant::now();
        let timeout = u32::try_from(WATCH_DURATION.as_secs()).expect("a watch lasts for seconds");
        let parameters = WatchParams::default().labels(&self.selector).timeout(timeout);
        let request = kube::core::Request::new(&self.path).watch_metadata(&parameters, &version);
        let request = request.map_err(|error| WatchError::Start(error.into()))?;
        let answer = self.client.send(request, WATCH_SILENCE);
        let mut answer = self.status.during(answer).await.map_err(WatchError::Start)?;
        self.status.established();
        let mut splitter = LineSplitter::default();
        while let Some(chunk) = self.status.during(answer.next()).await.map_err(WatchError::Stream)? {
            self.handle_lines(&mut splitter, &chunk)?;
        }
        self.status.during(sleep_until(start + MIN_WATCH_INTERVAL)).await;
        Ok(())
    }

    /// Handles the lines that end in these bytes.
    fn handle_lines(&mut self, splitter: &mut LineSplitter, mut bytes: &[u8]) -> Result<(), WatchError> {
        while let Some(line) = splitter.next(&mut bytes) {
            match line {
                Ok([]) => {}
                Ok(line) => self.handle_event(line)?,
                Err(Oversized) => self.status.malformed(&TOO_LARGE),
            }
        }
        self.update_sizes();
        Ok(())
    }

    fn handle_event(&mut self, line: &[u8]) -> Result<(), WatchError> {
        let (change, object) = read_event(line)?;
        if let Some(version) = object.version() {
            self.version = Some(version.to_owned());
        }
        match change {
            Change::Applied => {
                self.status.received();
                self.apply(object);
            }
            Change::Deleted => {
                self.status.received();
                if let (namespace, name, Some(uid)) = object.identity() {
                    self.store.delete(namespace, name, uid);
                }
            }
            Change::None => {}
        }
        Ok(())
    }

    fn apply(&mut self, object: Object) {
        if object.is_undecidable() {
            self.status.undecidable(&object);
        }
        match self.decoder.record(object) {
            Ok(workflow) => self.store.apply(workflow),
            Err(error) => self.status.malformed(&error),
        }
    }

    fn update_sizes(&self) {
        let Size { workflows, namespaces } = self.store.size();
        let metrics = &self.client.metrics;
        metrics.workflows.set(i64::try_from(workflows).unwrap_or(i64::MAX));
        metrics.namespaces.set(i64::try_from(namespaces).unwrap_or(i64::MAX));
    }
}

const TOO_LARGE: Malformed = Malformed::TooLarge { limit: MAX_OBJECT };

/// The first pass over a line of a watch. The kind decides how the second one reads the object.
#[derive(Deserialize)]
struct EventHead {
    #[serde(rename = "type")]
    kind: EventKind,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum EventKind {
    Added,
    Modified,
    Deleted,
    /// A version, and no change.
    Bookmark,
    /// A Status.
    Error,
}

#[derive(Deserialize)]
struct EventObject<T> {
    object: T,
}

/// The change of an object that an event reports.
#[derive(Debug)]
enum Change {
    Applied,
    Deleted,
    None,
}

/// Reads a line of a watch.
fn read_event(line: &[u8]) -> Result<(Change, Object), WatchError> {
    let kind = match serde_json::from_slice(line) {
        Ok(EventHead { kind }) => kind,
        // A proxy, or an API server whose encoder failed, may write a Status without an event around it.
        Err(error) => match serde_json::from_slice::<ApiStatus>(line) {
            Ok(status) if status.code != 0 => return Err(WatchError::Status(status.boxed())),
            _ => return Err(not_an_event(&error)),
        },
    };
    let change = match kind {
        EventKind::Added | EventKind::Modified => Change::Applied,
        EventKind::Deleted => Change::Deleted,
        EventKind::Bookmark => Change::None,
        EventKind::Error => {
            let EventObject { object } = serde_json::from_slice(line).map_err(|error| not_an_event(&error))?;
            return Err(WatchError::Status(object));
        }
    };
    let EventObject { object } = serde_json::from_slice(line).map_err(|error| not_an_event(&error))?;
    Ok((change, object))
}

fn not_an_event(error: &serde_json::Error) -> WatchError {
    WatchError::Stream(RequestError::Malformed(error.to_string()))
}

fn decode(item: Piece<'_>) -> Result<Object, Malformed> {
    let json = item.map_err(|Oversized| TOO_LARGE)?;
    serde_json::from_slice(json).map_err(|error| Malformed::Json(error.to_string()))
}

fn namespace_of(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::All => None,
        Scope::Namespace(namespace) => Some(namespace),
    }
}
