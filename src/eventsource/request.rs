//! The limits of a request, in a layer below the services: open calls, size, memory, and time.
//!
//! A request occupies memory from its first header until its call ends, whether it is complete or not. So it counts as a
//! stream from the beginning, only the headers that a service reads are kept, and messages of unusual size share a
//! budget.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::AUTHORIZATION};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{
    admission::{Admission, Call, CallPermit},
    link::{LinkInfo, STREAM_ID_HEADER},
    proxies::ProxyHeader,
    refusals::Refusals,
    status,
};
use crate::telemetry::Limit;

/// The path of subscriptions.
const SUBSCRIPTION: &str = "/generic.Eventing/StartEventSource";
/// The headers of a request that the services read.
const HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
    AUTHORIZATION,
    HeaderName::from_static(STREAM_ID_HEADER),
];
/// The header with a call's status, in a response without messages.
const GRPC_STATUS: &str = "grpc-status";
/// The length of gRPC's prefix of a message.
const GRPC_PREFIX: usize = 5;

/// The bytes that every unfinished request may occupy. A usual configuration is a few lines.
const USUAL_REQUEST: usize = 4 * 1024;
/// The bytes beyond that, of all unfinished requests: about a hundred of the largest at once.
const UNUSUAL_REQUESTS: usize = 8 * 1024 * 1024;

/// The layer.
#[derive(Clone)]
pub(super) struct RequestLimits(Arc<Shared>);

struct Shared {
    admission: Admission,
    refusals: Arc<Refusals>,
    /// Bytes of unusual requests.
    unusual: AtomicUsize,
}

impl RequestLimits {
    pub(super) fn new(admission: Admission, refusals: Arc<Refusals>) -> Self {
        Self(Arc::new(Shared { admission, refusals, unusual: AtomicUsize::new(0) }))
    }
}

impl<S> Layer<S> for RequestLimits {
    type Service = LimitedService<S>;

    fn layer(&self, inner: S) -> LimitedService<S> {
        LimitedService { inner, shared: self.0.clone() }
    }
}

/// A service within the limits.
#[derive(Clone)]
pub(super) struct LimitedService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for LimitedService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<LinkInfo>().and_then(LinkInfo::peer_addr);
        let call = if request.uri().path() == SUBSCRIPTION { Call::Subscription } else { Call::Other };
        let context = Arc::new(RequestContext { shared: self.shared.clone(), call, peer, received: Instant::now() });
        let permit = match self.shared.admission.admit(peer, call) {
            Ok(permit) => Arc::new(permit),
            Err(status) => {
                let response = context.refuse(status).into_http();
                return Box::pin(async { Ok(response) });
            }
        };
        let (mut parts, body) = request.into_parts();
        let proxy = ProxyHeader::find(&parts.headers);
        parts.headers = kept(&parts.headers);
        proxy.and_then(|proxy| parts.extensions.insert(proxy));
        parts.extensions.insert(permit.clone());
        let body = match call {
            Call::Subscription => {
                Body::new(RequestBody { inner: body, context: context.clone(), received: 0, unusual: 0 })
            }
            Call::Other => body,
        };
        let response = self.inner.call(Request::from_parts(parts, body));
        Box::pin(async move {
            let time = context.shared.admission.limits().request_time;
            let Ok(response) = timeout(time, response).await else {
                context.shared.admission.hit(Limit::RequestTime);
                return Ok(context.refuse(status::too_slow(time.as_secs())).into_http());
            };
            let response = response?;
            // tonic refuses a message by its declared length before its bytes arrive.
            if response
                .headers()
                .get(GRPC_STATUS)
                .is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::OutOfRange)
            {
                return Ok(context.refuse_size().into_http());
            }
            Ok(match call {
                // The stream holds the permit, which it has from the request.
                Call::Subscription => response,
                Call::Other => response.map(|body| Body::new(ResponseBody { inner: body, _permit: permit })),
            })
        })
    }
}

/// Copies of the headers that a service reads. A header of the request shares the memory of all others. The token does not
/// appear in debug output.
fn kept(headers: &HeaderMap) -> HeaderMap {
    // Of several values, the link's own is the last.
    let kept = HEADERS.into_iter().filter_map(|name| {
        let value = headers.get_all(&name).iter().next_back()?;
        let mut value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        value.set_sensitive(name == AUTHORIZATION);
        Some((name, value))
    });
    kept.collect()
}

/// A request that is being read.
struct RequestContext {
    shared: Arc<Shared>,
    call: Call,
    peer: Option<std::net::SocketAddr>,
    received: Instant,
}

impl RequestContext {
    /// Records the refusal of a subscription before its EventSource is known.
    fn refuse(&self, status: Status) -> Status {
        if self.call == Call::Subscription {
            self.shared.refusals.record(None, self.peer, &status, self.received.elapsed());
        }
        status
    }

    fn refuse_size(&self) -> Status {
        let admission = &self.shared.admission;
        admission.hit(Limit::RequestSize);
        self.refuse(status::too_large(format!(
            "the request is larger than {} bytes; a config of a few lines suffices, such as `kfpNamespace: my-team`",
            admission.limits().request_bytes
        )))
    }
}

/// The body of a subscription's request, within the limits of size and memory.
struct RequestBody {
    inner: Body,
    context: Arc<RequestContext>,
    received: usize,
    /// The share of the bytes of unusual requests.
    unusual: usize,
}

impl RequestBody {
    /// Accounts for a part of the message.
    fn receive(&mut self, bytes: usize) -> Result<(), Status> {
        let shared = &self.context.shared;
        self.received += bytes;
        if self.received > shared.admission.limits().request_bytes + GRPC_PREFIX {
            return Err(self.context.refuse_size());
        }
        let more = self.received.saturating_sub(USUAL_REQUEST) - self.unusual;
        self.unusual += more;
        if shared.unusual.fetch_add(more, Ordering::Relaxed) + more > UNUSUAL_REQUESTS {
            shared.admission.hit(Limit::RequestSize);
            return Err(self.context.refuse(status::too_large(format!(
                "requests of more than {USUAL_REQUEST} bytes occupy all memory that they may share; repeat the request \
                 later, or write a shorter config"
            ))));
        }
        Ok(())
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.context.shared.unusual.fetch_sub(self.unusual, Ordering::Relaxed);
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.receive(data.len())?;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a response of health or reflection, until whose end the call is open.
struct ResponseBody {
    inner: Body,
    _permit: Arc<CallPermit>,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_headers_are_dropped_and_the_token_is_not_shown() {
        let header = |name: HeaderName, value| (name, HeaderValue::from_static(value));
        let headers = HeaderMap::from_iter([
            header(AUTHORIZATION, "Bearer secret"),
            header(HeaderName::from_static("grpc-encoding"), "identity"),
            header(HeaderName::from_static("x-envoy-attempt-count"), "1"),
        ]);
        let kept = kept(&headers);
        assert_eq!((kept.len(), &kept[AUTHORIZATION]), (2, &headers[AUTHORIZATION]));
        assert!(!format!("{kept:?}").contains("secret"), "{kept:?}");
    }
}
