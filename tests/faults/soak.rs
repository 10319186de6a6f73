//! Random faults for as long as one likes, from a seed: fault 10.
//!
//! Runs appear all the time in several namespaces, and everything dies, hangs and comes back at random: the API server,
//! ML Metadata, one or two servers, the subscribers, our account's rights. In the end all is healed, and the books are
//! held to the guarantees: nothing lost, nothing foreign, nothing twice that G2 does not explain, and memory flat.
//!
//! `MODEL_UPDATE_SOAK_SECONDS` says for how long, `MODEL_UPDATE_SOAK_SEED` which faults; see CONTRIBUTING.md. What
//! happens when is the seed's ([`plan`]); how it interleaves is the machine's, so a seed that fails may pass next time.

mod books;
mod chronicle;
mod memory;
mod plan;
mod runs;
mod server;
mod subscriber;
mod world;

use std::{env, sync::Arc, time::Duration};

use test_support::{Peers, Tally, report};
use tokio::{
    sync::mpsc,
    task::{JoinSet, LocalSet},
};
use tokio_util::sync::CancellationToken;

use self::{
    books::{Books, Delivery, How},
    memory::{Growth, MARGIN, Samples},
    plan::{Kind, NAMESPACES, PIPELINES, Plan, Run, SUBSCRIBERS},
    runs::{live, location_of, name_of},
    subscriber::{Blow, Subscriber, config},
    world::World,
};
use crate::alone;

/// Without a word from the environment: short enough for every change.
const SECONDS: u64 = 40;
/// Without a word from the environment: the same faults for every change.
const SEED: u64 = 4;
/// How long it may take until everything has come once all is healed. A run on which streams have ended again and again
/// is put off for up to five minutes.
const HEALED: Duration = Duration::from_secs(330);

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn random_faults_lose_nothing_repeat_only_what_they_explain_and_leave_memory_flat() {
    let peers = Peers::find().await;
    let _alone = alone().await;
    let seed = number("MODEL_UPDATE_SOAK_SEED", SEED);
    let length = Duration::from_secs(number("MODEL_UPDATE_SOAK_SECONDS", SECONDS));
    let _seed = Seed(seed);
    let plan = Plan::new(seed, length);
    report(format_args!("soak: seed {seed}, {length:?}: {plan}"));
    // What waits with `eventually` stays on its thread.
    LocalSet::new().run_until(soak(peers, plan)).await;
}

async fn soak(peers: &'static Peers, plan: Plan) {
    let mut soak = Soak::start(peers, plan).await;
    soak.suffer().await;
    soak.heal().await;
    let memory = soak.world.gauge.samples();
    soak.stop().await;
    soak.begin_anew().await;
    soak.conclude(&memory).await;
}

fn number(variable: &str, default: u64) -> u64 {
    let Ok(value) = env::var(variable) else { return default };
    value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a whole number"))
}

/// Says at a failure which seed it was.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report(format_args!("soak: it was seed {}", self.0));
        }
    }
}

struct Soak {
    peers: &'static Peers,
    world: Arc<World>,
    plan: Arc<Plan>,
    /// All runs that have appeared; the plan's first.
    runs: Vec<Run>,
    lives: JoinSet<()>,
    /// What watches, and ends with the soak.
    observers: JoinSet<()>,
    subscribers: JoinSet<()>,
    blows: Vec<mpsc::Sender<Blow>>,
    /// Tells runs that wait for their deletion that it is over.
    over: CancellationToken,
    /// Tells the subscribers to go.
    stop: CancellationToken,
}

