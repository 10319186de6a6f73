//! Counts of the real program that do not depend on the machine. Each has a limit, which is above the measured value. A
//! change that needs more raises the limit, with the reason in the commit. docs/performance.md lists all of them.

use std::{path::PathBuf, pin::Pin, time::Duration};

use futures::{Stream, StreamExt as _, future::try_join_all};
use model_update_eventsource::{
    eventsource::{ReceivedEvent, SubscribeError, Subscriber},
    sim::Sim,
};
use test_support::{
    CATCH_UP, NewWorkflow, Peers, Run, RunningServer, SOON, START, ServerProcess, Task, callgrind, eventually,
    plain_kubeconfig, process_stats::wake_ups, report,
};
use tokio::time::timeout;

/// The number of the server's threads, so that it is the same on every machine.
const THREADS: &str = "TOKIO_WORKER_THREADS=2";
const NAMESPACE: &str = "demo";
const PIPELINE: &str = "penguin";

/// Subscribers that wait for an event.
const IDLE_SUBSCRIBERS: usize = 100;
/// The time for which wake-ups are counted. It ends long before the first HTTP/2 keepalive, which follows after 30 s.
const WINDOW: Duration = Duration::from_secs(3);
/// The limit of wake-ups of all threads in that time. 0 to 5 were measured, with 100 subscribers and without: those of
/// the heartbeat. A timer for each subscriber would exceed the limit, even one of 30 s.
const WAKE_UPS: u64 = 8;

/// Events before the first one that counts: they fill connections, caches and tables.
const WARM_UP: usize = 3;
/// Events whose instructions are counted.
const COUNTED: usize = 20;
/// The limit of instructions of an event in a debug build. 5.0 million were measured.
const INSTRUCTIONS: u64 = 6_200_000;

type Events = Pin<Box<dyn Stream<Item = Result<ReceivedEvent, SubscribeError>> + Send>>;

/// The program on a simulation.
struct Program {
    sim: Sim,
    server: RunningServer,
    // Contains the kubeconfig.
    _folder: tempfile::TempDir,
}

impl Program {
    /// Starts the program with these arguments of `env`: variables, and a command that runs it.
    async fn start(folder: tempfile::TempDir, runner: &[PathBuf]) -> Self {
        let sim = Sim::start().await.expect("a simulation");
        let api_server = sim.kube_config().cluster_url.to_string();
        let kubeconfig = plain_kubeconfig(folder.path(), &api_server);
        let flags = ["--confirm-after=100ms", "--max-streams-per-peer=1000"];
        let process = ServerProcess::start_under(runner, &kubeconfig, &sim.metadata_url(), &flags);
        let server = process.listening_within(START).await;
        eventually(START, "readiness", async || server.get("/readyz").await).await;
        Self { sim, server, _folder: folder }
    }

    async fn subscribe(&self, name: &str) -> Result<Events, SubscribeError> {
        let mut subscriber = Subscriber::connect(format!("http://{}", self.server.listen)).await?;
        Ok(Box::pin(subscriber.subscribe(name, &format!("kfpNamespace: {NAMESPACE}")).await?))
    }

    /// Lets runs of these numbers succeed. Returns when their events are received and marked.
    async fn deliver(&self, events: &mut Events, numbers: std::ops::Range<usize>) {
        for number in numbers.clone() {
            let name = format!("run-{number}");
            self.sim
                .create_workflow(NAMESPACE, NewWorkflow::tfx_v1(&name, PIPELINE).phase("Running"))
                .expect("created");
            self.sim.put_task(&Run::tfx_v1(PIPELINE, &name), Task::pusher(&format!("gs://models/{number}")));
            self.sim.set_phase(NAMESPACE, &name, "Succeeded").expect("stored");
        }
        for _ in numbers.clone() {
            let event = timeout(CATCH_UP, events.next()).await.expect("an event in time");
            event.expect("an open stream").expect("an event");
        }
        let mut requests = self.sim.requests();
        let marked = requests.wait_for(|requests| requests.patches >= numbers.end as u64);
        let patches = timeout(CATCH_UP, marked).await.expect("marks in time").expect("a running simulation").patches;
        assert_eq!(patches, numbers.end as u64, "each event has one mark");
    }
}

#[tokio::test]
async fn the_wake_ups_of_an_idle_server_have_a_limit() {
    let program = Program::start(tempfile::tempdir().expect("a folder"), &[THREADS.into()]).await;
    let names: Vec<_> = (0..IDLE_SUBSCRIBERS).map(|number| format!("subscriber-{number}")).collect();
    let subscribed = try_join_all(names.iter().map(|name| program.subscribe(name))).await.expect("subscriptions");
    let pid = program.server.process.pid();
    // The first window may contain the end of the start, and one in five a renewal of the watch.
    let few = eventually(SOON, "few wake-ups", async || {
        let number = wake_ups(pid, WINDOW).await;
        if number <= WAKE_UPS { Ok(number) } else { Err(number) }
    });
    report(format!("wake-ups of an idle server in {WINDOW:?}: {}\n", few.await));
    drop(subscribed);
    program.server.stop().await;
}

/// The whole path: the Workflow is created and succeeds, its model is looked up, the event is sent, confirmed and
/// marked. Valgrind hides the features of the CPU, so every machine runs the same instructions.
#[tokio::test]
#[cfg_attr(
    any(not(feature = "peers"), not(target_arch = "x86_64")),
    ignore = "needs the real peers: tests/run, on x86-64"
)]
async fn the_instructions_of_an_event_have_a_limit() {
    let valgrind = Peers::with(&["valgrind"]).await.program("valgrind");
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("profile");
    // A request of /livez writes a profile of all threads, and starts the next one.
    let at_request = "--dump-before=model_update_eventsource::admin::livez";
    let mut runner = vec![THREADS.into(), valgrind];
    runner.extend(callgrind::arguments(&profile).map(PathBuf::from));
    runner.push(at_request.into());
    let program = Program::start(folder, &runner).await;
    let mut events = program.subscribe("model-update").await.expect("a subscription");

    program.deliver(&mut events, 0..WARM_UP).await;
    program.server.get("/livez").await.expect("the server is alive");
    program.deliver(&mut events, WARM_UP..WARM_UP + COUNTED).await;
    program.server.get("/livez").await.expect("the server is alive");
    let each = callgrind::total(&profile.with_extension("2")).expect("a second profile") / COUNTED as u64;
    report(format!("instructions of an event, in a debug build: {each}\n"));
    assert!((INSTRUCTIONS / 2..=INSTRUCTIONS).contains(&each), "an event takes {each} instructions");
}
