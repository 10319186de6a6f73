//! The peers and servers of a soak, and the faults that are injected into them.

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
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    event_log::EventLog,
    memory::MemoryMonitor,
    oracle::{Delivery, StopSignal},
    plan::{Fault, FaultKind, NAMESPACES, SERVERS, SUBSCRIBERS, Schedule, Target},
    server::Server,
};

/// Minimum interval between two watches of the observer.
const REWATCH: Duration = Duration::from_millis(100);

/// The environment of a soak.
///
/// A task that uses a peer holds its lock for reading, a fault for writing. So a fault affects the servers only: the
/// runs wait until it has ended.
pub(crate) struct SoakEnv {
    pub(crate) log: Arc<EventLog>,
    pub(crate) namespaces: Vec<String>,
    store: RwLock<MetadataStore>,
    /// Held while a run is written: concurrent first runs of a pipeline would create its contexts twice.
    writing: Mutex<()>,
    pub(crate) servers: Vec<Mutex<Server>>,
    /// Memory of the first server.
    pub(crate) memory: Arc<MemoryMonitor>,
    cluster: RwLock<Cluster>,
    account: ServiceAccount,
    grant: Mutex<Option<Grant>>,
}

/// The Workflows of a namespace. The API server is reachable while this is held.
pub(crate) struct ReachableWorkflows<'a> {
    workflows: Workflows,
    _cluster: RwLockReadGuard<'a, Cluster>,
}

impl Deref for ReachableWorkflows<'_> {
    type Target = Workflows;
    fn deref(&self) -> &Workflows {
        &self.workflows
    }
}

/// The permissions of the servers.
fn permissions() -> Vec<PolicyRule> {
    vec![rule("argoproj.io", "workflows", &["list", "watch", "patch"])]
}

impl SoakEnv {
    /// Starts the peers. The servers are not started yet.
    pub(crate) async fn start(peers: &Peers) -> Self {
        let cluster = peers.private_cluster().await;
        let store = peers.metadata_store().await;
        let mut namespaces = Vec::new();
        for n in 0..NAMESPACES {
            namespaces.push(cluster.namespace(&format!("team-{n}")).await);
        }
        let home = cluster.namespace("home").await;
        let account = cluster.service_account(&home, "server").await;
        let grant = cluster.grant(&account, None, permissions()).await;
        let kubeconfig = cluster.kubeconfig_file(&cluster.token(&account, &[]).await);
        let log = Arc::new(EventLog::new());
        let memory = Arc::new(MemoryMonitor::default());
        let server = |number| {
            let memory = if number == 0 { memory.clone() } else { Arc::default() };
            Mutex::new(Server::new(number, kubeconfig.clone(), store.url(), log.clone(), memory))
        };
        Self {
            servers: (0..SERVERS).map(server).collect(),
            log,
            memory,
            namespaces,
            store: RwLock::new(store),
            writing: Mutex::default(),
            cluster: RwLock::new(cluster),
            account,
            grant: Mutex::new(Some(grant)),
        }
    }

