//! A transport that bounds the memory of answers. Each gRPC message begins with its length, so the length is known before
//! anything is buffered: an answer that is too large is refused at once, and others wait until the budget has room.
//!
//! While an answer waits, HTTP/2's flow control holds the server back after one window of its stream ([`STREAM_WINDOW`]).
//! The connection's window has room for as many waiting streams as there may be, and as much again for the others
//! ([`CONNECTION_WINDOW`]). So waiting streams never block a stream that has its bytes, and each of those ends.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{
    FutureExt, TryFutureExt,
    future::{BoxFuture, MapOk},
};
use http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame};
use tonic::{Status, body::Body};
use tower::Service;

use super::{
    allowance::{KEPT, MAX_KEPT_FREELY},
    budget::{Budget, Exhausted, Limits, Permit},
    error::NOT_GRPC,
};
use crate::telemetry::{Limit, LimitHits};

/// Maximum size of an answer in bytes, gRPC's default.
pub(crate) const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Size of an answer in bytes up to which it is small. Small answers do not wait for large ones.
pub(crate) const SMALL_ANSWER: usize = 32 * 1024;
/// Bytes that a stream may send before they are read.
pub(crate) const STREAM_WINDOW: u32 = 32 * 1024;
/// Bytes that all streams of the connection to ML Metadata may send before they are read.
pub(crate) const CONNECTION_WINDOW: u32 = 2 * (SMALL.waiting + LARGE.waiting) as u32 * STREAM_WINDOW;
/// Maximum number of concurrent calls to Kubeflow's API, without those that take long.
pub(crate) const MAX_KFP_CALLS: usize = 6;
/// Maximum number of concurrent calls to Kubeflow's API that take long.
pub(crate) const MAX_LONG_KFP_CALLS: usize = 6;
/// The same for the connection to Kubeflow's API: room for the window of each stream.
pub(crate) const KFP_CONNECTION_WINDOW: u32 = (MAX_KFP_CALLS + MAX_LONG_KFP_CALLS) as u32 * STREAM_WINDOW;
/// Small answers under way.
pub(crate) const SMALL: Limits =
    Limits { total: 1024 * 1024, per_namespace: 512 * 1024, waiting: 18, waiting_per_namespace: 9 };
/// Large answers under way. The share of a namespace is room for the largest answer.
pub(crate) const LARGE: Limits =
    Limits { total: 2 * MAX_ANSWER, per_namespace: MAX_ANSWER, waiting: 8, waiting_per_namespace: 4 };
/// The limits fit together: what waits leaves half of the connection's window to the others, the largest answers are in a
/// namespace's share, and everything under way is within 16 MiB.
const _: () = {
    let window = CONNECTION_WINDOW as usize;
    let waiting = (SMALL.waiting + LARGE.waiting) * STREAM_WINDOW as usize;
    assert!(2 * waiting <= window);
    assert!(LARGE.per_namespace >= MAX_ANSWER && SMALL.per_namespace >= SMALL_ANSWER);
    let windows = window + KFP_CONNECTION_WINDOW as usize;
    assert!(SMALL.total + LARGE.total + windows + KEPT.total + MAX_KEPT_FREELY <= 16 * 1024 * 1024);
};
/// Length of a gRPC message's header: a flag and the length of the message.
const HEADER: usize = 5;

/// The budgets of answers and of what lookups keep of them. Clones share them: all sources of models have one memory.
#[derive(Clone, Debug)]
pub struct Memory {
    pub(crate) small: Budget,
    pub(crate) large: Budget,
    /// The data that lookups keep until they end.
    pub(crate) kept: Budget,
}

impl Default for Memory {
    fn default() -> Self {
        Self { small: Budget::new(SMALL), large: Budget::new(LARGE), kept: Budget::new(KEPT) }
    }
}

/// The budgets of answers under way.
#[derive(Clone, Debug)]
pub(crate) struct AnswerBudgets {
    pub(crate) memory: Memory,
    hits: LimitHits,
}

impl AnswerBudgets {
    pub(crate) fn new(memory: Memory, hits: LimitHits) -> Self {
        Self { memory, hits }
    }

    async fn acquire(self, namespace: Arc<str>, bytes: usize) -> Result<Permit, Exhausted> {
        let budget = if bytes <= SMALL_ANSWER { &self.memory.small } else { &self.memory.large };
        if let Some(permit) = budget.try_acquire(&namespace, bytes) {
            return Ok(permit);
        }
        self.hits.hit(Limit::MetadataBytes);
        budget.acquire(&namespace, bytes).await
    }
}

/// The account of one call. It is an extension of the request; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Account(Arc<AccountState>);

#[derive(Debug)]
struct AccountState {
    namespace: Arc<str>,
    answer: Mutex<Answer>,
}