impl Soak {
    /// Everything is there and runs, the second server excepted; subscribers dial.
    async fn start(peers: &'static Peers, plan: Plan) -> Self {
        let world = Arc::new(World::start(peers).await);
        let mut observers = JoinSet::new();
        let gauge = world.gauge.clone();
        observers.spawn_local(async move { gauge.run().await });
        for number in 0..NAMESPACES {
            let world = world.clone();
            observers.spawn_local(async move { world.observe(number).await });
        }
        world.servers[0].lock().await.start().await;
        let mut soak = Self {
            peers,
            world,
            plan: Arc::new(plan),
            runs: Vec::new(),
            lives: JoinSet::new(),
            observers,
            subscribers: JoinSet::new(),
            blows: Vec::new(),
            over: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        soak.subscribe().await;
        soak
    }

    async fn subscribe(&mut self) {
        self.stop = CancellationToken::new();
        self.blows.clear();
        let mut doors = Vec::new();
        for server in &self.world.servers {
            doors.push(server.lock().await.door());
        }
        for number in 0..SUBSCRIBERS.len() {
            let (sender, blows) = mpsc::channel(1);
            self.blows.push(sender);
            let (chronicle, doors) = (self.world.chronicle.clone(), doors.clone());
            let config = config(number, &self.world.namespaces);
            let subscriber = Subscriber { number, config, doors, chronicle, blows };
            self.subscribers.spawn_local(subscriber.run(self.peers, self.stop.clone()));
        }
    }

    fn appear(&mut self, run: Run) {
        let (world, over, number) = (self.world.clone(), self.over.clone(), self.runs.len());
        self.runs.push(run.clone());
        self.lives.spawn_local(async move { live(&world, number, &run, &over).await });
    }

    /// One more run that everybody of its namespace waits for, in each namespace.
    fn last_runs(&mut self) {
        for namespace in 0..NAMESPACES {
            let (at, lasts) = Default::default();
            self.appear(Run { at, lasts, namespace, pipeline: PIPELINES[0], kind: Kind::Model });
        }
    }

    /// The plan, to its end. Each fault is healed then.
    async fn suffer(&mut self) {
        let plan = self.plan.clone();
        plan.runs.iter().for_each(|run| self.appear(run.clone()));
        let mut lanes = JoinSet::new();
        for number in 0..plan.lanes.len() {
            let (world, plan, blows) = (self.world.clone(), plan.clone(), self.blows.clone());
            lanes.spawn_local(async move { world.suffer(&plan.lanes[number], &blows).await });
        }
        let world = self.world.clone();
        lanes.spawn_local(async move {
            world.chronicle.at(plan.second).await;
            world.servers[1].lock().await.start().await;
        });
        tokio::select! {
            _ = lanes.join_all() => {}
            () = self.broken() => {}
        }
    }

    /// Does not return, but panics as soon as a task has.
    async fn broken(&mut self) {
        loop {
            tokio::select! {
                Some(ended) = self.lives.join_next() => ended.expect("runs live"),
                ended = self.observers.join_next() => panic!("an observer has ended: {ended:?}"),
                ended = self.subscribers.join_next() => panic!("a subscriber has ended: {ended:?}"),
            }
        }
    }

    /// Everything comes.
    async fn heal(&mut self) {
        self.last_runs();
        let chronicle = self.world.chronicle.clone();
        let all_is_well = chronicle.now();
        let expected = self.expected();
        let missing = |books: &Books| expected.iter().filter(|&&delivery| !books.has(delivery)).count();
        let complete = |books: &Books| missing(books) == 0;
        let came = tokio::select! {
            came = chronicle.until(HEALED, complete) => came,
            () = self.broken() => false,
        };
        if !came {
            let lost: Vec<_> = expected.into_iter().filter(|&delivery| !chronicle.books().has(delivery)).collect();
            return self.fail("this never came", &lost).await;
        }
        report(format_args!("soak: complete {:.1?} after all was healed", chronicle.now() - all_is_well));
        self.over.cancel();
        std::mem::take(&mut self.lives).join_all().await;
    }

    /// The servers are shut down, and have marked everything then.
    async fn stop(&mut self) {
        for server in &self.world.servers {
            server.lock().await.stop(How::Terminated).await;
        }
        self.stop.cancel();
        std::mem::take(&mut self.subscribers).join_all().await;
        let mut unmarked = Vec::new();
        for namespace in 0..NAMESPACES {
            let (marked, workflows) = self.world.marked(namespace).await;
            let here = |run: usize| self.runs[run].namespace == namespace && workflows.contains(&name_of(run));
            unmarked.extend(self.expected().into_iter().filter(|mark| here(mark.1) && !marked.contains(mark)));
        }
        self.fail("this was not marked when the servers were shut down", &unmarked).await;
    }

    /// A server that begins with nothing but the marks sends what is new, and nothing else.
    async fn begin_anew(&mut self) {
        self.world.servers[0].lock().await.start().await;
        self.subscribe().await;
        self.heal().await;
        self.stop().await;
    }

    async fn conclude(self, memory: &Samples) {
        let mut tally = Tally::new("soak");
        let key = |subscriber: usize| format!("{}/{}", SUBSCRIBERS[subscriber].0, SUBSCRIBERS[subscriber].1);
        for (subscriber, run) in self.expected() {
            tally.expect(&key(subscriber), &location_of(run));
        }
        for ((subscriber, run), times) in self.world.chronicle.books().counts() {
            (0..times).for_each(|_| tally.delivered(&key(subscriber), &location_of(run)));
        }
        let (explained, unexplained) = self.world.chronicle.books().audit();
        let causes: Vec<_> = explained.iter().map(|(cause, times)| format!("{times} by {cause}")).collect();
        let causes = if causes.is_empty() { "none came".to_owned() } else { causes.join(", ") };
        report(format_args!("soak: repetitions explained: {causes}"));
        let growth = memory.growth();
        if let Some(growth) = growth {
            report(format_args!("soak: resident memory of the first server: {growth}"));
        }
        self.fail("nothing explains that this came again", &unexplained).await;
        tally.conclude(explained.values().sum());
        if let Some(Growth { early, late }) = growth {
            assert!(late <= early + MARGIN, "memory has grown from {early} to {late} KiB");
        }
    }

    /// What has to come: every subscription's runs with a model.
    fn expected(&self) -> Vec<Delivery> {
        let runs = self.runs.iter().enumerate();
        runs.flat_map(|(n, run)| (0..SUBSCRIBERS.len()).filter(|&s| run.is_for(s)).map(move |s| (s, n))).collect()
    }

    /// Fails, with all that is known of the first of these; nothing where there is none.
    async fn fail(&self, what: &str, deliveries: &[Delivery]) {
        let Some(&first) = deliveries.first() else { return };
        let (run, log) = (&self.runs[first.1], self.world.log_of(&name_of(first.1)).await);
        let story = self.world.chronicle.books().story(first);
        panic!("{what}: {deliveries:?}\nthe first, {run:?}: {story}\n{log}");
    }
}
