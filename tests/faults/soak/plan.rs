//! The plan of a soak: a pure function of its seed and its duration.
//!
//! Each target (the API server, ML Metadata, each server, each subscriber) has a schedule of faults. Faults of one target
//! never overlap; faults of different targets may. Each schedule has a random sequence of its own, so that a change of
//! one schedule does not affect the others.

use std::{fmt, ops::Range, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// Number of namespaces.
pub(crate) const NAMESPACES: usize = 3;
/// Number of replicas of the server.
pub(crate) const SERVERS: usize = 2;
/// The pipelines of the runs.
pub(crate) const PIPELINES: [&str; 2] = ["penguin-train", "taxi-train"];
/// The subscribers.
pub(crate) const SUBSCRIBERS: [SubscriberSpec; 5] = [
    SubscriberSpec { namespace: 0, subscription: "all", pipelines: None },
    SubscriberSpec { namespace: 0, subscription: "penguins", pipelines: Some("penguin-*") },
    SubscriberSpec { namespace: 1, subscription: "one", pipelines: None },
    SubscriberSpec { namespace: 1, subscription: "another", pipelines: None },
    SubscriberSpec { namespace: 2, subscription: "all", pipelines: None },
];

/// The first server is the only one, and has faults, for this fraction (1/4) of the duration. Then the second one starts
/// and has faults, and the first one runs to the end, so that its memory can be observed.
const SINGLE_SERVER: u32 = 4;
/// Minimum duration of a soak with pauses of the API server that exceed the timeout of a silent connection.
const LONG: Duration = Duration::from_secs(300);

/// A subscriber's configuration.
#[derive(Debug)]
pub(crate) struct SubscriberSpec {
    /// Number of the namespace.
    pub(crate) namespace: usize,
    pub(crate) subscription: &'static str,
    pub(crate) pipelines: Option<&'static str>,
}

/// The runs and faults of a soak.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order of their creation; the position of a run is its number.
    pub(crate) runs: Vec<Run>,
    pub(crate) schedules: Vec<Schedule>,
    pub(crate) second_server_at: Duration,
}

/// A run of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) at: Duration,
    /// Time until it succeeds or fails.
    pub(crate) duration: Duration,
    /// Number of the namespace.
    pub(crate) namespace: usize,
    pub(crate) pipeline: &'static str,
    pub(crate) kind: RunKind,
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RunKind {
    /// Succeeds with a model; its Workflow stays.
    Model,
    /// Succeeds with a model; its Workflow is deleted when all deliveries are marked.
    Deleted,
    /// Pushes a model and fails, is retried, and succeeds.
    Retried,
    /// Pushes a model and fails.
    Failed,
    /// Succeeds without a model.
    NoModel,
    /// Succeeds with a model that was not blessed.
    Unblessed,
}

/// The faults of one target, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
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
    pub(crate) duration: Duration,
    pub(crate) kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// SIGKILL; restarted after the duration.
    Killed,
    /// SIGKILL of the API server; etcd is compacted before the restart.
    KilledAndCompacted,
    /// SIGTERM; restarted after the duration.
    Terminated,
    /// SIGSTOP; SIGCONT after the duration.
    Paused,
    /// SIGSTOP; SIGKILL after the duration.
    PausedThenKilled,
    /// The server's account has no permissions for the duration.
    PermissionsWithdrawn,
}

impl Run {
    /// Returns the numbers of the subscribers that must receive the run's event.
    pub(crate) fn subscribers(&self) -> impl Iterator<Item = usize> {
        let has_event = matches!(self.kind, RunKind::Model | RunKind::Deleted | RunKind::Retried);
        (0..SUBSCRIBERS.len()).filter(move |&number| {
            let SubscriberSpec { namespace, pipelines, .. } = &SUBSCRIBERS[number];
            let matches = pipelines.is_none_or(|pattern| self.pipeline.starts_with(pattern.trim_end_matches('*')));
            *namespace == self.namespace && matches && has_event
        })
    }
}

impl Plan {
    pub(crate) fn new(seed: u64, duration: Duration) -> Self {
        let second_server_at = duration / SINGLE_SERVER;
        let all = Duration::ZERO..duration;
        let mut schedules = vec![
            schedule(seed, Target::ApiServer, all.clone()),
            schedule(seed, Target::MetadataStore, all.clone()),
            schedule(seed, Target::Server(0), Duration::ZERO..second_server_at),
            schedule(seed, Target::Server(1), second_server_at..duration),
        ];
        schedules.extend((0..SUBSCRIBERS.len()).map(|n| schedule(seed, Target::Subscriber(n), all.clone())));
        Self { runs: runs(seed, duration), schedules, second_server_at }
    }
}

