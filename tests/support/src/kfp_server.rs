//! Kubeflow's API of runs and tasks, as Kubeflow Pipelines 3 will serve it. No released server has it yet, so this one
//! follows what its sources say; docs/kfp-test-server.md lists the behavior, and what of it is inferred.

mod runs;
mod service;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prost::Message as _;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::{
    Code,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

pub use self::runs::{KfpArtifact, KfpRun, KfpTask, TaskKind, TaskState};
use crate::kfp_api::{PipelineTask, Run, run_service_server::RunServiceServer};

/// The person or account behind a token of a [`Users::Many`] server.
#[derive(Clone, Debug)]
pub struct KfpUser {
    /// The bearer token.
    pub token: String,
    /// Namespaces whose runs the account may get.
    pub namespaces: Vec<String>,
}

/// The mode of an installation.
#[derive(Clone, Debug)]
pub enum Users {
    /// Requests are not checked, and namespaces are empty.
    One,
    /// Each call is reviewed.
    Many(Vec<KfpUser>),
}

/// A fault of a method.
#[derive(Clone, Copy, Debug)]
pub enum KfpFault {
    /// The call fails with this code.
    Status(Code),
    /// The call is not answered.
    Hang,
    /// The call is answered after this time.
    Delay(Duration),
    /// The tokens of later pages are refused this many times: the server was restarted with another version.
    RestartPaging(usize),
    /// Answers are plain HTTP with this status, as those of a proxy in front of the server.
    Http(u16),
}

/// A call that the server has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KfpCall {
    /// The method.
    pub method: &'static str,
    /// The number of tasks requested, of a `ListTasks`.
    pub page_size: i32,
    /// The header `authorization`.
    pub authorization: Option<String>,
    /// Size of the answer in bytes; 0 if it was an error.
    pub bytes: usize,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    calls: watch::Sender<Vec<KfpCall>>,
}

#[derive(Debug)]
struct State {
    users: Users,
    /// False: a server that does not know tasks.
    has_tasks: bool,
    runs: BTreeMap<String, StoredRun>,
    faults: BTreeMap<&'static str, KfpFault>,
}

#[derive(Debug)]
struct StoredRun {
    namespace: String,
    workflow: String,
    run: Run,
    tasks: Vec<PipelineTask>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct KfpServer {
    /// The address of gRPC.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl KfpServer {
    /// Starts a server for one user.
    pub async fn start() -> Self {
        Self::start_for(Users::One, None).await
    }

    /// Starts a server for these users, with TLS if there is a certificate.
    pub async fn start_for(users: Users, tls: Option<Identity>) -> Self {
        let state = State { users, has_tasks: true, runs: BTreeMap::new(), faults: BTreeMap::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), calls: watch::Sender::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut server = Server::builder();
        if let Some(identity) = tls {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).expect("a certificate");
        }
        let service = service::Faulty {
            inner: RunServiceServer::new(service::Service(shared.clone())).max_encoding_message_size(usize::MAX),
            shared: shared.clone(),
        };
        let served = server.add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { served.await.expect("it serves") });
        Self { address, shared, task }
    }

    /// The URL without TLS.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces the server by one of a version with or without tasks: an upgrade, or a return.
    pub fn set_has_tasks(&self, has_tasks: bool) {
        self.shared.lock().has_tasks = has_tasks;
    }

    /// Injects a fault into a method, or none.
    pub fn set_fault(&self, method: &'static str, fault: Option<KfpFault>) {
        let mut state = self.shared.lock();
        match fault {
            Some(fault) => state.faults.insert(method, fault),
            None => state.faults.remove(method),
        };
    }

    /// Returns the calls since the last time, and forgets them.
    pub fn calls(&self) -> Vec<KfpCall> {
        self.shared.calls.send_replace(Vec::new())
    }

    /// Waits until a call of this method was received.
    ///
    /// # Panics
    /// If there is none in time.
    pub async fn until_called(&self, method: &str) {
        let mut calls = self.shared.calls.subscribe();
        let called = calls.wait_for(|calls| calls.iter().any(|call| call.method == method));
        tokio::time::timeout(crate::CATCH_UP, called).await.expect("a call in time").expect("the server runs");
    }

    /// Stores a run, with a task for itself, as the first driver does.
    pub fn put_run(&self, run: &KfpRun) {
        self.shared.lock().put_run(run);
    }

    /// Stores a task of a run, as its driver and its launcher do. Returns its id.
    ///
    /// # Panics
    /// If the run does not exist.
    pub fn put_task(&self, run_id: &str, task: KfpTask) -> String {
        self.shared.lock().put_task(run_id, task)
    }

    /// Changes the state of a task, and the models of its outputs with it.
    ///
    /// # Panics
    /// If there is no such task.
    pub fn set_state(&self, task_id: &str, state: TaskState) {
        let mut stored = self.shared.lock();
        let mut tasks = stored.runs.values_mut().flat_map(|run| &mut run.tasks);
        tasks.find(|task| task.task_id == task_id).expect("the task exists").set_state(state);
    }

    /// Loses its database.
    pub fn forget_runs(&self) {
        self.shared.lock().runs.clear();
    }

    /// Returns the size of a run's tasks in bytes.
    pub fn bytes_of(&self, run_id: &str) -> usize {
        self.shared.lock().runs[run_id].tasks.iter().map(PipelineTask::encoded_len).sum()
    }
}

impl Drop for KfpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
