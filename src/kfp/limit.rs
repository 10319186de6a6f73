//! The number of concurrent calls, which adapts. Kubeflow's API server has each call reviewed by the Kubernetes API, and
//! makes at most five requests a second there, for all its users together. So few calls are made at a time, fewer while
//! they are slow or fail, and namespaces take turns.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use tonic::Code;

use crate::lookup::{
    budget::{Budget, Limits, Permit},
    error::{CallCode, CallError},
    meter::MAX_KFP_CALLS,
};

/// Concurrent calls at the start.
const FIRST: usize = 3;
/// Concurrent calls of one namespace.
const PER_NAMESPACE: usize = 3;
/// Waiting calls: as many as delivery has lookups in flight.
const WAITING: usize = 2048;
/// Waiting calls of one namespace: the lookups that delivery has in flight for it.
const WAITING_PER_NAMESPACE: usize = 64;
/// Maximum time in which a call waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(240);
/// Duration of a call from which on the server is slow. A review takes milliseconds, unless it waits for its turn.
const SLOW: Duration = Duration::from_secs(1);

/// The limit. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    places: Budget,
    adaptive: Arc<Mutex<Adaptive>>,
    gauge: Gauge,
}

/// The limit as a rule: it grows by one after as many calls as it allows, and shrinks at once.
#[derive(Debug, PartialEq, Eq)]
struct Adaptive {
    limit: usize,
    /// Good calls since the last change.
    good: usize,
}

impl Adaptive {
    fn ended(&mut self, error: Option<CallCode>, duration: Duration) {
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
        *self = Self { limit: limit.clamp(1, MAX_KFP_CALLS), good: 0 };
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
        let adaptive = Arc::new(Mutex::new(Adaptive { limit: FIRST, good: 0 }));
        Self { places: Budget::new(limits), adaptive, gauge }
    }

    /// Waits for the turn of a call for a run of this namespace.
    pub(super) async fn turn(&self, namespace: &Arc<str>) -> Result<Permit, CallError> {
        match tokio::time::timeout(MAX_WAIT, self.places.acquire(namespace, 1)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(CallError::overloaded("too many calls wait for their turn")),
            Err(_) => Err(CallError::overloaded(format!("no turn within {MAX_WAIT:?}"))),
        }
    }

    /// Notes the end of a call.
    pub(super) fn ended<T>(&self, result: &Result<T, CallError>, duration: Duration) {
        let limit = {
            let mut adaptive = self.adaptive.lock().unwrap_or_else(PoisonError::into_inner);
            let before = adaptive.limit;
            adaptive.ended(result.as_ref().err().map(|error| error.code), duration);
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
    use super::*;

    const FAST: Duration = Duration::from_millis(20);

    #[test]
    fn the_limit_grows_by_good_calls_and_shrinks_by_bad_ones() {
        let mut adaptive = Adaptive { limit: FIRST, good: 0 };
        (0..3 + 4 + 5).for_each(|_| adaptive.ended(None, FAST));
        assert_eq!(adaptive.limit, 6);
        (0..100).for_each(|_| adaptive.ended(Some(CallCode::Grpc(Code::NotFound)), FAST));
        assert_eq!(adaptive.limit, MAX_KFP_CALLS, "an answer, too");
        adaptive.ended(Some(CallCode::Timeout), FAST);
        assert_eq!(adaptive.limit, 3);
        adaptive.ended(None, SLOW);
        assert_eq!(adaptive.limit, 2);
        (0..9).for_each(|_| adaptive.ended(Some(CallCode::Grpc(Code::Unauthenticated)), FAST));
        assert_eq!(adaptive, Adaptive { limit: 1, good: 0 });
        adaptive.ended(None, FAST);
        assert_eq!(adaptive.limit, 2);
    }

    #[tokio::test]
    async fn a_namespace_with_many_calls_leaves_places_to_others() {
        let calls = Calls::new(Gauge::default());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        calls.places.set_total(4);
        let mut of_a = Vec::new();
        for _ in 0..3 {
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
}
