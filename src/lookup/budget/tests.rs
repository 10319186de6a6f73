use std::pin::pin;

use futures::{FutureExt, future::join_all, poll};
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { total: 100, per_namespace: 60, waiting: 4, waiting_per_namespace: 3 };

fn namespace(name: &str) -> Arc<str> {
    name.into()
}

#[tokio::test]
async fn units_are_given_back_when_a_permit_is_dropped() {
    let budget = Budget::new(LIMITS);
    let mut permit = budget.acquire(&namespace("a"), 40).await.unwrap();
    permit.merge(budget.try_acquire(&namespace("a"), 20).unwrap());
    assert_eq!((permit.units(), budget.used()), (60, 60));
    assert!(budget.try_acquire(&namespace("a"), 1).is_none(), "its share is used up");
    let other = budget.try_acquire(&namespace("b"), 40).unwrap();
    assert!(budget.try_acquire(&namespace("c"), 1).is_none(), "the total is used up");
    drop((permit, other));
    assert_eq!(budget.used(), 0);
    assert!(budget.0.lock().by_namespace.is_empty());
    let nothing = budget.try_acquire(&namespace("a"), 0).unwrap();
    assert!(budget.0.lock().by_namespace.is_empty());
    drop(nothing);
}

#[tokio::test]
async fn the_namespace_that_holds_least_comes_first() {
    let budget = Budget::new(LIMITS);
    let (a, b) = (namespace("a"), namespace("b"));
    let (held, more) = (budget.try_acquire(&a, 50).unwrap(), budget.try_acquire(&namespace("c"), 50).unwrap());
    let mut of_a = pin!(budget.acquire(&a, 10));
    let mut of_b = pin!(budget.acquire(&b, 50));
    assert!(poll!(&mut of_a).is_pending() && poll!(&mut of_b).is_pending());
    drop(more);
    let permit = of_b.now_or_never().expect("it holds nothing").unwrap();
    assert!(poll!(&mut of_a).is_pending());
    drop(permit);
    assert!(of_a.now_or_never().unwrap().is_ok());
    drop(held);
}

/// Namespaces with many old requests have no more turns than one whose request is new.
#[tokio::test]
async fn namespaces_that_hold_the_same_take_turns() {
    let limits = Limits { total: 1, per_namespace: 1, waiting: 100, waiting_per_namespace: 20 };
    let budget = Budget::new(limits);
    let names: Vec<_> = (0..4).map(|number| namespace(&format!("tenant-{number}"))).collect();
    let held = budget.try_acquire(&names[0], 1).unwrap();
    let mut requests: Vec<_> = (0..80).map(|request| Box::pin(budget.acquire(&names[request % 4], 1))).collect();
    for request in &mut requests {
        assert!(poll!(request).is_pending());
    }
    let name = namespace("new");
    let mut new = pin!(budget.acquire(&name, 1).map(Result::unwrap));
    assert!(poll!(&mut new).is_pending());
    let (mut held, mut served) = (Some(held), 0);
    let new = loop {
        drop(held.take());
        if let Some(permit) = new.as_mut().now_or_never() {
            break permit;
        }
        let index = requests.iter_mut().position(|request| match request.as_mut().now_or_never() {
            Some(permit) => {
                held = Some(permit.unwrap());
                true
            }
            None => false,
        });
        drop(requests.remove(index.unwrap()));
        served += 1;
    };
    assert!(served <= 4, "{served} requests of four others");
    // Nothing is kept about namespaces that no longer wait.
    drop((new, requests));
    let held = budget.try_acquire(&names[0], 1).unwrap();
    let mut last = pin!(budget.acquire(&names[1], 1));
    assert!(poll!(&mut last).is_pending());
    assert_eq!(budget.0.lock().rounds.len(), 1);
    drop(held);
}

/// A stream of small requests would otherwise delay a large one forever.
#[tokio::test]
async fn a_small_request_does_not_overtake_a_large_one() {
    let budget = Budget::new(LIMITS);
    let (b, c) = (namespace("b"), namespace("c"));
    let held = budget.try_acquire(&namespace("a"), 50).unwrap();
    let mut large = pin!(budget.acquire(&b, 60).map(Result::unwrap));
    assert!(poll!(&mut large).is_pending());
    assert!(budget.try_acquire(&c, 1).is_none());
    let mut small = pin!(budget.acquire(&c, 1).map(Result::unwrap));
    assert!(poll!(&mut small).is_pending());
    drop(held);
    let _large = large.now_or_never().unwrap();
    assert!(small.now_or_never().is_some());
}

/// Nothing may be released for a long time after that.
#[tokio::test]
async fn a_request_that_is_given_up_delays_no_other() {
    let budget = Budget::new(LIMITS);
    let (b, c) = (namespace("b"), namespace("c"));
    let _held = budget.try_acquire(&namespace("a"), 50).unwrap();
    let mut large = Box::pin(budget.acquire(&b, 60));
    assert!(poll!(&mut large).is_pending());
    let mut small = pin!(budget.acquire(&c, 1));
    assert!(poll!(&mut small).is_pending());
    drop(large);
    assert!(small.now_or_never().expect("there is room").is_ok());
}

