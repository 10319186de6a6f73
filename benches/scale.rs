//! A simulation of an installation that is larger than one machine: how streams spread over the replicas after a
//! roll-out and after a scale-out, and what a replica, the API server and ML Metadata carry. Seeded; seconds of
//! computation, no peers.
//!
//! ```sh
//! cargo bench --bench scale -- [--json] [--workflows N] [--subscribers N] [--replicas N] [--namespaces N] [--seed N] …
//! ```
//!
//! The maximum age of streams and the pauses of reviews are the server's own rules and defaults. The memory of a record
//! and of a subscriber, and the bytes of a Workflow's metadata, are arguments, whose defaults are measured ones
//! (docs/performance.md). Load is arithmetic over them.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Parser;
use model_update_eventsource::{access, app::Config, delivery::ConnectionAges};
use rand::{RngExt as _, SeedableRng, rngs::SmallRng};
use test_support::bench::{
    Output, Row,
    plot::{Axis, Chart, Line, svg},
};

/// Argo Events reconnects at the next tick of this interval.
const RECONNECT: Duration = Duration::from_secs(5);
/// The time from the roll-out of a replica to that of the next one: its Pod is scheduled, started and ready.
const ROLL_OUT_STEP: Duration = Duration::from_secs(20);
/// Hours after the roll-out.
const HOURS: u32 = 24;
const HOUR: Duration = Duration::from_secs(3600);
const MIB: f64 = 1024.0 * 1024.0;

/// Simulates an installation.
#[derive(Parser)]
struct Options {
    /// Workflows that exist
    #[arg(long, default_value_t = 1_000_000)]
    workflows: u32,
    /// Subscribers, each with a stream
    #[arg(long, default_value_t = 10_000)]
    subscribers: u32,
    /// Namespaces, which share both evenly
    #[arg(long, default_value_t = 2_500)]
    namespaces: u32,
    /// Replicas behind the Service, which selects one at random for each connection
    #[arg(long, default_value_t = 10)]
    replicas: u32,
    /// Days for which a Workflow exists, which decide the rate of runs
    #[arg(long, default_value_t = 30.0)]
    retention: f64,
    /// The rate of the busiest minute over the average
    #[arg(long, default_value_t = 10.0)]
    peak: f64,
    /// Percent of the runs that push a model
    #[arg(long, default_value_t = 50.0)]
    models: f64,
    /// Changes of a Workflow during its run: each is an event of the watch
    #[arg(long, default_value_t = 40.0)]
    changes: f64,
    /// Bytes of the metadata of a Workflow, of which lists and watches consist
    #[arg(long, default_value_t = 11_000.0)]
    metadata_bytes: f64,
    /// Bytes of a whole Workflow in etcd
    #[arg(long, default_value_t = 50_000.0)]
    workflow_bytes: f64,
    /// Measured: bytes of a record
    #[arg(long, default_value_t = 233.0)]
    record_bytes: f64,
    /// Measured and rounded up: KiB of an idle subscriber
    #[arg(long, default_value_t = 30.0)]
    subscriber_kib: f64,
    /// Measured: MiB of a server without Workflows and subscribers
    #[arg(long, default_value_t = 16.0)]
    start_mib: f64,
    /// Calls of ML Metadata for a run: its context, artifacts beside executions, events
    #[arg(long, default_value_t = 4.0)]
    calls: f64,
    /// `--max-connection-age`, in hours
    #[arg(long, default_value_t = 6.0)]
    max_connection_age: f64,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw the spread of the streams into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// An event of the simulation, about one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Connect,
    ReachedAge { attachment: u32 },
    Turn { attachment: u32 },
}

struct Client {
    replica: Option<usize>,
    /// Counts the attachments, so that events about former ones are ignored.
    attachment: u32,
}

/// The replicas, and the clients that are connected to them.
struct Installation {
    clients: Vec<Client>,
    /// The streams of each replica, the rule of their ages, and whether it accepts connections.
    streams: Vec<usize>,
    ages: Vec<ConnectionAges>,
    is_ready: Vec<bool>,
    queue: BinaryHeap<Reverse<(Instant, u32, Event)>>,
    random: SmallRng,
    away: usize,
    most_away: usize,
    moves: usize,
}

