//! The number of concurrent calls, which adapts. Kubeflow's API server has each call reviewed by the Kubernetes API,
//! and makes at most five requests a second there, for all its users together. So few calls are made at a time, fewer
//! while they are slow or fail, and namespaces take turns.
//!
//! The server reads a whole run for each page, so a tenant with large runs decides how long calls about them take, and
//! whether they fail. This must not delay other namespaces:
//!
//! - A call that takes longer than [`LONG`] moves to one of the few places of long calls, and leaves its own place to
//!   other namespaces. It still counts in the share of its namespace.
//! - The next calls of its namespace are expected to be long, and wait for a place of long calls, until one of them is
//!   short. While those places are taken, a single long call may keep its ordinary place. Another one is cancelled, and
//!   its lookup is retried. So there is always a place in which no call takes longer than [`LONG`].
//! - After a cancelled call, short ones do not change what is expected until a long one has ended. Otherwise those
//!   about small runs of a namespace would have the calls about a large one cancelled again and again.
//! - The calls of one namespace alone never lower the limit. The server is slow if the calls of another namespace are
//!   slow, too. Until then there are more places than one namespace may have.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::{Either, select};
use moka::sync::Cache;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, timeout};
use tonic::Code;

use crate::lookup::{
    budget::{Budget, Exhausted, Limits, Permit},
    error::{CallCode, CallError},
    meter::{MAX_KFP_CALLS, MAX_LONG_KFP_CALLS},
};

/// Concurrent calls at the start.
const FIRST: usize = 3;
/// The minimum of concurrent calls. With a single one, calls of another tenant would wait for those of several slow
/// ones.
const MIN: usize = 2;
/// Concurrent calls of one namespace, those that take long included: it never has all places of the start.
const PER_NAMESPACE: usize = 2;
/// The maximum number of remembered namespaces whose last call was long.
const MAX_LONG_NAMESPACES: u64 = 1024;
/// The time for which they are remembered.
const LONG_NAMESPACE_TTL: Duration = Duration::from_secs(600);
/// Waiting calls: as many as delivery has lookups in flight.
const WAITING: usize = 2048;
/// Waiting calls of one namespace: the lookups that delivery has in flight for it.
const WAITING_PER_NAMESPACE: usize = 64;
/// Maximum time in which a call waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(240);
/// Duration of a call from which on the server is slow. A review takes milliseconds, unless it waits for its turn.
const SLOW: Duration = Duration::from_secs(1);
/// Duration of a call after which it leaves its place to other namespaces: a quarter of the time by which one namespace
/// may delay another, because a lookup may have several calls, each of which waits for its turn.
const LONG: Duration = Duration::from_millis(250);

/// The limit. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    /// The shares of namespaces, which have no limit in total.
    shares: Budget,
    /// The ordinary places, whose number is the limit.
    places: Budget,
    /// The right to keep an ordinary place for long: one less than [`MIN`].
    kept_places: Budget,
    /// The places of long calls.
    long: Budget,
    /// The namespaces whose calls are expected to be long.
    long_namespaces: Cache<Arc<str>, Expected>,
    adaptive: Arc<Mutex<Adaptive>>,
    gauge: Gauge,
}

/// The reason why the next call of a namespace is expected to be long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The last one was long.
    LastWasLong,
    /// A long one was cancelled, and none has ended since.
    Cancelled,
}

/// The turn of a call: a share of its namespace, and a place.
#[derive(Debug)]
struct Turn {
    _share: Permit,
    place: Place,
}

/// The place of a call.
#[derive(Debug)]
enum Place {
    Ordinary {
        _place: Permit,
        /// The right to keep it for long.
        kept: Option<Permit>,
    },
    Long {
        _place: Permit,
    },
}

