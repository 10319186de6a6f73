//! What is seen of every request: it is counted, it has a deadline for its answer's headers, and where it begins a watch,
//! whoever waits for that is told.

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

use crate::telemetry::metrics::{
    KubernetesMetrics,
    kubernetes::{RequestLabels, VerbLabel},
};

/// For the headers of an answer. A large list's come only when the API server has put its page together.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);
/// The least time between two watches of one path. One that ends well is begun anew at once by kube's watcher, without
/// a word to its user: if the other side, or a proxy before it, ended each as soon as it began, that would be a storm.
const SPACING: Duration = Duration::from_millis(500);

/// How often a watch was established, by the path that it watches.
#[derive(Clone, Default)]
pub(super) struct Established(Arc<Mutex<HashMap<String, Watched>>>);

#[derive(Default)]
struct Watched {
    count: watch::Sender<u64>,
    last: Option<Instant>,
}

impl Established {
    pub(super) fn subscribe(&self, path: &str) -> watch::Receiver<u64> {
        self.lock().entry(path.to_owned()).or_default().count.subscribe()
    }

    /// A watch of this path is established. Returns until when its answer is held back.
    fn count(&self, path: &str) -> Option<Instant> {
        let mut watched = self.lock();
        let watched = watched.get_mut(path)?;
        watched.count.send_modify(|count| *count += 1);
        let free_at = watched.last.map(|last| last + SPACING);
        watched.last = Some(free_at.map_or_else(Instant::now, |free_at| free_at.max(Instant::now())));
        free_at
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Watched>> {
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

/// The service with what is seen of it.
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

/// There was no answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server has not begun to answer within {} s", HEADERS_TIMEOUT.as_secs())]
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
            let code = match &result {
                Ok(response) => response.status().as_str().to_owned(),
                Err(_) => "error".to_owned(),
            };
            metrics.requests.get_or_create(&RequestLabels { verb, code }).inc();
            metrics.request_seconds.get_or_create(&VerbLabel { verb }).observe(start.elapsed().as_secs_f64());
            if verb == "watch"
                && result.as_ref().is_ok_and(|response| response.status().is_success())
                && let Some(free_at) = established.count(&path)
            {
                sleep_until(free_at).await;
            }
            result
        })
    }
}

fn verb(request: &Request<Body>) -> &'static str {
    let watches = || request.uri().query().unwrap_or_default().split('&').any(|pair| pair == "watch=true");
    match *request.method() {
        Method::GET if watches() => "watch",
        Method::GET => "list",
        Method::PATCH => "patch",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_verb() {
        let verb_of = |method: Method, uri: &str| {
            verb(&Request::builder().method(method).uri(uri).body(Body::empty()).expect("a valid request"))
        };
        assert_eq!(verb_of(Method::GET, "/apis/x?&watch=true&timeoutSeconds=60"), "watch");
        assert_eq!(verb_of(Method::GET, "/apis/x?limit=5"), "list");
        assert_eq!(verb_of(Method::PATCH, "/apis/x/y"), "patch");
        assert_eq!(verb_of(Method::POST, "/apis/x"), "other");
    }
}