impl Installation {
    fn new(options: &Options, age: Option<Duration>) -> Self {
        let replicas = 2 * options.replicas as usize;
        Self {
            clients: (0..options.subscribers).map(|_| Client { replica: None, attachment: 0 }).collect(),
            streams: vec![0; replicas],
            ages: vec![ConnectionAges::new(age); replicas],
            is_ready: (0..replicas).map(|replica| replica < options.replicas as usize).collect(),
            queue: BinaryHeap::new(),
            random: SmallRng::seed_from_u64(options.seed),
            away: options.subscribers as usize,
            most_away: 0,
            moves: 0,
        }
    }

    fn connect_all(&mut self, now: Instant) {
        for client in 0..self.clients.len() {
            self.reconnects(u32::try_from(client).expect("the number is a u32"), now);
        }
    }

    /// A client dials at its next tick.
    fn reconnects(&mut self, client: u32, now: Instant) {
        let pause = self.random.random_range(Duration::ZERO..RECONNECT);
        self.queue.push(Reverse((now + pause, client, Event::Connect)));
    }

    fn detach(&mut self, client: u32, now: Instant) {
        if let Some(replica) = self.clients[client as usize].replica.take() {
            self.streams[replica] -= 1;
            self.away += 1;
            self.most_away = self.most_away.max(self.away);
            self.moves += 1;
            self.reconnects(client, now);
        }
    }

    /// Stops a replica: its streams end at once, since they are idle.
    fn stop(&mut self, replica: usize, now: Instant) {
        self.is_ready[replica] = false;
        for client in 0..self.clients.len() {
            if self.clients[client].replica == Some(replica) {
                self.detach(u32::try_from(client).expect("the number is a u32"), now);
            }
        }
    }

    fn run_until(&mut self, end: Instant) {
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= end)
            && let Some(Reverse((now, client, event))) = self.queue.pop()
        {
            self.handle(now, client, event);
        }
    }

    fn handle(&mut self, now: Instant, client: u32, event: Event) {
        let Client { replica, attachment: current } = &mut self.clients[client as usize];
        match event {
            Event::Connect => {
                let ready: Vec<_> = (0..self.is_ready.len()).filter(|replica| self.is_ready[*replica]).collect();
                let chosen = ready[self.random.random_range(0..ready.len())];
                *current += 1;
                let attachment = *current;
                *replica = Some(chosen);
                self.streams[chosen] += 1;
                self.away -= 1;
                if let Some(age) = self.ages[chosen].draw(&mut self.random) {
                    self.queue.push(Reverse((now + age, client, Event::ReachedAge { attachment })));
                }
            }
            Event::ReachedAge { attachment } if attachment == *current => {
                let Some(replica) = *replica else { return };
                let turn = self.ages[replica].take_turn(now, self.streams[replica]);
                self.queue.push(Reverse((turn, client, Event::Turn { attachment })));
            }
            Event::Turn { attachment } if attachment == *current => self.detach(client, now),
            Event::ReachedAge { .. } | Event::Turn { .. } => {}
        }
    }

    /// The streams of the fullest replica over the average of the ready ones.
    fn imbalance(&self) -> f64 {
        let ready = self.is_ready.iter().filter(|ready| **ready).count();
        let most = self.streams.iter().max().copied().unwrap_or_default();
        most as f64 * ready as f64 / self.streams.iter().sum::<usize>().max(1) as f64
    }

    /// The streams of the emptiest ready replica over the average.
    fn least(&self) -> f64 {
        let streams = self.streams.iter().zip(&self.is_ready).filter(|(_, ready)| **ready).map(|(streams, _)| *streams);
        let (least, ready) = (streams.clone().min().unwrap_or_default(), streams.count());
        least as f64 * ready as f64 / self.streams.iter().sum::<usize>().max(1) as f64
    }

    /// The streams of the fullest replica.
    fn fullest(&self) -> f64 {
        self.streams.iter().max().copied().unwrap_or_default() as f64
    }
}

/// A change of the replicas.
#[derive(Clone, Copy)]
enum Change {
    /// A rolling update with one Pod more at a time.
    RollOut,
    /// All streams are on one replica, and the others are added.
    ScaleOut,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Self::RollOut => "roll-out",
            Self::ScaleOut => "scale-out from one replica",
        }
    }
}

