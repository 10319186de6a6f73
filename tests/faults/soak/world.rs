//! The neighbours, the servers, and the faults made to happen to them.

use std::{collections::BTreeSet, ops::Deref, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::{
    core::DynamicObject,
    runtime::watcher::{self, Event, watcher},
};
use model_update_eventsource::model::workflow::MARK_PREFIX;
use test_support::{Cluster, Grant, MetadataStore, Peers, SOON, ServiceAccount, Task, Workflows, eventually, rule};
use tokio::{
    sync::{Mutex, RwLock, RwLockReadGuard, mpsc},
    time::{MissedTickBehavior, interval},
};

use super::{
    books::{Delivery, How},
    chronicle::Chronicle,
    memory::Gauge,
    plan::{FaultKind, Lane, NAMESPACES, SERVERS, SUBSCRIBERS, Target},
    server::Server,
    subscriber::Blow,
};

/// How often the observer asks again for a watch that was refused it.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Whoever writes to a neighbour holds it for reading; a fault holds it for writing. So nobody but the servers sees a
/// neighbour that is away, as a Workflow cannot change while there is no API server.
pub(crate) struct World {
    pub(crate) chronicle: Arc<Chronicle>,
    pub(crate) namespaces: Vec<String>,
    store: RwLock<MetadataStore>,
    /// A pipeline's contexts are made by the first run that asks for them.
    writing: Mutex<()>,
    pub(crate) servers: Vec<Mutex<Server>>,
    /// Of the first server's memory.
    pub(crate) gauge: Arc<Gauge>,
    cluster: RwLock<Cluster>,
    account: ServiceAccount,
    grant: Mutex<Option<Grant>>,
}

/// The Workflows of a namespace, and the right to use the API server for as long as this is held.
pub(crate) struct Reachable<'a>(Workflows, #[expect(dead_code, reason = "held")] RwLockReadGuard<'a, Cluster>);

impl Deref for Reachable<'_> {
    type Target = Workflows;
    fn deref(&self) -> &Workflows {
        &self.0
    }
}

fn rights() -> Vec<PolicyRule> {
    vec![rule("argoproj.io", "workflows", &["list", "watch", "patch"])]
}

impl World {
    /// The neighbours run, the servers do not yet.
    pub(crate) async fn start(peers: &Peers) -> Self {
        let cluster = peers.private_cluster().await;
        let store = peers.metadata_store().await;
        let mut namespaces = Vec::new();
        for n in 0..NAMESPACES {
            namespaces.push(cluster.namespace(&format!("team-{n}")).await);
        }
        let home = cluster.namespace("home").await;
        let account = cluster.service_account(&home, "server").await;
        let grant = cluster.grant(&account, None, rights()).await;
        let kubeconfig = cluster.kubeconfig_file(&cluster.token(&account, &[]).await);
        let chronicle = Arc::new(Chronicle::new());
        let gauge = Arc::new(Gauge::default());
        let server = |number| {
            let gauge = if number == 0 { gauge.clone() } else { Arc::default() };
            Mutex::new(Server::new(number, kubeconfig.clone(), store.url(), chronicle.clone(), gauge))
        };
        Self {
            servers: (0..SERVERS).map(server).collect(),
            chronicle,
            gauge,
            namespaces,
            store: RwLock::new(store),
            writing: Mutex::default(),
            cluster: RwLock::new(cluster),
            account,
            grant: Mutex::new(Some(grant)),
        }
    }

