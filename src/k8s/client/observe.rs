//! A layer around every request: a deadline for the answer's headers, and metrics.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::Body;
use tokio::time::{Instant, timeout};
use tower::{BoxError, Layer, Service};

use crate::k8s::metrics::{Code, KubernetesMetrics, RequestLabels, Verb, VerbLabel};

/// The deadline for the headers of an answer.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a list. The API server sends the headers of a large page only with the page complete, and its own
/// deadline for a request is 60 s.
const LIST_TIMEOUT: Duration = Duration::from_secs(90);

#[derive(Clone)]
pub(super) struct ObserveLayer {
    metrics: KubernetesMetrics,
}

impl ObserveLayer {
    pub(super) fn new(metrics: KubernetesMetrics) -> Self {
        Self { metrics }
    }
}

/// The service within the layer.
#[derive(Clone)]
pub(super) struct Observe<S> {
    inner: S,
    metrics: KubernetesMetrics,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, metrics: self.metrics.clone() }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", .0.as_secs())]
struct NoAnswer(Duration);

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
        let deadline = if verb == Verb::List { LIST_TIMEOUT } else { HEADERS_TIMEOUT };
        let response = self.inner.call(request);
        let metrics = self.metrics.clone();
        Box::pin(async move {
            let start = Instant::now();
            let result = timeout(deadline, response).await.unwrap_or_else(|_| Err(NoAnswer(deadline).into()));
            let code = result.as_ref().map_or(Code::Error, |response| Code::Status(response.status()));
            metrics.requests.get_or_create(&RequestLabels { verb, code }).inc();
            metrics.request_duration.get_or_create(&VerbLabel { verb }).observe(start.elapsed().as_secs_f64());
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