/// Changes the replicas. Returns the streams of the fullest one then, and these over the average from then on, for each
/// quarter of an hour.
fn spread(options: &Options, change: Change, age: Option<Duration>, rows: &mut Vec<Row>) -> (f64, Vec<f64>) {
    let name =
        age.map_or("no maximum age".to_owned(), |age| format!("maximum age {:.0} h", age.as_secs_f64() / 3600.0));
    let name = format!("{}, {name}", change.name());
    let replicas = options.replicas as usize;
    let mut now = Instant::now();
    let mut installation = Installation::new(options, age);
    if matches!(change, Change::ScaleOut) {
        installation.is_ready[1..].fill(false);
    }
    installation.connect_all(now);
    now += RECONNECT;
    installation.run_until(now);
    match change {
        Change::ScaleOut => installation.is_ready[..replicas].fill(true),
        Change::RollOut => {
            for replica in 0..replicas {
                installation.is_ready[replicas + replica] = true;
                installation.stop(replica, now);
                now += ROLL_OUT_STEP;
                installation.run_until(now);
            }
        }
    }
    let fullest = installation.fullest();
    let mut imbalance = vec![installation.imbalance()];
    rows.push(Row::new(format!("{name}: streams of the fullest replica over the average"), imbalance[0], "×"));
    rows.push(Row::new(format!("{name}: streams of the emptiest replica over the average"), installation.least(), "×"));
    (installation.most_away, installation.moves) = (0, 0);
    let begin = now;
    let mut even = None;
    for quarter in 1..=4 * HOURS {
        now = begin + HOUR * quarter / 4;
        installation.run_until(now);
        imbalance.push(installation.imbalance());
        if even.is_none() && installation.imbalance() <= 1.2 {
            even = Some(f64::from(quarter) / 4.0);
        }
    }
    rows.push(Row::new(format!("{name}: the fullest, {HOURS} h later"), installation.imbalance(), "×"));
    rows.push(Row::new(format!("{name}: the emptiest, {HOURS} h later"), installation.least(), "×"));
    let Some(age) = age else { return (fullest, imbalance) };
    if let Some(even) = even {
        rows.push(Row::new(format!("{name}: time until the fullest has at most 1.2 × the average"), even, "h"));
    }
    let share = installation.most_away as f64 / f64::from(options.subscribers) * 100.0;
    rows.push(Row::new(format!("{name}: subscribers that are away at a time, at most"), share, "%"));
    let moves = installation.moves as f64 / f64::from(HOURS) * 24.0;
    rows.push(Row::new(format!("{name}: streams that end by age"), moves, "a day"));
    let late = RECONNECT.as_secs_f64() / 2.0 / age.as_secs_f64() * 100.0;
    rows.push(Row::new(format!("{name}: events that wait for their subscriber, up to 5 s"), late, "%"));
    (fullest, imbalance)
}

/// Draws the streams of the fullest replica over the average, by quarters of an hour.
fn plot(lines: Vec<Line>) -> String {
    let hours = (0..=HOURS).step_by(6).map(|hour| (f64::from(hour), format!("{hour} h")));
    let chart = Chart {
        title: "streams of the fullest replica over the average, hours after a change".to_owned(),
        x: Axis { ticks: hours.collect(), is_logarithmic: false },
        y: Axis::logarithmic([1.0, 1.2, 1.5, 2.0, 5.0, 10.0]),
        lines,
    };
    svg(&[chart], 640.0, 300.0)
}

