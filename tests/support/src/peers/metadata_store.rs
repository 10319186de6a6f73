//! ML Metadata 1.17.1 on SQLite, behind a gRPC server; see `tests/peers/mlmd`.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use tonic::transport::Endpoint;

use super::{Peers, START, Writer};
use crate::{ChildProcess, eventually, free_port};

/// The log line of a server that listens.
const LISTENING: &str = "listening on 127.0.0.1:";

impl Peers {
    /// Starts an empty store.
    pub async fn metadata_store(&self) -> MetadataStore {
        let program = self.program("mlmd");
        let process = ChildProcess::new("mlmd", program.clone());
        let mut store = MetadataStore { process, program, port: free_port() };
        store.start().await;
        store
    }
}

/// A running or killed store.
#[derive(Debug)]
pub struct MetadataStore {
    process: ChildProcess,
    program: PathBuf,
    port: u16,
}

impl MetadataStore {
    /// `http://127.0.0.1:PORT`, for `--metadata-store`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Connects a client that writes runs through the store's API.
    pub async fn writer(&self) -> Writer {
        let endpoint = Endpoint::from_shared(self.url()).expect("a URL");
        Writer::new(endpoint.connect().await.expect("the store listens"))
    }

    /// Sends SIGKILL; the database stays.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Sends SIGSTOP: connections are accepted and calls hang.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Kills the store if it runs, and restarts it on its port with its database.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.start().await;
    }

    /// Kills the store if it runs, and restarts it on its port after the loss of its database.
    pub async fn restart_empty(&mut self) {
        self.process.kill();
        fs::remove_file(self.database()).expect("a database");
        self.start().await;
    }

    /// Changes an execution's creation time in the database: the server always writes its own time.
    pub fn backdate(&self, execution: i64, by: Duration) {
        let update = "import sqlite3, sys\n\
            with sqlite3.connect(sys.argv[1], timeout=10) as database:\n    \
                done = database.execute('UPDATE Execution SET create_time_since_epoch = create_time_since_epoch - ? \
                    WHERE id = ?', (int(sys.argv[2]), int(sys.argv[3])))\n\
            sys.exit(done.rowcount != 1)\n";
        let python = self.program.with_file_name("venv").join("bin/python");
        let mut command = Command::new(python);
        command.args(["-c", update]).arg(self.database()).arg(by.as_millis().to_string()).arg(execution.to_string());
        assert!(command.status().expect("Python starts").success(), "execution {execution} cannot be backdated");
    }

    fn database(&self) -> PathBuf {
        self.process.folder().join("metadata.sqlite")
    }

    async fn start(&mut self) {
        let database = self.database().display().to_string();
        self.process.set_args(["--database".to_owned(), database, "--port".to_owned(), self.port.to_string()]);
        self.process.start();
        eventually(START, "ML Metadata listens", async || {
            assert!(self.process.is_running(), "ML Metadata has ended: {}", self.process.log());
            self.process.log().contains(LISTENING)
        })
        .await;
    }
}
