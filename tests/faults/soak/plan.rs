//! What happens in a soak, and when: a pure function of its seed and its length.
//!
//! Each target (the API server, ML Metadata, each server, each subscriber) has a lane of faults of its own. Those of one
//! lane never overlap, those of different lanes do as it comes. A lane draws from a sequence of its own, so that a
//! change of one lane leaves the others as they were.

use std::{fmt, ops::Range, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// How many namespaces there are.
pub(crate) const NAMESPACES: usize = 3;
/// How many replicas of the server.
pub(crate) const SERVERS: usize = 2;
/// The pipelines whose runs appear.
pub(crate) const PIPELINES: [&str; 2] = ["penguin-train", "taxi-train"];
/// Who subscribes to what: the number of the namespace, the subscription, the pipelines that it wants.
pub(crate) const SUBSCRIBERS: [(usize, &str, Option<&str>); 5] =
    [(0, "all", None), (0, "penguins", Some("penguin-*")), (1, "one", None), (1, "another", None), (2, "all", None)];

/// The first server stands alone, and dies, for this part of the time. Then the second comes and dies again and again,
/// and the first lives on, so that its memory can be watched.
const ALONE: u32 = 4;
/// From this length on there are pauses of the API server that outlast the patience with a silent connection.
const LONG: Duration = Duration::from_secs(300);

/// A soak.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order in which they appear; a run is known by its place in here.
    pub(crate) runs: Vec<Run>,
    pub(crate) lanes: Vec<Lane>,
    /// When the second server is started.
    pub(crate) second: Duration,
}

/// A run of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) at: Duration,
    /// How long it runs until it has succeeded or failed.
    pub(crate) lasts: Duration,
    /// The number of its namespace.
    pub(crate) namespace: usize,
    pub(crate) pipeline: &'static str,
    pub(crate) kind: Kind,
}

/// What becomes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// It succeeds with a model, and stays.
    Model,
    /// As before, and its Workflow is deleted when everybody has got it.
    Deleted,
    /// It pushes a model and fails, is retried, and succeeds.
    Retried,
    /// It pushes a model and fails.
    Failed,
    /// It succeeds and has put out nothing.
    NoModel,
    /// It succeeds with a model that was not blessed.
    Unblessed,
}

/// What happens to one target, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) target: Target,
    pub(crate) faults: Vec<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    ApiServer,
    MetadataStore,
    Server(usize),
    Subscriber(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// SIGKILL; started again when it is over.
    Killed,
    /// The API server is killed, and etcd forgets all older revisions before it is back.
    KilledAndCompacted,
    /// SIGTERM; started again when it is over.
    Terminated,
    /// SIGSTOP; SIGCONT when it is over.
    Paused,
    /// SIGSTOP; SIGKILL when it is over.
    PausedThenKilled,
    /// Our account may do nothing; it is given its rights back when it is over.
    RightsWithdrawn,
}

impl Run {
    /// Whether this subscriber has to get it.
    pub(crate) fn is_for(&self, subscriber: usize) -> bool {
        let (namespace, _, pipelines) = SUBSCRIBERS[subscriber];
        let wanted = pipelines.is_none_or(|pattern| self.pipeline.starts_with(pattern.trim_end_matches('*')));
        let announced = matches!(self.kind, Kind::Model | Kind::Deleted | Kind::Retried);
        namespace == self.namespace && wanted && announced
    }
}

impl Plan {
    pub(crate) fn new(seed: u64, length: Duration) -> Self {
        let alone = length / ALONE;
        let mut lanes = vec![
            lane(seed, Target::ApiServer, Duration::ZERO..length),
            lane(seed, Target::MetadataStore, Duration::ZERO..length),
            lane(seed, Target::Server(0), Duration::ZERO..alone),
            lane(seed, Target::Server(1), alone..length),
        ];
        lanes.extend((0..SUBSCRIBERS.len()).map(|n| lane(seed, Target::Subscriber(n), Duration::ZERO..length)));
        Self { runs: runs(seed, length), lanes, second: alone }
    }
}

fn lane(seed: u64, target: Target, when: Range<Duration>) -> Lane {
    use FaultKind::{Killed, KilledAndCompacted, Paused, PausedThenKilled, RightsWithdrawn, Terminated};
    let (number, pauses, kinds): (u64, _, &[(FaultKind, Range<u64>)]) = match target {
        // The times are in milliseconds. A start of the API server takes some seconds more.
        Target::ApiServer => (
            1,
            4_000..12_000,
            &[(Killed, 1..2_000), (KilledAndCompacted, 1..2_000), (Paused, 500..8_000), (RightsWithdrawn, 500..4_000)],
        ),
        Target::MetadataStore => (2, 4_000..12_000, &[(Killed, 1..4_000), (Paused, 500..8_000)]),
        Target::Server(n) => (3 + n as u64, 4_000..12_000, &[(Killed, 1..4_000), (Terminated, 1..4_000)]),
        Target::Subscriber(n) => {
            (100 + n as u64, 2_000..15_000, &[(Killed, 1..2_000), (Paused, 200..6_000), (PausedThenKilled, 200..6_000)])
        }
    };
    let mut random = sequence(seed, number);
    let mut faults = Vec::new();
    let mut at = when.start;
    loop {
        at += millis(&mut random, pauses.clone());
        let (kind, lasts) = &kinds[random.random_range(0..kinds.len())];
        let mut lasts = millis(&mut random, lasts.clone());
        if target == Target::ApiServer && *kind == Paused && when.end >= LONG && random.random_ratio(1, 5) {
            lasts = Duration::from_secs(30);
        }
        if at + lasts >= when.end {
            return Lane { target, faults };
        }
        faults.push(Fault { at, lasts, kind: *kind });
        at += lasts;
    }
}