/// The load of the replicas, the API server and ML Metadata.
fn load(options: &Options, fullest: f64, rows: &mut Vec<Row>) {
    let (workflows, subscribers, replicas) =
        (f64::from(options.workflows), f64::from(options.subscribers), f64::from(options.replicas));
    let server = Config::default();
    let runs = workflows / (options.retention * 86_400.0);
    rows.push(Row::new("runs that end, on average", runs * 3600.0, "an hour"));
    rows.push(Row::new("runs that end, in the busiest minute", runs * options.peak, "a second"));

    let records = workflows * options.record_bytes / MIB;
    let of_streams = |streams: f64| streams * options.subscriber_kib / 1024.0;
    rows.push(Row::new("memory of a replica: records of all Workflows", records, "MiB"));
    rows.push(Row::new("memory of a replica: its share of the subscribers", of_streams(subscribers / replicas), "MiB"));
    rows.push(Row::new(
        "memory of a replica: in all",
        options.start_mib + records + of_streams(subscribers / replicas),
        "MiB",
    ));
    rows.push(Row::new(
        "memory of the fullest replica after a roll-out",
        options.start_mib + records + of_streams(fullest),
        "MiB",
    ));
    for limit in [128.0, 256.0, 512.0] {
        let left = (limit * 0.75 - options.start_mib - of_streams(server.limits.streams as f64)).max(0.0);
        let most = left * MIB / options.record_bytes;
        rows.push(Row::new(
            format!(
                "Workflows that fit a limit of {limit:.0} MiB beside {} subscribers, a quarter free",
                server.limits.streams
            ),
            most,
            "",
        ));
    }

    let watch = runs * options.changes * options.metadata_bytes * replicas;
    rows.push(Row::new("API server: watches", replicas, ""));
    rows.push(Row::new("API server: bytes of the watches, on average", watch / MIB, "MiB/s"));
    rows.push(Row::new("API server: bytes of the watches, in the busiest minute", watch * options.peak / MIB, "MiB/s"));
    rows.push(Row::new("API server: bytes of one list", workflows * options.metadata_bytes / MIB, "MiB"));
    rows.push(Row::new(
        "etcd: bytes of the Workflows (its default quota is 2 GiB, the most 8 GiB)",
        workflows * options.workflow_bytes / MIB / 1024.0,
        "GiB",
    ));

    // The subscribers of a namespace are connected to this number of replicas: each looks a run up, and marks it once
    // for all of its subscribers.
    let of_namespace = subscribers / f64::from(options.namespaces);
    let replicas_of_namespace = replicas * (1.0 - (1.0 - 1.0 / replicas).powf(of_namespace));
    let (models, peak) = (options.models / 100.0, runs * options.peak);
    rows.push(Row::new("replicas that serve a namespace", replicas_of_namespace, ""));
    rows.push(Row::new("events, in the busiest minute", peak * models * of_namespace, "a second"));
    rows.push(Row::new(
        "API server: patches, in the busiest minute",
        peak * models * replicas_of_namespace,
        "a second",
    ));
    let rate = f64::from(server.mark_rate.get());
    rows.push(Row::new("API server: patches that --mark-rate allows", rate * replicas, "a second"));
    let access::Options { cache_token, cache_allow, .. } = server.access;
    let reviews = subscribers / cache_token.as_secs_f64() + subscribers / cache_allow.as_secs_f64();
    rows.push(Row::new(
        "API server: reviews with --auth token, each subscriber with a token of its own",
        reviews,
        "a second",
    ));
    let calls = peak * options.calls * replicas_of_namespace;
    rows.push(Row::new("ML Metadata: calls, in the busiest minute", calls, "a second"));
    rows.push(Row::new("ML Metadata: of these for runs without a model", calls * (1.0 - models), "a second"));
}

fn main() -> std::io::Result<()> {
    let options = Options::parse();
    let mut rows = Vec::new();
    let age = Some(HOUR.mul_f64(options.max_connection_age));
    let mut plots = Vec::new();
    let mut fullest = 0.0_f64;
    for (change, age, color) in [
        (Change::RollOut, None, "#c33"),
        (Change::RollOut, age, "#36c"),
        (Change::ScaleOut, None, "#e90"),
        (Change::ScaleOut, age, "#393"),
    ] {
        let (most, imbalance) = spread(&options, change, age, &mut rows);
        if matches!(change, Change::RollOut) {
            fullest = fullest.max(most);
        }
        let name = age.map_or("no maximum age".to_owned(), |_| format!("{:.0} h", options.max_connection_age));
        let points = imbalance.into_iter().enumerate().map(|(quarter, value)| (quarter as f64 / 4.0, value)).collect();
        plots.push(Line { name: format!("{}, {name}", change.name()), color, points });
    }
    load(&options, fullest, &mut rows);
    if let Some(path) = &options.svg {
        std::fs::write(path, plot(plots))?;
    }
    options.output.print(&rows);
    Ok(())
}
