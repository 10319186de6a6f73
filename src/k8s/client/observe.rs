//! A layer around every request: a deadline for the answer's headers, metrics, and reports of established watches.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::Body;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tower::{BoxError, Layer, Service};

use crate::k8s::metrics::{Code, KubernetesMetrics, RequestLabels, Verb, VerbLabel};

/// The deadline for the headers of an answer. The API server sends those of a large list only with its page complete.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);
/// The shortest interval between two watches of one path. kube's watcher restarts a watch that ended without an error
/// immediately: with an API server, or a proxy, that ends each one at once, that would be a busy loop.
const MIN_INTERVAL: Duration = Duration::from_millis(500);

/// The established watches, by path.
#[derive(Clone, Default)]
pub(super) struct Established(Arc<Mutex<HashMap<String, WatchState>>>);

#[derive(Default)]
struct WatchState {
    count: watch::Sender<u64>,
    last: Option<Instant>,
}

impl Established {
    pub(super) fn subscribe(&self, path: &str) -> watch::Receiver<u64> {
        self.lock().entry(path.to_owned()).or_default().count.subscribe()
    }

    /// Counts an established watch of this path. Returns the instant until which its answer has to be delayed.
    fn count(&self, path: &str) -> Option<Instant> {
        let mut watches = self.lock();
        let state = watches.get_mut(path)?;
        state.count.send_modify(|count| *count += 1);
        let earliest = state.last.map(|last| last + MIN_INTERVAL);
        let now = Instant::now();
        state.last = Some(earliest.map_or(now, |earliest| earliest.max(now)));
        earliest
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, WatchState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
pub(super) struct ObserveLayer {
    established: Established,
    metrics: KubernetesMetrics,
}

impl ObserveLayer {
    pub(super) fn new(established: Established, metrics: KubernetesMetrics) -> Self {
        Self { established, metrics }
    }
}

/// The service within the layer.
#[derive(Clone)]
pub(super) struct Observe<S> {
    inner: S,
    layer: ObserveLayer,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, layer: self.clone() }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", HEADERS_TIMEOUT.as_secs())]
struct NoAnswer;

impl<S, B> Service<Request<Body>> for Observe<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let verb = verb(&request);
        let path = request.uri().path().to_owned();
        let response = self.inner.call(request);
        let ObserveLayer { established, metrics } = self.layer.clone();
        Box::pin(async move {
            let start = Instant::now();
            let result = timeout(HEADERS_TIMEOUT, response).await.unwrap_or_else(|_| Err(NoAnswer.into()));
            let code = result.as_ref().map_or(Code::Error, |response| Code::Status(response.status()));
            metrics.requests.get_or_create(&RequestLabels { verb, code }).inc();
            metrics.request_duration.get_or_create(&VerbLabel { verb }).observe(start.elapsed().as_secs_f64());
            if verb == Verb::Watch
                && result.as_ref().is_ok_and(|response| response.status().is_success())
                && let Some(earliest) = established.count(&path)
            {
                sleep_until(earliest).await;
            }
            result
        })
    }
}

fn verb(request: &Request<Body>) -> Verb {
    let is_watch = || request.uri().query().unwrap_or_default().split('&').any(|pair| pair == "watch=true");
    match *request.method() {
        Method::GET if is_watch() => Verb::Watch,
        Method::GET => Verb::List,
        Method::PATCH => Verb::Patch,
        _ => Verb::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verb_follows_from_method_and_query() {
        let verb_of = |method: Method, uri: &str| {
            verb(&Request::builder().method(method).uri(uri).body(Body::empty()).expect("a valid request"))
        };
        assert_eq!(verb_of(Method::GET, "/apis/x?&watch=true&timeoutSeconds=60"), Verb::Watch);
        assert_eq!(verb_of(Method::GET, "/apis/x?limit=5"), Verb::List);
        assert_eq!(verb_of(Method::PATCH, "/apis/x/y"), Verb::Patch);
        assert_eq!(verb_of(Method::POST, "/apis/x"), Verb::Other);
    }
}