    /// The Workflows of this namespace, as soon as there is an API server.
    pub(crate) async fn workflows(&self, namespace: &str) -> Reachable<'_> {
        let cluster = self.cluster.read().await;
        Reachable(cluster.workflows(namespace).await, cluster)
    }

    /// Writes a run with one task down, as soon as there is an ML Metadata.
    pub(crate) async fn record(&self, pipeline: &str, workflow: &str, task: Task) {
        let store = self.store.read().await;
        let _writing = self.writing.lock().await;
        store.writer().await.tfx_run(pipeline, workflow).await.task(task).await;
    }

    /// Makes the faults of one lane happen, one after the other; each is healed before the next.
    pub(crate) async fn suffer(&self, lane: &Lane, subscribers: &[mpsc::Sender<Blow>]) {
        for fault in &lane.faults {
            self.chronicle.at(fault.at).await;
            match lane.target {
                Target::ApiServer => self.api_server(fault.kind, fault.lasts).await,
                Target::MetadataStore => self.metadata_store(fault.kind, fault.lasts).await,
                Target::Server(number) => self.server(number, fault.kind, fault.lasts).await,
                Target::Subscriber(number) => {
                    let blow = Blow { kind: fault.kind, lasts: fault.lasts };
                    subscribers[number].send(blow).await.expect("the subscriber is there");
                }
            }
        }
    }

    async fn api_server(&self, fault: FaultKind, lasts: Duration) {
        let chronicle = &self.chronicle;
        if fault == FaultKind::RightsWithdrawn {
            let cluster = self.cluster.read().await;
            let mut grant = self.grant.lock().await;
            chronicle.note(|books, now| books.trouble_begins(now));
            cluster.revoke(grant.take().expect("it has its rights")).await;
            chronicle.after(lasts).await;
            *grant = Some(cluster.grant(&self.account, None, rights()).await);
            return chronicle.note(|books, now| books.trouble_ends(now));
        }
        let mut cluster = self.cluster.write().await;
        chronicle.note(|books, now| books.trouble_begins(now));
        if fault == FaultKind::Paused {
            cluster.pause_api_server();
            chronicle.after(lasts).await;
            cluster.resume_api_server();
        } else {
            cluster.kill_api_server();
            if fault == FaultKind::KilledAndCompacted {
                cluster.compact_etcd().await;
            }
            chronicle.after(lasts).await;
            cluster.start_api_server().await;
        }
        // Ready is not yet ready for custom resources.
        let workflows = cluster.workflows(&self.namespaces[0]).await;
        eventually(SOON, "Workflows are served", async || workflows.api().list(&Default::default()).await).await;
        chronicle.note(|books, now| books.trouble_ends(now));
    }

    async fn metadata_store(&self, fault: FaultKind, lasts: Duration) {
        let mut store = self.store.write().await;
        if fault == FaultKind::Paused {
            store.pause();
            self.chronicle.after(lasts).await;
            store.resume();
        } else {
            store.kill();
            self.chronicle.after(lasts).await;
            store.restart().await;
        }
    }

    async fn server(&self, number: usize, fault: FaultKind, lasts: Duration) {
        let mut server = self.servers[number].lock().await;
        server.stop(if fault == FaultKind::Killed { How::Killed } else { How::Terminated }).await;
        self.chronicle.after(lasts).await;
        server.start().await;
    }

    /// Writes down when which mark in this namespace was seen first, for ever.
    pub(crate) async fn observe(&self, namespace: usize) {
        let workflows = self.workflows(&self.namespaces[namespace]).await.api().clone();
        let mut ticks = interval(ASK_AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // After an error it begins anew: a version that is too old would be asked for again and again.
            let mut events = std::pin::pin!(watcher(workflows.clone(), watcher::Config::default()));
            while let Some(Ok(event)) = events.next().await {
                if let Event::Apply(workflow) | Event::InitApply(workflow) = event {
                    for delivery in marks(&workflow, namespace) {
                        self.chronicle.note(|books, now| books.marked(delivery, now));
                    }
                }
            }
        }
    }

    /// Those that are marked now, and the names of all Workflows of the namespace.
    pub(crate) async fn marked(&self, namespace: usize) -> (BTreeSet<Delivery>, BTreeSet<String>) {
        let workflows = self.workflows(&self.namespaces[namespace]).await;
        let list = workflows.api().list(&Default::default()).await.expect("a list").items;
        let names = list.iter().filter_map(|workflow| workflow.metadata.name.clone());
        (list.iter().flat_map(|workflow| marks(workflow, namespace)).collect(), names.collect())
    }

    /// What the servers have logged about this Workflow.
    pub(crate) async fn log_of(&self, workflow: &str) -> String {
        let mut lines = Vec::new();
        for server in &self.servers {
            lines.extend(server.lock().await.log_of(&format!("{workflow}\"")));
        }
        lines.join("\n")
    }
}

/// Which deliveries the marks of a Workflow in this namespace stand for.
fn marks(workflow: &DynamicObject, namespace: usize) -> Vec<Delivery> {
    let name = workflow.metadata.name.as_deref().unwrap_or_default();
    let Some(run) = name.strip_prefix("run-").and_then(|number| number.parse().ok()) else { return Vec::new() };
    let annotations = workflow.metadata.annotations.iter().flatten();
    let own = annotations.filter(|(_, value)| workflow.metadata.uid.as_ref() == Some(*value));
    let subscriptions = own.filter_map(|(key, _)| key.strip_prefix(MARK_PREFIX));
    let subscriber = |name| SUBSCRIBERS.iter().position(|subscriber| (subscriber.0, subscriber.1) == (namespace, name));
    subscriptions.filter_map(subscriber).map(|subscriber| (subscriber, run)).collect()
}
