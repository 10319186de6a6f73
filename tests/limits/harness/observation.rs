//! The observation of another tenant, of the probes, and of the memory.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _};
use model_update_eventsource::eventsource::{ReceivedEvent, SubscribeError, Subscriber};
use test_support::{CATCH_UP, RunningServer, SOON, Tally, eventually, model_location, plain_http};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use super::{
    figures::{Figures, PROBE_TIMEOUT},
    tenant::Tenant,
};

/// Interval between two runs of the observed tenant.
const RUN_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between two probes of `/livez`.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// Subscription of the observed tenant.
const SUBSCRIPTION: &str = "observed";

/// Observes one tenant, `/livez` and the memory of a server until it is finished or dropped.
pub(crate) struct Observation {
    what: &'static str,
    status: PathBuf,
    before_kib: u64,
    received: Arc<Mutex<HashMap<String, Vec<Instant>>>>,
    runs: JoinHandle<Vec<(String, Instant)>>,
    events: AbortOnDropHandle<()>,
    probes: JoinHandle<Vec<Result<Duration, String>>>,
    stop: DropGuard,
}

impl Observation {
    /// Subscribes, waits for the first event of the tenant, and begins to observe.
    pub(crate) async fn start(what: &'static str, server: &RunningServer, mut tenant: Tenant) -> Self {
        let mut subscriber = Subscriber::connect(format!("http://{}", server.listen)).await.expect("a connection");
        let config = format!("kfpNamespace: {}", tenant.namespace());
        let mut stream = subscriber.subscribe(SUBSCRIPTION, &config).await.expect("a stream");
        let first = tenant.succeed().await;
        let event = timeout(SOON, stream.next()).await.expect("an event in time");
        assert_eq!(location(event), first);

        let status = PathBuf::from(format!("/proc/{}/status", server.process.pid().as_raw_nonzero()));
        let stop = CancellationToken::new();
        let received = Arc::<Mutex<HashMap<String, Vec<Instant>>>>::default();
        Self {
            what,
            before_kib: memory_kib(&status, "VmRSS:"),
            status,
            runs: tokio::spawn(create_runs(tenant, stop.clone())),
            events: AbortOnDropHandle::new(tokio::spawn(receive(stream, received.clone()))),
            received,
            probes: tokio::spawn(probe(server.admin, stop.clone())),
            stop: stop.drop_guard(),
        }
    }

    /// Stops, waits for the events of all runs so far, and returns what was measured. The server must run.
    ///
    /// # Panics
    /// If the stream of the observed tenant has ended, or an event is lost.
    pub(crate) async fn finish(self) -> Figures {
        drop(self.stop);
        let runs = self.runs.await.expect("every run is created");
        eventually(CATCH_UP, "every event of the other tenant", async || {
            assert!(!self.events.is_finished(), "{}: the stream of the other tenant has ended", self.what);
            let received = self.received.lock().expect("not poisoned");
            let missing: Vec<_> = runs.iter().filter(|(location, _)| !received.contains_key(location)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
        })
        .await;
        let probes = self.probes.await.expect("the probes do not panic");
        let received = std::mem::take(&mut *self.received.lock().expect("not poisoned"));
        let mut tally = Tally::new(self.what);
        let mut latencies = Vec::new();
        for (location, created) in &runs {
            tally.expect(SUBSCRIPTION, location);
            latencies.extend(received[location].iter().map(|at| at.saturating_duration_since(*created)));
        }
        for (location, times) in &received {
            times.iter().for_each(|_| tally.delivered(SUBSCRIPTION, location));
        }
        latencies.sort();
        let peak_kib = memory_kib(&self.status, "VmHWM:");
        Figures {
            what: self.what,
            tally,
            latencies,
            probes,
            before_kib: self.before_kib,
            peak_kib,
            _stream: self.events,
        }
    }
}

/// Creates a run in every interval. Returns the locations of their models, with the time at which the API server had
/// accepted the Workflow.
async fn create_runs(mut tenant: Tenant, stop: CancellationToken) -> Vec<(String, Instant)> {
    let mut runs = Vec::new();
    let mut ticks = interval(RUN_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let location = tenant.succeed().await;
        runs.push((location, Instant::now()));
    }
    runs
}

/// Records the arrival of each event until the end of the stream.
async fn receive(
    mut stream: impl Stream<Item = Result<ReceivedEvent, SubscribeError>> + Unpin,
    received: Arc<Mutex<HashMap<String, Vec<Instant>>>>,
) {
    while let Some(event) = stream.next().await {
        let location = location(Some(event));
        received.lock().expect("not poisoned").entry(location).or_default().push(Instant::now());
    }
}

fn location(event: Option<Result<ReceivedEvent, SubscribeError>>) -> String {
    let event = event.expect("the stream has not ended").expect("an event");
    model_location(std::str::from_utf8(&event.payload).expect("JSON is UTF-8"))
}

/// Asks for `/livez` in every interval. Returns the duration of each answer.
async fn probe(admin: SocketAddr, stop: CancellationToken) -> Vec<Result<Duration, String>> {
    let url = format!("http://{admin}/livez");
    let mut probes = Vec::new();
    let mut ticks = interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let asked = Instant::now();
        let answer = timeout(PROBE_TIMEOUT, plain_http::get(&url)).await;
        probes.push(match answer {
            Ok(answer) => answer.map(|_ok| asked.elapsed()),
            Err(_elapsed) => Err(format!("no answer within {PROBE_TIMEOUT:?}")),
        });
    }
    probes
}

/// Returns a figure of the kernel about the memory of a process.
fn memory_kib(status: &PathBuf, key: &str) -> u64 {
    let status = fs::read_to_string(status).expect("the server runs, on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel reports it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
