//! The memory of an idle subscriber: the growth of the real program's resident memory with connected subscribers, on the
//! simulation. `cargo bench --bench idle_subscribers -- [subscribers]` prints KiB per subscriber before its first event
//! and after it. No assertions. Linux only.

use std::{
    error::Error,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::{Stream, StreamExt as _, future::try_join_all};
use model_update_eventsource::{
    eventsource::{ReceivedEvent, SubscribeError, Subscriber},
    sim::{NewWorkflow, Run, Sim, Task},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

type Failure = Box<dyn Error + Send + Sync>;
type Events = Box<dyn Stream<Item = Result<ReceivedEvent, SubscribeError>> + Send + Unpin>;

/// Subscribers per namespace. A run has at most 32 marks.
const PER_NAMESPACE: usize = 30;
/// Connections that are opened concurrently.
const CONCURRENT: usize = 50;
/// The time limit of every step.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Idle time before memory is read, for confirmations, marks and timers.
const IDLE: Duration = Duration::from_secs(5);

/// The program. Dropping it kills the process.
struct Program {
    process: Child,
    listen: SocketAddr,
}

impl Program {
    fn start(sim: &Sim) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        let server = sim.kube_config().cluster_url.to_string();
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "sim",
            "clusters": [{"name": "sim", "cluster": {"server": server}}],
            "users": [{"name": "sim", "user": {}}],
            "contexts": [{"name": "sim", "context": {"cluster": "sim", "user": "sim"}}],
        });
        std::fs::write(&kubeconfig, text.to_string())?;
        let mut process = Command::new(env!("CARGO_BIN_EXE_model-update-eventsource"))
            .env("KUBECONFIG", &kubeconfig)
            .args(["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--log-format=json"])
            .args(["--max-streams=10000", "--max-streams-per-peer=10000"])
            .arg(format!("--metadata-store={}", sim.metadata_url()))
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(process.stderr.take().ok_or("stderr is a pipe")?).lines();
        let listen = log.find_map(|line| {
            let line: Value = serde_json::from_str(&line.ok()?).ok()?;
            (line["message"] == "serving").then(|| line["listen"].as_str()?.parse().ok())?
        });
        // The rest of the log is discarded; otherwise the program would block on a full pipe.
        std::thread::spawn(move || log.for_each(drop));
        Ok(Self { process, listen: listen.ok_or("the program did not log its address")? })
    }

    /// The resident memory in bytes.
    fn resident(&self) -> Result<usize, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Ok(kilobytes.ok_or("no VmRSS")?.parse::<usize>()? * 1024)
    }

    async fn subscribe(&self, number: usize) -> Result<Events, Failure> {
        let mut subscriber = Subscriber::connect(format!("http://{}", self.listen)).await?;
        let config = format!("kfpNamespace: {}", namespace(number));
        Ok(Box::new(subscriber.subscribe(&format!("subscriber-{number}"), &config).await?))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only if the process has ended already.
        let _killed = self.process.kill().and_then(|()| self.process.wait());
    }
}

fn namespace(subscriber: usize) -> String {
    format!("team-{}", subscriber / PER_NAMESPACE)
}

/// Simulates a succeeded run with a model in each namespace of this number of subscribers.
fn succeed(sim: &Sim, name: &str, subscribers: usize) -> Result<(), Failure> {
    for number in (0..subscribers).step_by(PER_NAMESPACE) {
        let (namespace, name) = (namespace(number), format!("{name}-{number}"));
        sim.create_workflow(&namespace, NewWorkflow::tfx_v1(&name, "penguin-pipeline"))?;
        sim.put_task(&Run::tfx_v1("penguin-pipeline", &name), Task::pusher("gs://models/penguin/1"));
        sim.set_phase(&namespace, &name, "Succeeded")?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
#[expect(clippy::cast_precision_loss, reason = "the output is rounded")]
async fn measure(subscribers: usize) -> Result<(), Failure> {
    let sim = Sim::start().await?;
    let program = Program::start(&sim)?;
    // The first subscriber creates threads, tables and caches.
    let mut first = program.subscribe(0).await?;
    succeed(&sim, "first", 1)?;
    timeout(TIMEOUT, first.next()).await?.ok_or("an event")??;
    drop(first);
    sleep(IDLE).await;

    let before = program.resident()?;
    let mut connected = Vec::with_capacity(subscribers);
    while connected.len() < subscribers {
        let next = connected.len() + 1;
        connected.extend(try_join_all((next..next + CONCURRENT).map(|number| program.subscribe(number))).await?);
    }
    let subscribers = connected.len();
    let each = |now: usize| now.saturating_sub(before) as f64 / subscribers as f64 / 1024.0;
    sleep(IDLE).await;
    let idle = each(program.resident()?);
    succeed(&sim, "event", subscribers + PER_NAMESPACE)?;
    let received = connected.iter_mut().map(async |events| {
        events.next().await.ok_or("the stream ended")??;
        Ok::<_, Failure>(())
    });
    timeout(TIMEOUT, try_join_all(received)).await??;
    sleep(IDLE).await;
    let after = each(program.resident()?);
    println!(
        "{subscribers} subscribers over {:.1} MiB: {idle:.1} KiB each before the first event, {after:.1} KiB after it",
        before as f64 / 1024.0 / 1024.0
    );
    Ok(())
}

fn main() -> Result<(), Failure> {
    let chosen = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let cases = chosen.map_or(vec![1_000, 3_000], |subscribers| vec![subscribers]);
    let runtime = tokio::runtime::Runtime::new()?;
    cases.into_iter().try_for_each(|subscribers| runtime.block_on(measure(subscribers)))
}