/// The rule of the limit: it grows by one after as many good calls as it allows, and shrinks at once.
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
        let budget = |total, waiting_per_namespace| {
            Budget::new(Limits { total, per_namespace: PER_NAMESPACE, waiting: WAITING, waiting_per_namespace })
        };
        gauge.set(FIRST as i64);
        Self {
            shares: budget(usize::MAX, WAITING_PER_NAMESPACE),
            places: budget(FIRST, PER_NAMESPACE),
            kept_places: budget(MIN - 1, PER_NAMESPACE),
            long: budget(MAX_LONG_KFP_CALLS, PER_NAMESPACE),
            long_namespaces: Cache::builder()
                .max_capacity(MAX_LONG_NAMESPACES)
                .time_to_live(LONG_NAMESPACE_TTL)
                .build(),
            adaptive: Arc::new(Mutex::new(Adaptive::new())),
            gauge,
        }
    }

    /// Makes a call for a run of this namespace in its turn.
    pub(super) async fn in_turn<T>(
        &self,
        namespace: &Arc<str>,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let mut turn = self.turn(namespace).await?;
        let started = Instant::now();
        let mut call = pin!(call);
        let result = match turn.place {
            Place::Long { .. } => call.await,
            Place::Ordinary { .. } => match timeout(LONG, &mut call).await {
                Ok(result) => result,
                Err(_) => {
                    if !self.long_namespaces.contains_key(namespace) {
                        self.long_namespaces.insert(namespace.clone(), Expected::LastWasLong);
                    }
                    match select(&mut call, pin!(self.leave_place(namespace, &mut turn.place))).await {
                        Either::Left((result, _)) => result,
                        Either::Right((left, _)) => {
                            if left.is_err() {
                                self.long_namespaces.insert(namespace.clone(), Expected::Cancelled);
                            }
                            left?;
                            call.await
                        }
                    }
                }
            },
        };
        self.expect(namespace, started.elapsed());
        self.ended(namespace, &result, started.elapsed());
        result
    }

    /// Waits for the turn of a call for a run of this namespace.
    async fn turn(&self, namespace: &Arc<str>) -> Result<Turn, CallError> {
        let turn = async {
            let share = self.shares.acquire(namespace, 1).await?;
            let mut kept = None;
            if self.long_namespaces.contains_key(namespace) {
                let (long, right) = (self.long.acquire(namespace, 1), self.kept_places.acquire(namespace, 1));
                match select(pin!(long), pin!(right)).await {
                    Either::Left((long, _)) => return Ok(Turn { _share: share, place: Place::Long { _place: long? } }),
                    Either::Right((right, _)) => kept = Some(right?),
                }
            }
            let place = Place::Ordinary { _place: self.places.acquire(namespace, 1).await?, kept };
            Ok(Turn { _share: share, place })
        };
        match timeout(MAX_WAIT, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(Exhausted)) => Err(CallError::overloaded("too many calls wait for their turn")),
            Err(_) => Err(CallError::overloaded(format!("no turn within {MAX_WAIT:?}"))),
        }
    }

    /// Moves a long call to a place of long calls as soon as one is free.
    ///
    /// # Errors
    /// The places of long calls and the right to keep an ordinary place are taken.
    async fn leave_place(&self, namespace: &Arc<str>, place: &mut Place) -> Result<(), CallError> {
        let Place::Ordinary { kept, .. } = place else { return Ok(()) };
        let long = match self.long.try_acquire(namespace, 1) {
            Some(long) => Ok(long),
            None => {
                *kept = kept.take().or_else(|| self.kept_places.try_acquire(namespace, 1));
                if kept.is_none() {
                    return Err(CallError::overloaded("calls of several namespaces take long"));
                }
                self.long.acquire(namespace, 1).await
            }
        };
        if let Ok(long) = long {
            *place = Place::Long { _place: long };
        }
        Ok(())
    }

    /// Remembers what to expect of the next call of a namespace, after one of this duration.
    fn expect(&self, namespace: &Arc<str>, duration: Duration) {
        if duration > LONG {
            self.long_namespaces.insert(namespace.clone(), Expected::LastWasLong);
        } else if self.long_namespaces.get(namespace) == Some(Expected::LastWasLong) {
            self.long_namespaces.invalidate(namespace);
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

    /// Tenants have many runs whose calls are slow, or have no answer. Another tenant's lookups have three calls each.
    /// Beside one slow tenant they take no longer than their calls, beside several at most a second longer.
    #[tokio::test(start_paused = true)]
    async fn slow_calls_of_tenants_do_not_delay_another() {
        for (tenants, allowed) in [(1, Duration::ZERO), (3, Duration::from_secs(1)), (8, Duration::from_secs(1))] {
            for took in [150, 240, 400, 1000, 1100, 5000, 20_000].map(Duration::from_millis) {
                let calls = Calls::new(Gauge::default());
                // No other calls were made before. Each tenant has as many lookups in flight as delivery allows.
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
        while calls.shares.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        drop(calls.turn(&b).await.unwrap());
        of_a.pop();
        waiting.await.unwrap().unwrap();
    }

    /// One place is never kept for long, however many namespaces have long calls.
    #[tokio::test(start_paused = true)]
    async fn a_long_call_in_the_last_place_is_cancelled() {
        let calls = Calls::new(Gauge::default());
        calls.places.set_total(MIN);
        let long = |namespace: usize| {
            let calls = calls.clone();
            tokio::spawn(async move {
                let call = async {
                    sleep(Duration::from_secs(20)).await;
                    Ok(())
                };
                calls.in_turn(&format!("slow-{namespace}").into(), call).await
            })
        };
        let mut running = Vec::new();
        for namespace in 0..=MAX_LONG_KFP_CALLS {
            running.push(long(namespace));
            sleep(2 * LONG).await;
        }
        assert_eq!((calls.long.used(), calls.kept_places.used()), (MAX_LONG_KFP_CALLS, MIN - 1));
        let started = Instant::now();
        let cancelled = long(100).await.unwrap().unwrap_err();
        assert_eq!((cancelled.code, started.elapsed()), (CallCode::Overloaded, LONG));
        // The next long call of its namespace waits, and has no place that others need: also after a short one.
        assert_eq!(calls.long_namespaces.get("slow-100"), Some(Expected::Cancelled));
        calls.expect(&"slow-100".into(), Duration::ZERO);
        assert_eq!(calls.long_namespaces.get("slow-100"), Some(Expected::Cancelled));
        let next = long(100);
        sleep(LONG).await;
        assert_eq!(calls.places.used(), MIN - 1);
        let started = Instant::now();
        calls.in_turn(&"quick".into(), async { Ok(()) }).await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
        for call in running.into_iter().chain([next]) {
            call.await.unwrap().unwrap();
        }
        assert_eq!(calls.long_namespaces.get("slow-100"), Some(Expected::LastWasLong), "it has ended");
        assert_eq!(
            (calls.shares.used(), calls.places.used(), calls.kept_places.used(), calls.long.used()),
            (0, 0, 0, 0)
        );
    }

    /// With a single place, unanswered calls of a tenant delay another tenant's calls by [`LONG`] each, and not until
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
            let longest = LONG * PER_NAMESPACE as u32 + Duration::from_millis(10);
            assert!(started.elapsed() <= longest, "{:?}", started.elapsed());
        }
        assert_eq!((calls.long.used(), calls.shares.waiting()), (PER_NAMESPACE, 3), "the tenant's others wait");
        for call in tenant {
            call.await.unwrap().unwrap();
        }
        assert_eq!((calls.long.used(), calls.places.used()), (0, 0));
        assert!(calls.long_namespaces.contains_key(&a) && !calls.long_namespaces.contains_key(&b));
        calls.in_turn(&a, async { Ok(()) }).await.unwrap();
        assert!(!calls.long_namespaces.contains_key(&a), "its last call was short");
    }
}
