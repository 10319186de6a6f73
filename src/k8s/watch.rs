//! The reflector's loop: one watch of Workflow metadata that keeps the store in step with the API server.

mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::{StreamExt, future::OptionFuture, stream::BoxStream};
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

/// The size of a list page, in Workflows. A page is held in memory as a whole.
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
    /// A watch of the Workflows in `scope` that match the label selector. It blocks `readiness` until the first list is
    /// complete, and again while the watch has been failing for two minutes.
    pub fn new(client: Client, scope: Scope, selector: String, store: Arc<Store>, readiness: &Readiness) -> Self {
        let status = Status::new(&scope, readiness, client.metrics.clone());
        Self { client, scope, selector, store, names: Names::default(), list: None, status }
    }

    /// Watches until it is dropped. Every error is retried.
    pub async fn run(mut self) {
        let mut established = self.client.established(&Object::url_path(&(), namespace_of(&self.scope)));
        let mut events = self.events();
        let mut paused_until = None;
        loop {
            tokio::select! {
                // In this order: a watch is established before it delivers an event, or fails.
                biased;
                Ok(()) = established.changed() => self.status.established(),
                event = events.next(), if paused_until.is_none() => match event {
                    Some(Ok(event)) => self.handle_event(event),
                    Some(Err(error)) => {
                        paused_until = Some(Instant::now() + self.status.failed(&error));
                        if is_expired(&error) {
                            // kube's watcher lists again after a 410 in the stream. After a 410 as the answer it would
                            // ask for the same version forever.
                            events = self.events();
                        }
                    }
                    // kube's watcher has no end.
                    None => return,
                },
                Some(()) = OptionFuture::from(paused_until.map(sleep_until)) => paused_until = None,
                Some(()) = OptionFuture::from(self.status.deadline().map(sleep_until)) => self.status.check(),
            }
        }
    }

    /// A list of the Workflows, and then their changes.
    fn events(&self) -> BoxStream<'static, Result<Event<Object>, watcher::Error>> {
        let kube = self.client.kube.clone();
        let api = match namespace_of(&self.scope) {
            None => Api::all(kube),
            Some(namespace) => Api::namespaced(kube, namespace),
        };
        let timeout = u32::try_from(WATCH_TIMEOUT.as_secs()).expect("a watch lasts for seconds");
        let config = watcher::Config::default().labels(&self.selector).page_size(PAGE).timeout(timeout);
        watcher(api, config).boxed()
    }

    fn handle_event(&mut self, event: Event<Object>) {
        match event {
            // Also precedes each failed attempt to list, so it is no sign of recovery.
            Event::Init => self.list = Some(self.store.begin_list(self.scope.clone())),
            Event::InitApply(object) => self.apply(object),
            Event::InitDone => {
                let removed = self.list.take().map_or(0, |list| self.store.finish_list(list));
                self.names.shrink();
                self.status.listed(self.store.size().workflows, removed);
            }
            Event::Apply(object) => {
                self.status.received();
                self.apply(object);
            }
            Event::Delete(object) => {
                self.status.received();
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

fn namespace_of(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::All => None,
        Scope::Namespace(namespace) => Some(namespace),
    }
}
