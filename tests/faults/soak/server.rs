//! A server that is stopped and restarted on its port.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use test_support::{SHUTDOWN, SOON, ServerProcess, free_port};

use super::{event_log::EventLog, memory::MemoryMonitor, oracle::StopSignal};

/// The address of a server, with its current process.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    state: Mutex<EndpointState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct EndpointState {
    /// Number of the current or latest process.
    process: usize,
    is_up: bool,
}

#[derive(Debug)]
pub(crate) struct Server {
    number: usize,
    endpoint: Arc<Endpoint>,
    kubeconfig: PathBuf,
    metadata_store: String,
    log: Arc<EventLog>,
    memory: Arc<MemoryMonitor>,
    /// The process with its number.
    running: Option<(usize, ServerProcess)>,
    /// Logs of the earlier processes.
    process_logs: Vec<String>,
}

impl Endpoint {
    /// Returns whether a Service would send connections here.
    pub(crate) fn is_up(&self) -> bool {
        self.state().is_up
    }

    /// Returns the number of the current or latest process.
    pub(crate) fn process(&self) -> usize {
        self.state().process
    }

    fn state(&self) -> EndpointState {
        *self.state.lock().expect("nothing panics while it is held")
    }

    fn set(&self, process: usize, is_up: bool) {
        *self.state.lock().expect("nothing panics while it is held") = EndpointState { process, is_up };
    }
}

impl Server {
    /// A server that is not started yet. `memory` samples its processes.
    pub(crate) fn new(
        number: usize,
        kubeconfig: PathBuf,
        metadata_store: String,
        log: Arc<EventLog>,
        memory: Arc<MemoryMonitor>,
    ) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let endpoint = Arc::new(Endpoint { address, state: Mutex::default() });
        Self { number, endpoint, kubeconfig, metadata_store, log, memory, running: None, process_logs: Vec::new() }
    }

    pub(crate) fn endpoint(&self) -> Arc<Endpoint> {
        self.endpoint.clone()
    }

    /// Starts the server and waits until it listens; it may not be ready then.
    pub(crate) async fn start(&mut self) {
        let number = self.log.record(|oracle, _| oracle.server_started(self.number));
        let listen = format!("--listen={}", self.endpoint.address);
        let process = ServerProcess::start(&self.kubeconfig, &self.metadata_store, &[&listen, "--log-level=info"]);
        process.logged("serving").await;
        self.endpoint.set(number, true);
        self.memory.set_process(Some(process.pid()));
        self.running = Some((number, process));
    }

    /// Stops the server, if it runs.
    ///
    /// # Panics
    /// If a shutdown takes too long, or ends with a status other than 0.
    pub(crate) async fn stop(&mut self, signal: StopSignal) {
        let Some((number, mut process)) = self.running.take() else { return };
        self.memory.set_process(None);
        let signaled = self.log.now();
        self.endpoint.set(number, false);
        match signal {
            StopSignal::Kill => process.kill(),
            StopSignal::Term => {
                process.terminate();
                // The process has its ten seconds, and this test has some for noticing the exit.
                let status = process.exited(SHUTDOWN + SOON / 10).await;
                assert_eq!(status.code(), Some(0), "server {}: {}", self.number, process.log());
            }
        }
        self.log.record(|oracle, exited| oracle.server_stopped(number, signal, signaled, exited));
        self.process_logs.push(process.log());
    }

    /// Returns the lines with this text in the logs of all processes.
    pub(crate) fn log_lines(&self, text: &str) -> Vec<String> {
        let current = self.running.as_ref().map(|(_, process)| process.log());
        let logs = self.process_logs.iter().cloned().chain(current).enumerate();
        let lines = logs.flat_map(|(n, log)| {
            let lines: Vec<_> = log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect();
            lines.into_iter().map(move |line| format!("server {}, start {n}: {line}", self.number))
        });
        lines.collect()
    }
}
