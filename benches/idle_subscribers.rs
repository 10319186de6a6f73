//! What a connected subscriber costs while nothing happens: the resident memory of the real program before and after so
//! many of them, on the simulated world. `cargo bench --bench idle_subscribers -- [subscribers]` prints octets a
//! subscriber, once before it has received anything and once after an event; it asserts nothing. Linux only.

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
    sim::{NewWorkflow, Sim, Task},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

type Failure = Box<dyn Error + Send + Sync>;
type Events = Box<dyn Stream<Item = Result<ReceivedEvent, SubscribeError>> + Send + Unpin>;

/// A run has at most 32 marks, so subscriptions are spread over namespaces.
const A_NAMESPACE: usize = 30;
/// Connecting is done so many at a time.
const AT_ONCE: usize = 50;
/// For anything to happen.
const SOON: Duration = Duration::from_secs(120);
/// Memory is read when nothing has moved for so long: `--confirm-after`, marks and timers included.
const QUIET: Duration = Duration::from_secs(5);

/// The program, ended with this.
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
            .arg(format!("--metadata-store={}", sim.metadata_url()))
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(process.stderr.take().ok_or("stderr is a pipe")?).lines();
        let listen = log.find_map(|line| {
            let line: Value = serde_json::from_str(&line.ok()?).ok()?;
            (line["message"] == "serving").then(|| line["listen"].as_str()?.parse().ok())?
        });
        // The rest of its log is read away, or it would wait for us one day.
        std::thread::spawn(move || log.for_each(drop));
        Ok(Self { process, listen: listen.ok_or("the program did not say where it listens")? })
    }

    /// Its resident memory, in octets.
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
        // It may have ended by itself.
        let _killed = self.process.kill().and_then(|()| self.process.wait());
    }
}

fn namespace(subscriber: usize) -> String {
    format!("team-{}", subscriber / A_NAMESPACE)
}

/// A run of this name in each namespace of so many subscribers, and its model.
fn succeed(sim: &Sim, name: &str, subscribers: usize) -> Result<(), Failure> {
    for number in (0..subscribers).step_by(A_NAMESPACE) {
        let (namespace, name) = (namespace(number), format!("{name}-{number}"));
        sim.create_workflow(&namespace, NewWorkflow::tfx_v1(&name, "penguin-pipeline"))?;
        sim.put_task(&sim.put_tfx_run("penguin-pipeline", &name), Task::pusher("gs://models/penguin/1"));
        sim.set_phase(&namespace, &name, "Succeeded")?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#[expect(clippy::cast_precision_loss, reason = "these are rounded anyway")]
async fn measure(subscribers: usize) -> Result<(), Failure> {
    let sim = Sim::start().await?;
    let program = Program::start(&sim)?;
    // The first one brings threads, tables and caches about.
    let mut first = program.subscribe(0).await?;
    succeed(&sim, "first", 1)?;
    timeout(SOON, first.next()).await?.ok_or("an event")??;
    drop(first);
    sleep(QUIET).await;

    let before = program.resident()?;
    let mut connected = Vec::with_capacity(subscribers);
    while connected.len() < subscribers {
        let next = connected.len() + 1;
        connected.extend(try_join_all((next..next + AT_ONCE).map(|number| program.subscribe(number))).await?);
    }
    let subscribers = connected.len();
    let each = |now: usize| now.saturating_sub(before) as f64 / subscribers as f64 / 1024.0;
    sleep(QUIET).await;
    let idle = each(program.resident()?);
    succeed(&sim, "event", subscribers + A_NAMESPACE)?;
    let received = connected.iter_mut().map(async |events| {
        events.next().await.ok_or("the stream has ended")??;
        Ok::<_, Failure>(())
    });
    timeout(SOON, try_join_all(received)).await??;
    sleep(QUIET).await;
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