/// A request that waits only for units of its own namespace does not delay others.
#[tokio::test]
async fn a_namespace_without_share_delays_no_other() {
    let budget = Budget::new(LIMITS);
    let a = namespace("a");
    let _held = budget.try_acquire(&a, 60).unwrap();
    let mut more = pin!(budget.acquire(&a, 60));
    assert!(poll!(&mut more).is_pending());
    assert!(budget.try_acquire(&namespace("b"), 40).is_some());
    assert!(budget.acquire(&namespace("b"), 40).now_or_never().unwrap().is_ok());
}

#[tokio::test]
async fn a_limited_number_of_requests_wait() {
    let budget = Budget::new(LIMITS);
    let names = ["a", "b"].map(namespace);
    let _held = names.each_ref().map(|name| budget.try_acquire(name, 50).unwrap());
    let of_a: Vec<_> = (0..3).map(|_| Box::pin(budget.acquire(&names[0], 10))).collect();
    let mut of_a = join_all(of_a);
    assert!(poll!(&mut of_a).is_pending());
    assert_eq!(budget.acquire(&names[0], 10).now_or_never().unwrap().err(), Some(Exhausted), "of a namespace");
    let mut of_b = Box::pin(budget.acquire(&names[1], 10));
    assert!(poll!(&mut of_b).is_pending());
    assert_eq!(budget.acquire(&names[1], 10).now_or_never().unwrap().err(), Some(Exhausted), "of all");
    assert_eq!(budget.waiting(), 4);
    drop(of_a);
    assert_eq!(budget.waiting(), 1, "a request that was given up does not count");
    assert!(poll!(&mut Box::pin(budget.acquire(&names[0], 10))).is_pending());
}

#[tokio::test]
async fn a_permit_for_a_request_that_was_given_up_is_released() {
    let budget = Budget::new(LIMITS);
    let b = namespace("b");
    let held = budget.try_acquire(&namespace("a"), 60).unwrap();
    let mut request = Box::pin(budget.acquire(&b, 60));
    assert!(poll!(&mut request).is_pending());
    drop(held);
    // Granted, and not received.
    assert_eq!(budget.used(), 60);
    drop(request);
    assert_eq!(budget.used(), 0);
}

/// A step of the property test: a request, or the release of the oldest permit.
#[derive(Clone, Copy, Debug)]
enum Step {
    Acquire(usize, usize),
    Release,
    GiveUp,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3_usize, 0..=60_usize).prop_map(|(namespace, units)| Step::Acquire(namespace, units)),
        2 => Just(Step::Release),
        1 => Just(Step::GiveUp),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// The limits hold at all times, and every request that waits is served once enough was released.
    #[test]
    fn limits_hold_and_nothing_is_lost(steps in steps()) {
        let names = ["a", "b", "c"].map(namespace);
        let budget = Budget::new(LIMITS);
        let mut waiting: Vec<_> = Vec::new();
        let mut held: Vec<(usize, Permit)> = Vec::new();
        for step in steps {
            match step {
                Step::Acquire(name, units) => {
                    let (budget, namespace) = (budget.clone(), names[name].clone());
                    waiting.push((name, Box::pin(async move { budget.acquire(&namespace, units).await })));
                }
                Step::Release => drop((!held.is_empty()).then(|| held.remove(0))),
                Step::GiveUp => drop((!waiting.is_empty()).then(|| waiting.remove(0))),
            }
            // A request may be served while a later one is polled.
            for _ in 0..2 {
                waiting.retain_mut(|(name, request)| match request.now_or_never() {
                    Some(Ok(permit)) => {
                        held.push((*name, permit));
                        false
                    }
                    Some(Err(Exhausted)) => false,
                    None => true,
                });
            }
            let used: usize = held.iter().map(|(_, permit)| permit.units()).sum();
            prop_assert_eq!(budget.used(), used);
            prop_assert!(used <= LIMITS.total && waiting.len() <= LIMITS.waiting);
            for name in 0..3 {
                let of_name = held.iter().filter(|(other, _)| *other == name);
                prop_assert!(of_name.map(|(_, permit)| permit.units()).sum::<usize>() <= LIMITS.per_namespace);
                prop_assert!(waiting.iter().filter(|(other, _)| *other == name).count() <= LIMITS.waiting_per_namespace);
            }
        }
        while !held.is_empty() {
            held.remove(0);
            waiting.retain_mut(|(name, request)| match request.now_or_never() {
                Some(permit) => {
                    held.push((*name, permit.expect("it waited")));
                    false
                }
                None => true,
            });
        }
        prop_assert!(waiting.is_empty());
        prop_assert_eq!(budget.used(), 0);
    }
}