#[derive(Debug)]
enum Answer {
    Awaited,
    /// Its bytes are reserved until the account is dropped.
    Admitted {
        _permit: Permit,
    },
    Refused(Refusal),
}

/// The reason why an answer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is larger than [`MAX_ANSWER`].
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// Too many answers wait for their bytes.
    Exhausted,
}

impl Account {
    pub(crate) fn new(namespace: Arc<str>) -> Self {
        Self(Arc::new(AccountState { namespace, answer: Mutex::new(Answer::Awaited) }))
    }

    /// Returns the reason why the answer was refused, if it was.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match *self.0.answer.lock().unwrap_or_else(PoisonError::into_inner) {
            Answer::Refused(refusal) => Some(refusal),
            Answer::Awaited | Answer::Admitted { .. } => None,
        }
    }

    fn set(&self, answer: Answer) {
        *self.0.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

/// A transport that meters the answers of calls with an [`Account`].
#[derive(Clone, Debug)]
pub(crate) struct Metered<S> {
    inner: S,
    budgets: AnswerBudgets,
}

impl<S> Metered<S> {
    pub(crate) fn new(inner: S, budgets: AnswerBudgets) -> Self {
        Self { inner, budgets }
    }
}

type Meter = Box<dyn FnOnce(Response<Body>) -> Response<Body> + Send>;

impl<S> Service<Request<Body>> for Metered<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = MapOk<S::Future, Meter>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let account = request.extensions_mut().remove::<Account>();
        let budgets = self.budgets.clone();
        let meter: Meter = Box::new(move |response| match account {
            Some(account) => response.map(|body| Body::new(MeteredBody::new(body, account, budgets))),
            None => response,
        });
        self.inner.call(request).map_ok(meter)
    }
}

/// The body of an answer.
struct MeteredBody {
    body: Body,
    account: Account,
    budgets: AnswerBudgets,
    state: State,
}

enum State {
    /// The header is not complete yet.
    Header { bytes: [u8; HEADER], filled: usize },
    /// The header is complete, and the frame with its end waits for the message's bytes.
    Waiting { permit: BoxFuture<'static, Result<Permit, Exhausted>>, frame: Bytes, expected: usize },
    /// The message is passed on.
    Admitted { expected: usize },
}

impl MeteredBody {
    fn new(body: Body, account: Account, budgets: AnswerBudgets) -> Self {
        Self { body, account, budgets, state: State::Header { bytes: [0; HEADER], filled: 0 } }
    }

    fn refuse(&self, refusal: Refusal) -> Status {
        self.account.set(Answer::Refused(refusal));
        // The caller reads the account; tonic only passes this on.
        Status::resource_exhausted("the answer was refused")
    }

    /// Takes a frame, and returns it if it may be passed on.
    fn take(&mut self, frame: Bytes) -> Result<Option<Bytes>, Status> {
        match &mut self.state {
            State::Header { bytes, filled } => {
                let taken = frame.len().min(HEADER - *filled);
                bytes[*filled..*filled + taken].copy_from_slice(&frame[..taken]);
                *filled += taken;
                if *filled < HEADER {
                    return Ok(Some(frame));
                }
                let [_, length @ ..] = *bytes;
                let length = u32::from_be_bytes(length) as usize;
                if length > MAX_ANSWER {
                    return Err(self.refuse(Refusal::TooLarge { bytes: length }));
                }
                let permit = self.budgets.clone().acquire(self.account.0.namespace.clone(), length).boxed();
                self.state = State::Waiting { permit, frame, expected: length + taken };
                Ok(None)
            }
            State::Admitted { expected } => {
                // A second message would not be accounted for.
                let second = || Status::internal(format!("{NOT_GRPC} of a single message"));
                *expected = expected.checked_sub(frame.len()).ok_or_else(second)?;
                Ok(Some(frame))
            }
            State::Waiting { .. } => unreachable!("no frame is read while one waits"),
        }
    }

    /// Polls for the permit of a frame that waits, and returns the frame.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let State::Waiting { permit, frame, expected } = &mut self.state else { return Poll::Ready(Ok(None)) };
        let Ok(permit) = ready!(permit.poll_unpin(cx)) else {
            return Poll::Ready(Err(self.refuse(Refusal::Exhausted)));
        };
        let (frame, expected) = (std::mem::take(frame), *expected);
        self.account.set(Answer::Admitted { _permit: permit });
        self.state = State::Admitted { expected };
        Poll::Ready(self.take(frame))
    }
}

impl HttpBody for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        loop {
            if let Some(data) = ready!(this.poll_waiting(cx)?) {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(data) => {
                    if let Some(data) = this.take(data)? {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }
}

#[cfg(test)]
mod tests;
