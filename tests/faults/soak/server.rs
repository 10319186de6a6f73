//! A server that dies and comes again on its port.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use test_support::{SHUTDOWN, SOON, ServerProcess, free_port};

use super::{books::How, chronicle::Chronicle, memory::Gauge};

/// What subscribers see of a server.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    /// The number of its present or last life, and whether it lives.
    state: Mutex<(usize, bool)>,
}

#[derive(Debug)]
pub(crate) struct Server {
    number: usize,
    door: Arc<Door>,
    kubeconfig: PathBuf,
    metadata_store: String,
    chronicle: Arc<Chronicle>,
    gauge: Arc<Gauge>,
    running: Option<(usize, ServerProcess)>,
    /// What its former lives have logged.
    logs: Vec<String>,
}

impl Door {
    /// Whether a Service would send anybody here.
    pub(crate) fn is_open(&self) -> bool {
        self.state.lock().expect("nothing panics while it is held").1
    }

    /// Who is behind it now, or was last.
    pub(crate) fn life(&self) -> usize {
        self.state.lock().expect("nothing panics while it is held").0
    }

    fn set(&self, life: usize, lives: bool) {
        *self.state.lock().expect("nothing panics while it is held") = (life, lives);
    }
}

impl Server {
    /// One that is not started yet. The gauge is told of its process.
    pub(crate) fn new(
        number: usize,
        kubeconfig: PathBuf,
        metadata_store: String,
        chronicle: Arc<Chronicle>,
        gauge: Arc<Gauge>,
    ) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let door = Arc::new(Door { address, state: Mutex::default() });
        Self { number, door, kubeconfig, metadata_store, chronicle, gauge, running: None, logs: Vec::new() }
    }

    pub(crate) fn door(&self) -> Arc<Door> {
        self.door.clone()
    }

    /// Starts it; returns when it listens, ready or not.
    pub(crate) async fn start(&mut self) {
        let life = self.chronicle.note(|books, _| books.server_started(self.number));
        let listen = format!("--listen={}", self.door.address);
        let program = ServerProcess::start(&self.kubeconfig, &self.metadata_store, &[&listen, "--log-level=info"]);
        program.logged("serving").await;
        self.door.set(life, true);
        self.gauge.follow(Some(program.pid()));
        self.running = Some((life, program));
    }

    /// Ends it, if it runs.
    ///
    /// # Panics
    /// If a shutdown takes longer than it may, or ends with another status than 0.
    pub(crate) async fn stop(&mut self, how: How) {
        let Some((life, mut program)) = self.running.take() else { return };
        self.gauge.follow(None);
        let asked = self.chronicle.now();
        self.door.set(life, false);
        match how {
            How::Killed => program.kill(),
            How::Terminated => {
                program.terminate();
                // The process has its ten seconds; what it takes to see its end is ours.
                let status = program.exited(SHUTDOWN + SOON / 10).await;
                assert_eq!(status.code(), Some(0), "server {}: {}", self.number, program.log());
            }
        }
        self.chronicle.note(|books, gone| books.server_ended(life, how, asked, gone));
        self.logs.push(program.log());
    }

    /// What it has ever logged with this word in it, behind its lives' numbers.
    pub(crate) fn log_of(&self, word: &str) -> Vec<String> {
        let present = self.running.as_ref().map(|(_, process)| process.log());
        let lives = self.logs.iter().cloned().chain(present).enumerate();
        let lines = lives.flat_map(|(n, log)| {
            let lines: Vec<_> = log.lines().filter(|line| line.contains(word)).map(str::to_owned).collect();
            lines.into_iter().map(move |line| format!("server {}, life {n} of it: {line}", self.number))
        });
        lines.collect()
    }
}
