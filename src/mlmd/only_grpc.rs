//! Looks at an answer's HTTP part before its body is read as gRPC: what a proxy says in between, or a web server on a
//! wrong port, is text, and would be told as a broken message of ML Metadata's.

use std::task::{Context, Poll};

use futures::{TryFutureExt, future::MapOk};
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use tonic::{Status, body::Body};
use tower::Service;

use super::error::{NOT_GRPC, excerpt};

/// A transport whose answers are gRPC or an error.
#[derive(Clone, Debug)]
pub(super) struct OnlyGrpc<S>(pub(super) S);

impl<S> Service<Request<Body>> for OnlyGrpc<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Response<Body>) -> Response<Body>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request).map_ok(checked)
    }
}

fn checked(answer: Response<Body>) -> Response<Body> {
    if answer.status() != StatusCode::OK {
        // Without a body, tonic goes by the HTTP status as gRPC says: 503 is UNAVAILABLE.
        return answer.map(|_| Body::empty());
    }
    let content_type = answer.headers().get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match content_type {
        Some(grpc) if grpc.starts_with("application/grpc") => answer,
        other => {
            let other = excerpt(other.as_deref().unwrap_or("without a type"));
            Status::internal(format!("{NOT_GRPC} ({other})")).into_http()
        }
    }
}
