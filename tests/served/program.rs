//! The program as its users start it, before real neighbours.
#![allow(dead_code, reason = "every test binary compiles this module and uses a part of it")]
#![allow(unreachable_pub, reason = "the module is written as a library of the tests")]
#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{net::SocketAddr, path::Path, time::Duration};

use serde_json::Value;

use super::peers::{SOON, eventually, plain_http, process::Neighbour};

/// How long a shutdown may take.
pub const SHUTDOWN: Duration = Duration::from_secs(10);
/// The program, on free ports of loopback.
#[derive(Debug)]
pub struct Program(pub Neighbour);

/// A program that has said where it listens.
#[derive(Debug)]
pub struct Serving {
    pub program: Program,
    /// Where subscribers connect.
    pub listen: SocketAddr,
    /// Where health, readiness and metrics are.
    pub admin: SocketAddr,
}

impl Program {
    pub fn start(kubeconfig: &Path, metadata_store: &str, more: &[&str]) -> Self {
        Self::start_in(&[], kubeconfig, metadata_store, more)
    }

    /// With these variables in its environment, each `NAME=value`.
    pub fn start_in(environment: &[String], kubeconfig: &Path, metadata_store: &str, more: &[&str]) -> Self {
        Self::start_with("127.0.0.1:0", environment, kubeconfig, metadata_store, more)
    }

    /// Where subscribers find one again that was there before.
    pub fn start_on(listen: SocketAddr, kubeconfig: &Path, metadata_store: &str, more: &[&str]) -> Self {
        Self::start_with(&listen.to_string(), &[], kubeconfig, metadata_store, more)
    }

    fn start_with(
        listen: &str,
        environment: &[String],
        kubeconfig: &Path,
        metadata_store: &str,
        more: &[&str],
    ) -> Self {
        // `env` becomes what it starts, so that signals reach the program.
        let mut process = Neighbour::new("model-update-eventsource", "/usr/bin/env".into());
        let mut args = environment.to_vec();
        args.extend([
            format!("KUBECONFIG={}", kubeconfig.display()),
            env!("CARGO_BIN_EXE_model-update-eventsource").to_owned(),
            "serve".to_owned(),
            format!("--listen={listen}"),
            "--admin-listen=127.0.0.1:0".to_owned(),
            "--log-format=json".to_owned(),
            format!("--metadata-store={metadata_store}"),
        ]);
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        process.set_args(args);
        process.start();
        Self(process)
    }

    /// The first line of its log with this message, once it is there.
    pub async fn says(&self, message: &str) -> Value {
        eventually(SOON, &format!("the line {message:?}"), async || {
            let log = self.0.log();
            log.lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["message"] == message)
                .ok_or(log)
        })
        .await
    }

    pub async fn serving(self) -> Serving {
        let line = self.says("serving").await;
        let address = |field: &str| line[field].as_str().unwrap().parse().unwrap();
        Serving { listen: address("listen"), admin: address("admin"), program: self }
    }
}

impl Serving {
    pub async fn get(&self, path: &str) -> Result<String, String> {
        plain_http::get(&format!("http://{}{path}", self.admin)).await
    }

    pub async fn ready(&self) {
        eventually(SOON, "readiness", async || self.get("/readyz").await).await;
    }

    /// Its readiness says that, among others.
    pub async fn is_not_ready(&self, because: &str) {
        eventually(SOON, &format!("{because:?} on /readyz"), async || match self.get("/readyz").await {
            Err(refusal) if refusal.contains(because) => Ok(()),
            other => Err(other),
        })
        .await;
    }

    /// One event of this namespace is on its way.
    pub async fn handed_off(&self, namespace: &str) {
        let sent = format!("modelupdate_events_sent_total{{namespace=\"{namespace}\"}} 1\n");
        let is_sent = async || self.get("/metrics").await.is_ok_and(|metrics| metrics.contains(&sent));
        eventually(SOON, "the hand-off", is_sent).await;
    }

    pub async fn stopped(mut self) {
        self.program.0.terminate();
        let status = self.program.0.exited(SHUTDOWN).await;
        assert_eq!(status.code(), Some(0));
    }
}
