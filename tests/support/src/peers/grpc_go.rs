//! A subscriber with grpc-go, the client library of Argo Events; see `tests/peers/go/grpc-client`.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::ChildStdout,
    time::Duration,
};

use serde::Deserialize;
use tokio::sync::mpsc;

use super::Peers;
use crate::ChildProcess;

/// An output line of the subscriber.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// The server has accepted the stream: the response headers have arrived.
    Open(bool),
    /// The application (not only its HTTP/2 stack) has read an event.
    Event {
        /// `Event.name`.
        name: String,
        /// `Event.payload`, as text.
        payload: String,
    },
    /// The stream has ended with this gRPC status.
    Status {
        /// The code in grpc-go's spelling: `OK`, `InvalidArgument`, `Unavailable`…
        code: String,
        /// The server's message.
        message: String,
    },
}

/// A subscriber that is not started yet.
#[derive(Debug)]
pub struct Subscribe {
    process: ChildProcess,
    args: Vec<String>,
}

impl Peers {
    /// Returns a subscriber of this server with this `EventSource.config` and the name `model-update`.
    pub fn grpc_go_client(&self, server: SocketAddr, config: &str) -> Subscribe {
        let process = ChildProcess::new("grpc-client", self.program("grpc-client"));
        let args = vec!["subscribe".to_owned(), format!("--addr={server}"), format!("--config={config}")];
        Subscribe { process, args }
    }
}

impl Subscribe {
    /// Sets `EventSource.name`.
    pub fn name(self, name: &str) -> Self {
        self.flag("name", name)
    }

    /// Sets a bearer token, which is sent in plaintext.
    pub fn token(self, token: &str) -> Self {
        self.flag("token", token)
    }

    /// Sets the initial flow-control window; grpc-go ignores less than 65,536 bytes.
    pub fn window(self, bytes: u32) -> Self {
        self.flag("window", &bytes.to_string())
    }

    /// Makes the subscriber cancel the stream after this number of events.
    pub fn count(self, events: usize) -> Self {
        self.flag("count", &events.to_string())
    }

    fn flag(mut self, flag: &str, value: &str) -> Self {
        self.args.push(format!("--{flag}={value}"));
        self
    }

    /// Starts the subscriber.
    pub fn start(mut self) -> GrpcGoClient {
        self.process.set_args(self.args);
        let stdout = self.process.start_piped();
        let (sender, lines) = mpsc::unbounded_channel();
        // A thread rather than a task: the pipe is read although the runtime is busy.
        std::thread::spawn(move || forward(stdout, &sender));
        GrpcGoClient { process: self.process, lines }
    }
}

/// Forwards lines until the process ends or the receiver is dropped.
fn forward(stdout: ChildStdout, sender: &mpsc::UnboundedSender<Line>) {
    for text in BufReader::new(stdout).lines() {
        let text = text.expect("the pipe is readable");
        let line = serde_json::from_str(&text).unwrap_or_else(|error| panic!("grpc-client wrote {text}: {error}"));
        if sender.send(line).is_err() {
            return;
        }
    }
}

/// A running subscriber.
#[derive(Debug)]
pub struct GrpcGoClient {
    process: ChildProcess,
    lines: mpsc::UnboundedReceiver<Line>,
}

impl GrpcGoClient {
    /// Returns the next line, or `None` if the process has ended.
    ///
    /// # Panics
    /// If there is none within the deadline.
    #[track_caller]
    pub fn next(&mut self, deadline: Duration) -> impl Future<Output = Option<Line>> {
        let caller = std::panic::Location::caller();
        async move {
            let next = tokio::time::timeout(deadline, self.lines.recv()).await;
            next.unwrap_or_else(|_| panic!("no line of the subscriber within {deadline:?} (at {caller})"))
        }
    }

    /// Returns the payload of the next event and skips [`Line::Open`].
    ///
    /// # Panics
    /// If there is none within the deadline, or the stream ends.
    #[track_caller]
    pub fn payload(&mut self, deadline: Duration) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            loop {
                match self.next(deadline).await {
                    Some(Line::Open(_)) => {}
                    Some(Line::Event { payload, .. }) => return payload,
                    other => panic!("instead of an event (at {caller}): {other:?}"),
                }
            }
        }
    }

    /// Returns the lines that have been read already.
    pub fn buffered(&mut self) -> Vec<Line> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }

    /// Sends SIGSTOP: the kernel still acknowledges what arrives, and no process reads it.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
