//! The reflector's loop: one watch of Workflows' metadata that keeps the store as the API server has it.

mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::{StreamExt, stream::BoxStream};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event, watcher},
};
use tokio::time::{Instant, sleep_until};

use self::status::{Status, is_expired};
use super::{Client, client::WATCH_TIMEOUT, object::Object};
use crate::{
    model::Names,
    readiness::Readiness,
    store::{Relist, Scope, Size, Store},
};

/// How many Workflows a page of a list holds: a page is in memory as a whole.
const PAGE: u32 = 250;

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

impl Watch {
    /// A watch of the Workflows in `scope` that match the label selector. Blocks `readiness` from now on, until the
    /// first list is complete, and again while it has failed for two minutes.
    pub fn new(client: Client, scope: Scope, selector: String, store: Arc<Store>, readiness: &Readiness) -> Self {
        let status = Status::new(&scope, readiness, client.metrics.clone());
        Self { client, scope, selector, store, names: Names::default(), list: None, status }
    }

    /// Watches, for ever: whatever fails is tried again.
    pub async fn run(mut self) {
        let namespace = match &self.scope {
            Scope::All => None,
            Scope::Namespace(namespace) => Some(&**namespace),
        };
        let mut established = self.client.established(&Object::url_path(&(), namespace));
        let mut events = self.events();
        let mut paused_until = None;
        loop {
            tokio::select! {
                // In this order: a watch is established before it brings something, or fails.
                biased;
                Ok(()) = established.changed() => self.status.established(),
                event = events.next(), if paused_until.is_none() => match event {
                    Some(Ok(event)) => self.take(event),
                    Some(Err(error)) => {
                        paused_until = Some(Instant::now() + self.status.failed(&error));
                        if is_expired(&error) {
                            // kube's watcher lists anew where a 410 came as an event. Where it was the answer itself,
                            // it would ask for the same version again, for ever.
                            events = self.events();
                        }
                    }
                    // kube's watcher never ends by itself.
                    None => return,
                },
                () = until(paused_until) => paused_until = None,
                () = until(self.status.deadline()) => self.status.check(),
            }
        }
    }

    /// What the API server has, and what changes there, from the beginning.
    fn events(&self) -> BoxStream<'static, Result<Event<Object>, watcher::Error>> {
        let kube = self.client.kube.clone();
        let api = match &self.scope {
            Scope::All => Api::all(kube),
            Scope::Namespace(namespace) => Api::namespaced(kube, namespace),
        };
        let timeout = u32::try_from(WATCH_TIMEOUT.as_secs()).unwrap_or(u32::MAX);
        let config = watcher::Config::default().labels(&self.selector).page_size(PAGE).timeout(timeout);
        watcher(api, config).boxed()
    }

    fn take(&mut self, event: Event<Object>) {
        match event {
            // Also comes before each failed attempt to list: it is no sign of life.
            Event::Init => self.list = Some(self.store.begin_list(self.scope.clone())),
            Event::InitApply(object) => self.apply(object),
            Event::InitDone => {
                let swept = self.list.take().map_or(0, |list| self.store.finish_list(list));
                self.names.shrink();
                self.status.listed(self.store.size().workflows, swept);
            }
            Event::Apply(object) => {
                self.status.alive();
                self.apply(object);
            }
            Event::Delete(object) => {
                self.status.alive();
                if let (namespace, name, Some(uid)) = object.identity() {
                    self.store.delete(namespace, name, uid);
                }
            }
        }
        if self.list.is_none() {
            let Size { workflows, namespaces } = self.store.size();
            let metrics = &self.client.metrics;
            metrics.workflows.set(i64::try_from(workflows).unwrap_or(i64::MAX));
            metrics.namespaces.set(i64::try_from(namespaces).unwrap_or(i64::MAX));
        }
    }

    fn apply(&mut self, object: Object) {
        match object.into_record(&mut self.names) {
            Ok(workflow) => self.store.apply(workflow),
            Err(error) => self.status.malformed(&error),
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
