//! The program as users start it, on free ports of loopback.

use std::{
    env,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{CATCH_UP, ChildProcess, SOON, eventually, metrics, plain_http, process_stats};

/// Longest time that a shutdown may take.
pub const SHUTDOWN: Duration = Duration::from_secs(10);

/// The address of any free port of loopback.
const ANY_PORT: &str = "127.0.0.1:0";

/// The name of the program.
const PROGRAM: &str = "model-update-eventsource";

/// Returns the path of the program that cargo built for the tests.
///
/// `env!("CARGO_BIN_EXE_…")` is for the integration tests of the program's own package: each of them would have to pass
/// it with every call. Recent versions of cargo set the variable at run time, too. Without it the program is in
/// the profile's folder, to which cargo links it before it starts a test: the parent of the test binary's folder
/// `deps`.
pub(crate) fn program() -> PathBuf {
    if let Some(path) = env::var_os(format!("CARGO_BIN_EXE_{PROGRAM}")) {
        return path.into();
    }
    let test = env::current_exe().expect("the path of the test binary");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
    let path = profile.join(PROGRAM);
    assert!(path.exists(), "cargo has not built {}", path.display());
    path
}

/// The program, started; it may not listen yet.
#[derive(Debug)]
pub struct ServerProcess(ChildProcess);

/// A program that listens.
#[derive(Debug)]
pub struct RunningServer {
    /// The process.
    pub process: ServerProcess,
    /// Address for subscribers.
    pub listen: SocketAddr,
    /// Address of health, readiness and metrics.
    pub admin: SocketAddr,
}

impl Deref for ServerProcess {
    type Target = ChildProcess;
    fn deref(&self) -> &ChildProcess {
        &self.0
    }
}

impl DerefMut for ServerProcess {
    fn deref_mut(&mut self) -> &mut ChildProcess {
        &mut self.0
    }
}

impl ServerProcess {
    /// Starts the program with these further flags.
    pub fn start(kubeconfig: &Path, metadata_store: &str, flags: &[&str]) -> Self {
        Self::start_with_env(&[], kubeconfig, metadata_store, flags)
    }

    /// Starts the program with these environment variables, each written `NAME=value`.
    pub fn start_with_env(environment: &[String], kubeconfig: &Path, metadata_store: &str, flags: &[&str]) -> Self {
        Self::spawn(&[program()], ANY_PORT, environment, kubeconfig, metadata_store, flags)
    }

    /// Starts the program with these arguments of `env` before it: variables, and another program that runs it.
    pub fn start_under(runner: &[PathBuf], kubeconfig: &Path, metadata_store: &str, flags: &[&str]) -> Self {
        let command = [runner, &[program()]].concat();
        Self::spawn(&command, ANY_PORT, &[], kubeconfig, metadata_store, flags)
    }

    /// Starts another build of the program, such as an earlier release.
    pub fn start_build(program: &Path, kubeconfig: &Path, metadata_store: &str, flags: &[&str]) -> Self {
        Self::spawn(&[program.to_owned()], ANY_PORT, &[], kubeconfig, metadata_store, flags)
    }

    /// Starts the program at the address of a server that has ended.
    pub fn start_at(listen: SocketAddr, kubeconfig: &Path, metadata_store: &str, flags: &[&str]) -> Self {
        Self::spawn(&[program()], &listen.to_string(), &[], kubeconfig, metadata_store, flags)
    }

    fn spawn(
        command: &[PathBuf],
        listen: &str,
        environment: &[String],
        kubeconfig: &Path,
        metadata_store: &str,
        flags: &[&str],
    ) -> Self {
        // `env` becomes what it starts, so that signals reach the program.
        let mut process = ChildProcess::new(PROGRAM, "/usr/bin/env".into());
        let mut args = environment.to_vec();
        args.push(format!("KUBECONFIG={}", kubeconfig.display()));
        args.extend(command.iter().map(|part| part.display().to_string()));
        args.extend([
            "serve".to_owned(),
            format!("--listen={listen}"),
            "--admin-listen=127.0.0.1:0".to_owned(),
            "--log-format=json".to_owned(),
            format!("--metadata-store={metadata_store}"),
        ]);
        args.extend(flags.iter().map(|&flag| flag.to_owned()));
        process.set_args(args);
        process.start();
        Self(process)
    }

    /// Waits for the first log line with this message and returns it.
    pub async fn logged(&self, message: &str) -> Value {
        self.logged_within(SOON, message).await
    }

    async fn logged_within(&self, deadline: Duration, message: &str) -> Value {
        eventually(deadline, &format!("the log line {message:?}"), async || {
            let log = self.log();
            let line = lines(&log).find(|line| line["message"] == message);
            line.ok_or(log)
        })
        .await
    }

    /// Waits until the program listens.
    pub async fn listening(self) -> RunningServer {
        self.listening_within(SOON).await
    }

    /// As [`ServerProcess::listening`], with a deadline.
    pub async fn listening_within(self, deadline: Duration) -> RunningServer {
        let line = self.logged_within(deadline, "serving").await;
        let address = |field: &str| line[field].as_str().and_then(|text| text.parse().ok()).expect("an address");
        RunningServer { listen: address("listen"), admin: address("admin"), process: self }
    }
}

impl RunningServer {
    /// Returns a page of the admin port.
    ///
    /// # Errors
    /// As [`plain_http::get`].
    pub async fn get(&self, path: &str) -> Result<String, String> {
        plain_http::get(&format!("http://{}{path}", self.admin)).await
    }

    /// Waits until the server is ready.
    pub async fn ready(&self) {
        eventually(SOON, "readiness", async || self.get("/readyz").await).await;
    }

    /// Waits until the server is not ready, for this reason among others.
    pub async fn not_ready(&self, reason: &str) {
        eventually(SOON, &format!("{reason:?} on /readyz"), async || match self.get("/readyz").await {
            Err(response) if response.contains(reason) => Ok(()),
            other => Err(other),
        })
        .await;
    }

    /// Returns the sum of a metric over the label sets that contain all of `labels`, each written `name="value"`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metrics::sum(&self.get("/metrics").await.expect("metrics"), name, labels)
    }

    /// Waits until a metric has this value.
    pub async fn metric_is(&self, name: &str, labels: &[&str], value: f64) {
        eventually(CATCH_UP, &format!("{name} {labels:?} is {value}"), async || {
            let now = self.metric(name, labels).await;
            #[expect(clippy::float_cmp, reason = "they are counts")]
            if now == value { Ok(()) } else { Err(now) }
        })
        .await;
    }

    /// Waits until one event of this namespace has been handed off.
    pub async fn handed_off(&self, namespace: &str) {
        let label = format!("namespace=\"{namespace}\"");
        let sent = async || self.metric("modelupdate_events_sent_total", &[&label]).await;
        eventually(SOON, "the hand-off", async || (sent().await - 1.0).abs() < f64::EPSILON).await;
    }

    /// Waits for a log line with this message about this subscription and returns it.
    pub async fn logged_for(&self, message: &str, subscription: &str) -> Value {
        self.logged_for_within(CATCH_UP, message, subscription).await
    }

    /// As [`RunningServer::logged_for`], with a deadline.
    pub async fn logged_for_within(&self, deadline: Duration, message: &str, subscription: &str) -> Value {
        eventually(deadline, &format!("{message:?} of {subscription}"), async || {
            let log = self.process.log();
            lines(&log).find(|line| line["message"] == message && line["subscription"] == subscription)
        })
        .await
    }

    /// Resident memory in KiB, from the kernel.
    pub fn resident_kib(&self) -> u64 {
        process_stats::resident_kib(self.process.pid())
    }

    /// Sends SIGTERM and checks that the server ends in time with status 0.
    pub async fn stop(mut self) {
        self.process.terminate();
        let status = self.process.exited(SHUTDOWN).await;
        assert_eq!(status.code(), Some(0));
    }
}

/// The log lines that are JSON.
fn lines(log: &str) -> impl Iterator<Item = Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok())
}