fn schedule(seed: u64, target: Target, period: Range<Duration>) -> Schedule {
    use FaultKind::{Killed, KilledAndCompacted, Paused, PausedThenKilled, PermissionsWithdrawn, Terminated};
    let (number, pauses, kinds): (u64, _, &[(FaultKind, Range<u64>)]) = match target {
        // All times are in milliseconds. The restart of the API server takes some seconds more.
        Target::ApiServer => (
            1,
            4_000..12_000,
            &[
                (Killed, 1..2_000),
                (KilledAndCompacted, 1..2_000),
                (Paused, 500..8_000),
                (PermissionsWithdrawn, 500..4_000),
            ],
        ),
        Target::MetadataStore => (2, 4_000..12_000, &[(Killed, 1..4_000), (Paused, 500..8_000)]),
        Target::Server(n) => (3 + n as u64, 4_000..12_000, &[(Killed, 1..4_000), (Terminated, 1..4_000)]),
        Target::Subscriber(n) => {
            (100 + n as u64, 2_000..15_000, &[(Killed, 1..2_000), (Paused, 200..6_000), (PausedThenKilled, 200..6_000)])
        }
    };
    let mut random = sequence(seed, number);
    let mut faults = Vec::new();
    let mut at = period.start;
    loop {
        at += millis(&mut random, pauses.clone());
        let (kind, durations) = &kinds[random.random_range(0..kinds.len())];
        let mut duration = millis(&mut random, durations.clone());
        if target == Target::ApiServer && *kind == Paused && period.end >= LONG && random.random_ratio(1, 5) {
            duration = Duration::from_secs(30);
        }
        if at + duration >= period.end {
            return Schedule { target, faults };
        }
        faults.push(Fault { at, duration, kind: *kind });
        at += duration;
    }
}

fn runs(seed: u64, duration: Duration) -> Vec<Run> {
    let mut random = sequence(seed, 0);
    let mut runs = Vec::new();
    let mut at = Duration::ZERO;
    while at < duration {
        let burst = if random.random_ratio(1, 15) { 10 } else { 1 };
        for _ in 0..burst {
            let kind = match random.random_range(0..20) {
                0..10 => RunKind::Model,
                10..13 => RunKind::Deleted,
                13..15 => RunKind::Retried,
                15..17 => RunKind::Failed,
                17..19 => RunKind::NoModel,
                _ => RunKind::Unblessed,
            };
            runs.push(Run {
                at,
                duration: millis(&mut random, 1..4_000),
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
        let with_event = self.runs.iter().filter(|run| run.subscribers().next().is_some()).count();
        write!(f, "{} runs, {with_event} of them with an event", self.runs.len())?;
        for Schedule { target, faults } in &self.schedules {
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
    fn plans_are_equal_for_equal_seeds_only() {
        assert_eq!(Plan::new(1, SHORT), Plan::new(1, SHORT));
        assert_ne!(Plan::new(1, SHORT), Plan::new(2, SHORT));
    }

    #[test]
    fn faults_of_a_target_do_not_overlap_and_end_in_time() {
        for seed in 0..50 {
            for Schedule { target, faults } in Plan::new(seed, LONG).schedules {
                assert!(faults.is_sorted_by(|one, next| one.at + one.duration < next.at), "seed {seed}: {target}");
                assert!(faults.last().is_none_or(|fault| fault.at + fault.duration < LONG), "seed {seed}: {target}");
            }
        }
    }

    #[test]
    fn the_first_server_has_no_fault_after_the_second_has_started() {
        for seed in 0..50 {
            let plan = Plan::new(seed, SHORT);
            assert!(faults(&plan, Target::Server(0)).all(|fault| fault.at + fault.duration < plan.second_server_at));
            assert!(faults(&plan, Target::Server(1)).all(|fault| fault.at > plan.second_server_at));
        }
    }

    #[test]
    fn every_kind_of_fault_and_of_run_occurs() {
        let plan = Plan::new(0, 2 * LONG);
        let mut kinds: Vec<_> = plan.runs.iter().map(|run| run.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 6);
        for (target, expected) in [
            (
                Target::ApiServer,
                &[FaultKind::Killed, FaultKind::KilledAndCompacted, FaultKind::PermissionsWithdrawn][..],
            ),
            (Target::MetadataStore, &[FaultKind::Killed, FaultKind::Paused]),
            (Target::Server(0), &[FaultKind::Killed, FaultKind::Terminated]),
            (Target::Server(1), &[FaultKind::Killed, FaultKind::Terminated]),
            (Target::Subscriber(0), &[FaultKind::Killed, FaultKind::Paused, FaultKind::PausedThenKilled]),
        ] {
            for kind in expected {
                assert!(faults(&plan, target).any(|fault| fault.kind == *kind), "{target}: {kind:?}");
            }
        }
        assert!(faults(&plan, Target::ApiServer).any(|fault| fault.duration == Duration::from_secs(30)));
    }

    fn faults(plan: &Plan, target: Target) -> impl Iterator<Item = &Fault> {
        let schedules = plan.schedules.iter().filter(move |schedule| schedule.target == target);
        schedules.flat_map(|schedule| &schedule.faults)
    }

    /// The namespace, the pipeline and the kind of a run determine the subscribers that must receive its event.
    #[test]
    fn a_run_has_the_subscribers_of_its_namespace_and_pipeline() {
        let subscribers = |namespace, pipeline, kind| {
            let run = Run { at: Duration::ZERO, duration: Duration::ZERO, namespace, pipeline, kind };
            run.subscribers().collect::<Vec<_>>()
        };
        assert_eq!(subscribers(0, PIPELINES[0], RunKind::Model), [0, 1]);
        assert_eq!(subscribers(0, PIPELINES[1], RunKind::Retried), [0]);
        assert_eq!(subscribers(1, PIPELINES[1], RunKind::Deleted), [2, 3]);
        for kind in [RunKind::Failed, RunKind::NoModel, RunKind::Unblessed] {
            assert!(subscribers(2, PIPELINES[0], kind).is_empty(), "{kind:?}");
        }
    }
}
