//! A subscriber with grpc-go, the library with which Argo Events dials; see `go/grpc-client`.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::ChildStdout,
    time::Duration,
};

use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Peers, process::Neighbour};

/// What the subscriber says, as it happens.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// The server has accepted the stream: its response headers are here.
    Open(bool),
    /// An event was read by the application (not merely by its HTTP/2 stack).
    Event {
        /// `Event.name`.
        name: String,
        /// `Event.payload`, as text.
        payload: String,
    },
    /// The stream has ended, with this gRPC status.
    Status {
        /// As grpc-go writes it: `OK`, `InvalidArgument`, `Unavailable`…
        code: String,
        /// The server's message.
        message: String,
    },
}

/// A subscriber to be started.
#[derive(Debug)]
pub struct Subscribe {
    process: Neighbour,
    args: Vec<String>,
}

impl Peers {
    /// A subscriber that will dial `server` with this `EventSource.config`, under the name `model-update`.
    pub fn grpc_go_client(&self, server: SocketAddr, config: &str) -> Subscribe {
        let process = Neighbour::new("grpc-client", self.program("grpc-client"));
        let args = vec!["subscribe".to_owned(), format!("--addr={server}"), format!("--config={config}")];
        Subscribe { process, args }
    }
}

impl Subscribe {
    /// Under another `EventSource.name`.
    pub fn name(self, name: &str) -> Self {
        self.flag("name", name)
    }

    /// With a bearer token, sent over plaintext too.
    pub fn token(self, token: &str) -> Self {
        self.flag("token", token)
    }

    /// With another initial flow-control window; grpc-go ignores less than 65,536 octets.
    pub fn window(self, octets: u32) -> Self {
        self.flag("window", &octets.to_string())
    }

    /// It cancels the stream after so many events.
    pub fn count(self, events: usize) -> Self {
        self.flag("count", &events.to_string())
    }

    /// Over TLS, trusting what this PEM file has signed for `name`.
    pub fn tls(self, ca: &Path, name: &str) -> Self {
        self.flag("ca", &ca.display().to_string()).flag("server-name", name)
    }

    fn flag(mut self, flag: &str, value: &str) -> Self {
        self.args.push(format!("--{flag}={value}"));
        self
    }

    /// Starts it.
    pub fn start(mut self) -> GrpcGoClient {
        self.process.set_args(self.args);
        let stdout = self.process.start_piped();
        let (sender, lines) = mpsc::unbounded_channel();
        // A thread rather than a task: no runtime has to turn for the pipe to be read.
        std::thread::spawn(move || forward(stdout, &sender));
        GrpcGoClient { process: self.process, lines }
    }
}

/// Ends with the process, or when nobody listens any more.
fn forward(stdout: ChildStdout, sender: &mpsc::UnboundedSender<Line>) {
    for text in BufReader::new(stdout).lines() {
        let text = text.expect("the pipe can be read");
        let line = serde_json::from_str(&text).unwrap_or_else(|error| panic!("grpc-client wrote {text}: {error}"));
        if sender.send(line).is_err() {
            return;
        }
    }
}

/// A running subscriber.
#[derive(Debug)]
pub struct GrpcGoClient {
    process: Neighbour,
    lines: mpsc::UnboundedReceiver<Line>,
}

impl GrpcGoClient {
    /// What it says next; `None` when it has ended.
    ///
    /// # Panics
    /// If it says nothing within the deadline.
    #[track_caller]
    pub fn next(&mut self, deadline: Duration) -> impl Future<Output = Option<Line>> {
        let caller = std::panic::Location::caller();
        async move {
            let next = tokio::time::timeout(deadline, self.lines.recv()).await;
            next.unwrap_or_else(|_| panic!("the subscriber said nothing within {deadline:?} (at {caller})"))
        }
    }

    /// The payload of the next event; the opening of the stream before it is passed over.
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

    /// What it has said by now and nobody has taken.
    pub fn said(&mut self) -> Vec<Line> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }

    /// SIGSTOP: its kernel goes on acknowledging what comes, and nobody reads it.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