fn runs(seed: u64, length: Duration) -> Vec<Run> {
    let mut random = sequence(seed, 0);
    let mut runs = Vec::new();
    let mut at = Duration::ZERO;
    while at < length {
        let burst = if random.random_ratio(1, 15) { 10 } else { 1 };
        for _ in 0..burst {
            let kind = match random.random_range(0..20) {
                0..10 => Kind::Model,
                10..13 => Kind::Deleted,
                13..15 => Kind::Retried,
                15..17 => Kind::Failed,
                17..19 => Kind::NoModel,
                _ => Kind::Unblessed,
            };
            runs.push(Run {
                at,
                lasts: millis(&mut random, 1..4_000),
                namespace: random.random_range(0..NAMESPACES),
                pipeline: PIPELINES[random.random_range(0..PIPELINES.len())],
                kind,
            });
        }
        at += millis(&mut random, 200..1_200);
    }
    runs
}

fn sequence(seed: u64, number: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(number))
}

fn millis(random: &mut SmallRng, range: Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(range))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let models = self.runs.iter().filter(|run| (0..SUBSCRIBERS.len()).any(|n| run.is_for(n))).count();
        write!(f, "{} runs, {models} of them to be announced", self.runs.len())?;
        for Lane { target, faults } in &self.lanes {
            write!(f, "; {} faults of {target}", faults.len())?;
        }
        Ok(())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiServer => f.write_str("the API server"),
            Self::MetadataStore => f.write_str("ML Metadata"),
            Self::Server(n) => write!(f, "server {n}"),
            Self::Subscriber(n) => write!(f, "subscriber {n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(60);

    #[test]
    fn the_same_seed_makes_the_same_soak_and_another_one_another() {
        assert_eq!(Plan::new(1, SHORT), Plan::new(1, SHORT));
        assert_ne!(Plan::new(1, SHORT), Plan::new(2, SHORT));
    }

    #[test]
    fn faults_of_one_target_never_overlap_and_all_end_in_time() {
        for seed in 0..50 {
            for Lane { target, faults } in Plan::new(seed, LONG).lanes {
                assert!(faults.is_sorted_by(|one, next| one.at + one.lasts < next.at), "seed {seed}: {target}");
                assert!(faults.last().is_none_or(|fault| fault.at + fault.lasts < LONG), "seed {seed}: {target}");
            }
        }
    }

    #[test]
    fn the_first_server_lives_on_once_the_second_is_there() {
        for seed in 0..50 {
            let plan = Plan::new(seed, SHORT);
            let of = |n| plan.lanes.iter().filter(move |lane| lane.target == Target::Server(n));
            assert!(of(0).flat_map(|lane| &lane.faults).all(|fault| fault.at + fault.lasts < plan.second));
            assert!(of(1).flat_map(|lane| &lane.faults).all(|fault| fault.at > plan.second));
        }
    }

    #[test]
    fn every_fault_and_every_kind_of_run_comes_up() {
        let plan = Plan::new(0, 2 * LONG);
        let mut kinds: Vec<_> = plan.runs.iter().map(|run| run.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 6);
        let faults = |target| plan.lanes.iter().filter(move |lane| lane.target == target).flat_map(|lane| &lane.faults);
        for (target, wanted) in [
            (Target::ApiServer, &[FaultKind::Killed, FaultKind::KilledAndCompacted, FaultKind::RightsWithdrawn][..]),
            (Target::MetadataStore, &[FaultKind::Killed, FaultKind::Paused]),
            (Target::Server(0), &[FaultKind::Killed, FaultKind::Terminated]),
            (Target::Server(1), &[FaultKind::Killed, FaultKind::Terminated]),
            (Target::Subscriber(0), &[FaultKind::Killed, FaultKind::Paused, FaultKind::PausedThenKilled]),
        ] {
            for kind in wanted {
                assert!(faults(target).any(|fault| fault.kind == *kind), "{target}: {kind:?}");
            }
        }
        assert!(faults(Target::ApiServer).any(|fault| fault.lasts == Duration::from_secs(30)));
    }

    #[test]
    fn who_has_to_get_a_run_follows_from_its_namespace_pipeline_and_kind() {
        let run = |namespace, pipeline, kind| {
            let run = Run { at: Duration::ZERO, lasts: Duration::ZERO, namespace, pipeline, kind };
            (0..SUBSCRIBERS.len()).filter(|&n| run.is_for(n)).collect::<Vec<_>>()
        };
        assert_eq!(run(0, PIPELINES[0], Kind::Model), [0, 1]);
        assert_eq!(run(0, PIPELINES[1], Kind::Retried), [0]);
        assert_eq!(run(1, PIPELINES[1], Kind::Deleted), [2, 3]);
        for kind in [Kind::Failed, Kind::NoModel, Kind::Unblessed] {
            assert!(run(2, PIPELINES[0], kind).is_empty(), "{kind:?}");
        }
    }
}
