//! The number of concurrent calls, which adapts. Kubeflow's API server has each call reviewed by the Kubernetes API, and
//! makes at most five requests a second there, for all its users together. So few calls are made at a time, fewer while
//! they are slow or fail, and namespaces take turns.
//!
//! The server reads a whole run for each page, so a tenant with large runs decides how long calls about them take, and
//! whether they fail. So:
//!
//! - a call that takes longer than [`LONG`] leaves its place to other namespaces, and stays in the share of its own;
//! - the calls of one namespace alone never make the limit smaller. The server is slow if those of another are slow, too.
//!   Until then there are more places than one namespace may have.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::{Either, select};
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, timeout};
use tonic::Code;

use crate::lookup::{
    budget::{Budget, Limits, Permit},
    error::{CallCode, CallError},
    meter::{MAX_KFP_CALLS, MAX_LONG_KFP_CALLS},
};

/// Concurrent calls at the start.
const FIRST: usize = 3;
/// The least concurrent calls. With one, the calls of several slow tenants would be between those of another.
const MIN: usize = 2;
/// Concurrent calls of one namespace, those that take long included: it never has all places of the start.
const PER_NAMESPACE: usize = 2;
/// Waiting calls: as many as delivery has lookups in flight.
const WAITING: usize = 2048;
/// Waiting calls of one namespace: the lookups that delivery has in flight for it.
const WAITING_PER_NAMESPACE: usize = 64;
/// Maximum time in which a call waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(240);
/// Duration of a call from which on the server is slow. A review takes milliseconds, unless it waits for its turn.
const SLOW: Duration = Duration::from_secs(1);
/// Duration of a call after which it leaves its place to other namespaces: a quarter of what one may delay another, because
/// a lookup may have several calls, each of which waits for its turn.
const LONG: Duration = Duration::from_millis(250);

/// The limit. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    places: Budget,
    /// The calls that have left their places.
    long: Budget,
    adaptive: Arc<Mutex<Adaptive>>,
    gauge: Gauge,
}

/// The limit as a rule: it grows by one after as many calls as it allows, and shrinks at once.
#[derive(Debug, PartialEq, Eq)]
struct Adaptive {
    limit: usize,
    /// Good calls since the last change.
    good: usize,
    /// The namespace of the last call that was slow or failed.
    last_bad: Option<Arc<str>>,
}

impl Adaptive {
    fn new() -> Self {
        Self { limit: FIRST, good: 0, last_bad: None }
    }

    /// Handles the end of a call for a run of this namespace.
    fn ended(&mut self, namespace: &Arc<str>, error: Option<CallCode>, duration: Duration) {
        let limit = match error {
            // UNAUTHENTICATED may be a review that ran out of time.
            Some(
                CallCode::Timeout
                | CallCode::Grpc(
                    Code::ResourceExhausted | Code::DeadlineExceeded | Code::Unavailable | Code::Unauthenticated,
                ),
            ) => self.limit / 2,
            _ if duration >= SLOW => self.limit - 1,
            _ if self.good + 1 >= self.limit => self.limit + 1,
            _ => {
                self.good += 1;
                return;
            }
        };
        if limit <= self.limit {
            let before = self.last_bad.replace(namespace.clone());
            if before.is_none_or(|before| before == *namespace) {
                return;
            }
        }
        self.limit = limit.clamp(MIN, MAX_KFP_CALLS);
        self.good = 0;
    }
}

impl Calls {
    /// `gauge` shows the limit.
    pub(super) fn new(gauge: Gauge) -> Self {
        let limits = Limits {
            total: FIRST,
            per_namespace: PER_NAMESPACE,
            waiting: WAITING,
            waiting_per_namespace: WAITING_PER_NAMESPACE,
        };
        gauge.set(FIRST as i64);
        let adaptive = Arc::new(Mutex::new(Adaptive::new()));
        let long = Budget::new(Limits {
            total: MAX_LONG_KFP_CALLS,
            per_namespace: PER_NAMESPACE,
            waiting: MAX_KFP_CALLS,
            waiting_per_namespace: PER_NAMESPACE,
        });
        Self { places: Budget::new(limits), long, adaptive, gauge }
    }

    /// Makes a call for a run of this namespace in its turn.
    pub(super) async fn in_turn<T>(
        &self,
        namespace: &Arc<str>,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let mut place = self.turn(namespace).await?;
        let started = Instant::now();
        let mut call = pin!(call);
        let result = match timeout(LONG, &mut call).await {
            Ok(result) => result,
            Err(_) => match select(call, pin!(self.long.acquire(namespace, 1))).await {
                Either::Left((result, _)) => result,
                Either::Right((long, call)) => {
                    if long.is_ok() {
                        place.leave_total();
                    }
                    call.await
                }
            },
        };
        self.ended(namespace, &result, started.elapsed());
        result
    }

    /// Waits for the turn of a call for a run of this namespace.
    async fn turn(&self, namespace: &Arc<str>) -> Result<Permit, CallError> {
        match timeout(MAX_WAIT, self.places.acquire(namespace, 1)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(CallError::overloaded("too many calls wait for their turn")),
            Err(_) => Err(CallError::overloaded(format!("no turn within {MAX_WAIT:?}"))),
        }
    }