    /// Returns the Workflows of a namespace, as soon as the API server has no fault.
    pub(crate) async fn workflows(&self, namespace: &str) -> ReachableWorkflows<'_> {
        let cluster = self.cluster.read().await;
        ReachableWorkflows { workflows: cluster.workflows(namespace).await, _cluster: cluster }
    }

    /// Writes a run with one task to ML Metadata, as soon as the store has no fault.
    pub(crate) async fn write_task(&self, pipeline: &str, workflow: &str, task: Task) {
        let store = self.store.read().await;
        let _writing = self.writing.lock().await;
        store.writer().await.tfx_run(pipeline, workflow).await.task(task).await;
    }

    /// Injects the faults of a schedule one after the other.
    pub(crate) async fn inject(&self, schedule: &Schedule, subscribers: &[mpsc::Sender<Fault>]) {
        for &fault in &schedule.faults {
            self.log.sleep_until(fault.at).await;
            match schedule.target {
                Target::ApiServer => self.inject_into_api_server(fault).await,
                Target::MetadataStore => self.inject_into_metadata_store(fault).await,
                Target::Server(number) => self.inject_into_server(number, fault).await,
                Target::Subscriber(number) => subscribers[number].send(fault).await.expect("the subscriber runs"),
            }
        }
    }

    async fn inject_into_api_server(&self, fault: Fault) {
        if fault.kind == FaultKind::PermissionsWithdrawn {
            let cluster = self.cluster.read().await;
            let mut grant = self.grant.lock().await;
            self.log.record(|oracle, now| oracle.outage_started(now));
            cluster.revoke(grant.take().expect("permissions")).await;
            sleep(fault.duration).await;
            *grant = Some(cluster.grant(&self.account, None, permissions()).await);
            return self.log.record(|oracle, now| oracle.outage_ended(now));
        }
        let mut cluster = self.cluster.write().await;
        self.log.record(|oracle, now| oracle.outage_started(now));
        if fault.kind == FaultKind::Paused {
            cluster.pause_api_server();
            sleep(fault.duration).await;
            cluster.resume_api_server();
        } else {
            cluster.kill_api_server();
            if fault.kind == FaultKind::KilledAndCompacted {
                cluster.compact_etcd().await;
            }
            sleep(fault.duration).await;
            cluster.start_api_server().await;
        }
        // A ready API server may not serve custom resources yet.
        let workflows = cluster.workflows(&self.namespaces[0]).await;
        eventually(SOON, "Workflows are served", async || workflows.api().list(&Default::default()).await).await;
        self.log.record(|oracle, now| oracle.outage_ended(now));
    }

    async fn inject_into_metadata_store(&self, fault: Fault) {
        let mut store = self.store.write().await;
        if fault.kind == FaultKind::Paused {
            store.pause();
            sleep(fault.duration).await;
            store.resume();
        } else {
            store.kill();
            sleep(fault.duration).await;
            store.restart().await;
        }
    }

    async fn inject_into_server(&self, number: usize, fault: Fault) {
        let mut server = self.servers[number].lock().await;
        server.stop(if fault.kind == FaultKind::Killed { StopSignal::Kill } else { StopSignal::Term }).await;
        sleep(fault.duration).await;
        server.start().await;
    }

    /// Records when each mark in a namespace is first seen. Does not return.
    pub(crate) async fn observe_marks(&self, namespace: usize) {
        let workflows = self.workflows(&self.namespaces[namespace]).await.api().clone();
        let mut ticks = interval(REWATCH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A new watcher after each error: a watcher may retry an expired version again and again.
            let mut events = std::pin::pin!(watcher(workflows.clone(), watcher::Config::default()));
            while let Some(Ok(event)) = events.next().await {
                if let Event::Apply(workflow) | Event::InitApply(workflow) = event {
                    for delivery in marks(&workflow, namespace) {
                        self.log.record(|oracle, now| oracle.marked(delivery, now));
                    }
                }
            }
        }
    }

    /// Returns the marked deliveries of a namespace, and the names of its Workflows.
    pub(crate) async fn marked(&self, namespace: usize) -> (BTreeSet<Delivery>, BTreeSet<String>) {
        let workflows = self.workflows(&self.namespaces[namespace]).await;
        let list = workflows.api().list(&Default::default()).await.expect("a list").items;
        let names = list.iter().filter_map(|workflow| workflow.metadata.name.clone());
        (list.iter().flat_map(|workflow| marks(workflow, namespace)).collect(), names.collect())
    }

    /// Returns the log lines of all servers about a Workflow.
    pub(crate) async fn server_log(&self, workflow: &str) -> String {
        let mut lines = Vec::new();
        for server in &self.servers {
            lines.extend(server.lock().await.log_lines(&format!("{workflow}\"")));
        }
        lines.join("\n")
    }
}

/// Returns the deliveries for which a Workflow in this namespace has marks.
fn marks(workflow: &DynamicObject, namespace: usize) -> Vec<Delivery> {
    let name = workflow.metadata.name.as_deref().unwrap_or_default();
    let Some(run) = name.strip_prefix("run-").and_then(|number| number.parse().ok()) else { return Vec::new() };
    let annotations = workflow.metadata.annotations.iter().flatten();
    let own = annotations.filter(|(_, value)| workflow.metadata.uid.as_ref() == Some(*value));
    let subscriptions = own.filter_map(|(key, _)| key.strip_prefix(MARK_PREFIX));
    let subscriber = |subscription| {
        SUBSCRIBERS.iter().position(|spec| (spec.namespace, spec.subscription) == (namespace, subscription))
    };
    subscriptions.filter_map(subscriber).map(|subscriber| Delivery { subscriber, run }).collect()
}
