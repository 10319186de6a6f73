//! A check of the HTTP part of each response, before the body is decoded as gRPC. Text from a proxy, or from a web
//! server on a wrong port, would otherwise be reported as a malformed message of the source of models.

use std::task::{Context, Poll};

use futures::{TryFutureExt, future::MapOk};
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use tonic::{Status, body::Body};
use tower::Service;

use super::error::{NOT_GRPC, excerpt};

/// A transport that turns every response that is not gRPC into an error.
#[derive(Clone, Debug)]
pub(crate) struct RequireGrpc<S>(pub(crate) S);

impl<S> Service<Request<Body>> for RequireGrpc<S>
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

fn checked(response: Response<Body>) -> Response<Body> {
    if response.status() != StatusCode::OK {
        // Without a body, tonic maps the HTTP status as gRPC specifies: 503 is UNAVAILABLE.
        return response.map(|_| Body::empty());
    }
    let content_type = response.headers().get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match content_type {
        Some(grpc) if grpc.starts_with("application/grpc") => response,
        other => {
            let other = excerpt(other.as_deref().unwrap_or("none"));
            Status::internal(format!("{NOT_GRPC} (content type: {other})")).into_http()
        }
    }
}