    /// Notes the end of a call.
    fn ended<T>(&self, namespace: &Arc<str>, result: &Result<T, CallError>, duration: Duration) {
        let limit = {
            let mut adaptive = self.adaptive.lock().unwrap_or_else(PoisonError::into_inner);
            let before = adaptive.limit;
            adaptive.ended(namespace, result.as_ref().err().map(|error| error.code), duration);
            (adaptive.limit != before).then_some(adaptive.limit)
        };
        if let Some(limit) = limit {
            self.places.set_total(limit);
            self.gauge.set(limit as i64);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const FAST: Duration = Duration::from_millis(20);

    #[test]
    fn the_limit_grows_by_good_calls_and_shrinks_by_bad_ones() {
        let mut adaptive = Adaptive::new();
        let names: [Arc<str>; 2] = ["a".into(), "b".into()];
        let mut calls = 0;
        // The namespaces take turns.
        let mut ended = |adaptive: &mut Adaptive, error, duration| {
            calls += 1;
            adaptive.ended(&names[calls % 2], error, duration);
        };
        (0..3 + 4 + 5).for_each(|_| ended(&mut adaptive, None, FAST));
        assert_eq!(adaptive.limit, 6);
        (0..100).for_each(|_| ended(&mut adaptive, Some(CallCode::Grpc(Code::NotFound)), FAST));
        assert_eq!(adaptive.limit, MAX_KFP_CALLS, "an answer, too");
        ended(&mut adaptive, Some(CallCode::Timeout), FAST);
        assert_eq!(adaptive.limit, MAX_KFP_CALLS, "of one namespace");
        ended(&mut adaptive, Some(CallCode::Timeout), FAST);
        assert_eq!(adaptive.limit, 3);
        ended(&mut adaptive, None, SLOW);
        assert_eq!(adaptive.limit, 2);
        (0..9).for_each(|_| ended(&mut adaptive, Some(CallCode::Grpc(Code::Unauthenticated)), FAST));
        assert_eq!((adaptive.limit, adaptive.good), (MIN, 0));
        (0..2).for_each(|_| ended(&mut adaptive, None, FAST));
        assert_eq!(adaptive.limit, 3);
    }

    /// One tenant has many runs whose calls are slow, or have no answer. The lookups of another tenant, of three calls each,
    /// take no longer than their calls; beside several such tenants, at most a second longer. (The calls of four tenants that
    /// take many seconds fill the places of long calls.)
    #[tokio::test(start_paused = true)]
    async fn slow_calls_of_tenants_do_not_delay_another() {
        let took = [150, 240, 400, 1000, 1100, 5000, 20_000].map(Duration::from_millis);
        for (tenants, took, allowed) in [
            (1, &took[..], Duration::ZERO),
            (3, &took, Duration::from_secs(1)),
            (6, &took[..4], Duration::from_secs(1)),
        ] {
            for took in took.iter().copied() {
                let calls = Calls::new(Gauge::default());
                // Nothing but the slow calls is known about the server. Each tenant has the lookups that delivery gives it.
                let slow = (0..tenants * 32).map(|lookup| {
                    let (calls, namespace) = (calls.clone(), Arc::from(format!("slow-{}", lookup % tenants)));
                    tokio::spawn(async move {
                        loop {
                            let call = async {
                                sleep(took).await;
                                if took >= SLOW { Err(CallError::timeout("ListTasks", took)) } else { Ok(()) }
                            };
                            drop(calls.in_turn(&namespace, call).await);
                        }
                    })
                });
                let slow: Vec<_> = slow.collect();
                let quick: Arc<str> = "quick".into();
                let mut longest = Duration::ZERO;
                for _ in 0..60 {
                    sleep(Duration::from_millis(730)).await;
                    let started = Instant::now();
                    for _ in 0..3 {
                        let call = async {
                            sleep(FAST).await;
                            Ok(())
                        };
                        calls.in_turn(&quick, call).await.unwrap();
                    }
                    longest = longest.max(started.elapsed().saturating_sub(3 * FAST));
                }
                slow.iter().for_each(tokio::task::JoinHandle::abort);
                assert!(longest <= allowed + Duration::from_millis(10), "{tenants} tenants, {took:?}: {longest:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_namespace_with_many_calls_leaves_places_to_others() {
        let calls = Calls::new(Gauge::default());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut of_a = Vec::new();
        for _ in 0..PER_NAMESPACE {
            of_a.push(calls.turn(&a).await.unwrap());
        }
        let waiting = tokio::spawn({
            let (calls, a) = (calls.clone(), a.clone());
            async move { calls.turn(&a).await.map(drop) }
        });
        while calls.places.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        drop(calls.turn(&b).await.unwrap());
        of_a.pop();
        waiting.await.unwrap().unwrap();
    }

    /// With a single place, calls of a tenant without an answer delay another by a quarter of a second each, not until
    /// they end.
    #[tokio::test(start_paused = true)]
    async fn calls_that_take_long_leave_their_places() {
        let calls = Calls::new(Gauge::default());
        calls.places.set_total(1);
        let long = |namespace: Arc<str>| {
            let calls = calls.clone();
            tokio::spawn(async move {
                let call = async {
                    sleep(Duration::from_secs(20)).await;
                    Ok(())
                };
                calls.in_turn(&namespace, call).await
            })
        };
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let tenant: Vec<_> = (0..5).map(|_| long(a.clone())).collect();
        tokio::task::yield_now().await;
        for _ in 0..3 {
            let started = Instant::now();
            calls.in_turn(&b, async { Ok(()) }).await.unwrap();
            assert!(started.elapsed() <= LONG + Duration::from_millis(10), "{:?}", started.elapsed());
        }
        assert_eq!((calls.long.used(), calls.places.waiting()), (PER_NAMESPACE, 3), "the tenant's others wait");
        for call in tenant {
            call.await.unwrap().unwrap();
        }
        assert_eq!((calls.long.used(), calls.places.used()), (0, 0));
    }
}
