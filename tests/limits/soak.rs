//! The soak test: one namespace attacks in every way at random, for a chosen time and from a seed, while the deliveries of
//! two others stay exact: everything arrives once, is marked, and nothing is repeated by the next server.
//!
//! `MODEL_UPDATE_SOAK_SECONDS` sets the duration, `MODEL_UPDATE_SOAK_SEED` the attacks; see CONTRIBUTING.md.

mod attacks;

use std::{collections::BTreeMap, env, sync::Arc, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use test_support::{SOON, eventually, report};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use self::attacks::{Attack, Attacker, HOSTILE};
use crate::{
    exclusive,
    harness::{Observation, Simulated, Tenant, is_marked},
    webhook::Webhook,
};

/// Default duration in seconds: short enough for every change.
const SECONDS: u64 = 20;
/// Default seed.
const SEED: u64 = 11;
/// Attacks that take place at the same time.
const CONCURRENT: usize = 3;
/// Longest pause between the beginnings of two attacks, in milliseconds.
const MAX_PAUSE: u64 = 1_000;
/// Time in which the last events are confirmed and marked.
const MARKED: Duration = Duration::from_secs(10);

/// One namespace that attacks at random harms no other, and the deliveries of the others are exact.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_namespace_leaves_other_deliveries_exact() {
    let _exclusive = exclusive().await;
    let seed = number("MODEL_UPDATE_SOAK_SEED", SEED);
    let duration = Duration::from_secs(number("MODEL_UPDATE_SOAK_SECONDS", SECONDS));
    report(format_args!("limits: soak: seed {seed}, {duration:?}"));
    let env = Arc::new(Simulated::start().await);
    let webhook = Arc::new(Webhook::start(&env, HOSTILE).await);
    webhook.hang(false);
    let server = env.server_at(&webhook.url(), &env.sim.metadata_url(), &[]).await;
    let tenants = ["first", "second"];
    let mut observations = Vec::new();
    for tenant in tenants {
        observations.push(Observation::start("soak", &server, Tenant::simulated(tenant, env.sim.clone())).await);
    }

    let attacker = Attacker { env: env.clone(), server: server.listen, webhook: webhook.clone() };
    let played = attack(attacker, seed, Instant::now() + duration).await;
    report(format_args!("limits: soak: {played:?}"));
    webhook.hang(false);
    let mut all = Vec::new();
    for observation in observations {
        all.push(observation.finish().await);
    }
    for (tenant, figures) in tenants.into_iter().zip(&all) {
        let runs = figures.latencies.len();
        eventually(MARKED, "the marks of the other tenants", async || {
            let names = (0..=runs).map(|run| format!("{tenant}-{run:05}"));
            let missing: Vec<_> = names.filter(|name| !is_marked(&env, tenant, name, "observed")).collect();
            if missing.is_empty() { Ok(()) } else { Err(missing) }
        })
        .await;
    }
    all.into_iter().for_each(|figures| figures.assert_unharmed());
    server.stop().await;

    // The first event is that of a new run.
    let server = env.server(&[]).await;
    for tenant in tenants {
        let mut later = Tenant::simulated(tenant, env.sim.clone());
        later.continue_after(LATER);
        Observation::start("soak, restarted", &server, later).await.finish().await.assert_unharmed();
    }
}

/// Number of the first run of a tenant after the restart: behind all others.
const LATER: usize = 50_000;

/// Plays attacks until the end. Returns their numbers.
async fn attack(attacker: Attacker, seed: u64, end: Instant) -> BTreeMap<Attack, usize> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut played = BTreeMap::new();
    let mut attacks = JoinSet::new();
    for round in 0.. {
        let pause = sleep(Duration::from_millis(random.random_range(0..MAX_PAUSE)));
        if timeout_at(end, pause).await.is_err() {
            break;
        }
        while attacks.len() >= CONCURRENT {
            match timeout_at(end, attacks.join_next()).await {
                Ok(ended) => ended.expect("some attacks").expect("an attack does not panic"),
                Err(_elapsed) => break,
            }
        }
        if Instant::now() >= end {
            break;
        }
        let attack = Attack::ALL[random.random_range(0..Attack::ALL.len())];
        *played.entry(attack).or_default() += 1;
        let attacker = attacker.clone();
        attacks.spawn(async move { attacker.play(attack, round).await });
    }
    // The last ones end by themselves.
    while let Some(ended) = tokio::time::timeout(SOON * 2, attacks.join_next()).await.expect("the attacks end") {
        ended.expect("an attack does not panic");
    }
    played
}

fn number(variable: &str, default: u64) -> u64 {
    let Ok(value) = env::var(variable) else { return default };
    value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a whole number"))
}
