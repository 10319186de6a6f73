//! A real ML Metadata store: the implementation of version 1.17.1 on SQLite, behind a gRPC server.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use tonic::transport::{Channel, Endpoint};

use super::{Peers, START, Writer, eventually, ports::free_port, process::Neighbour};

/// What the server prints once it serves.
const LISTENING: &str = "listening on 127.0.0.1:";

impl Peers {
    /// A store of the test's own, empty.
    pub async fn metadata_store(&self) -> MetadataStore {
        MetadataStore::start(self).await
    }
}

/// A running (or killed) store.
#[derive(Debug)]
pub struct MetadataStore {
    process: Neighbour,
    program: PathBuf,
    port: u16,
}

impl MetadataStore {
    /// Starts an empty one on a free port.
    pub async fn start(peers: &Peers) -> Self {
        let program = peers.program("mlmd");
        let mut store = Self { process: Neighbour::new("mlmd", program.clone()), program, port: free_port() };
        store.launch().await;
        store
    }

    /// `http://127.0.0.1:PORT`, as for `--metadata-store`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A connection for the caller's own calls.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.url()).expect("a URL");
        endpoint.connect().await.expect("the store listens")
    }

    /// What writes runs into it, through its own API.
    pub async fn writer(&self) -> Writer {
        Writer::new(self.channel().await)
    }

    /// SIGKILL; what was written stays.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGSTOP: connections are accepted and calls hang.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Starts it again where it was (killed first, if it still runs), with what was written or `empty`, as after the
    /// loss of its database.
    pub async fn restart_same_port(&mut self, empty: bool) {
        self.process.kill();
        if empty {
            fs::remove_file(self.database()).expect("the database was there");
        }
        self.launch().await;
    }

    /// Makes an execution older. The server always writes its own time of creation, so this goes to the database.
    pub fn backdate(&self, execution: i64, by: Duration) {
        let update = "import sqlite3, sys\n\
            with sqlite3.connect(sys.argv[1], timeout=10) as database:\n    \
                done = database.execute('UPDATE Execution SET create_time_since_epoch = create_time_since_epoch - ? \
                    WHERE id = ?', (int(sys.argv[2]), int(sys.argv[3])))\n\
            sys.exit(done.rowcount != 1)\n";
        let python = self.program.with_file_name("venv").join("bin/python");
        let mut command = Command::new(python);
        command.args(["-c", update]).arg(self.database()).arg(by.as_millis().to_string()).arg(execution.to_string());
        assert!(command.status().expect("Python starts").success(), "execution {execution} cannot be made older");
    }

    fn database(&self) -> PathBuf {
        self.process.folder().join("metadata.sqlite")
    }

    async fn launch(&mut self) {
        let database = self.database().display().to_string();
        self.process.set_args(["--database".to_owned(), database, "--port".to_owned(), self.port.to_string()]);
        self.process.start();
        eventually(START, "ML Metadata listens", async || {
            assert!(self.process.is_running(), "ML Metadata ends as soon as it starts: {}", self.process.log());
            self.process.log().contains(LISTENING)
        })
        .await;
    }
}
