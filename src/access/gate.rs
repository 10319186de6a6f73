//! Decisions about requests and open streams, and the memory that keeps reviews few.

use std::{net::IpAddr, sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{
    Mode, Options, Refusal,
    metrics::{AccessMetrics, ReviewKind, ReviewResult},
    review::{Authentication, ReviewError, Reviewer, Token, TokenKey, User, Verb},
};
use crate::backoff::Backoff;

/// The time limit of a review, including the wait for its turn. The subscriber waits for it, and retries every 5 s.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// The reviews in flight for the requests of one peer's address.
const REVIEWS_PER_PEER: usize = 4;
/// The time for which a review that found an invalid token counts as in flight. A peer that tries tokens causes few
/// reviews a second, and leaves the others' turns to them.
const INVALID_TOKEN: Duration = Duration::from_secs(1);
/// The same for a right that a user does not have: every account of the cluster has a valid token, and may ask for any
/// number of namespaces.
const MISSING_RIGHT: Duration = Duration::from_millis(250);
/// The characters of the API server's reason that are kept of an invalid token. Some contain parts of the token.
const MAX_REASON: usize = 256;
/// Answers that are remembered, of each kind. One takes a few hundred bytes.
const MAX_REMEMBERED: u64 = 4096;
/// Time after which an answer that is not used is dropped. Longer than any cache time.
const HOUSEKEEPING: Duration = Duration::from_secs(2 * 3600);
/// The time for which an open stream continues while its rights cannot be reviewed.
const UNREVIEWED: Duration = Duration::from_secs(600);
/// Pauses between attempts to review the rights of an open stream.
const RETRY: Backoff = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(60) };

/// Access control. Cheap to clone. The default admits every request.
#[derive(Clone, Default)]
pub struct Access(Option<Arc<Inner>>);

struct Inner {
    options: Options,
    reviewer: Box<dyn Reviewer>,
    metrics: AccessMetrics,
    /// Limits the reviews in flight: any client can send any number of tokens.
    turns: Semaphore,
    /// The same by peer: a peer without a token may try any number of them.
    peer_turns: moka::sync::Cache<Option<IpAddr>, Arc<Semaphore>>,
    tokens: Cache<TokenKey, Arc<Remembered<Authentication>>>,
    rights: Cache<RightKey, Arc<Remembered<bool>>>,
}

/// The key of a right: a user, and the namespace.
type RightKey = (Arc<User>, Arc<str>);

/// An answer, and the time until which it counts.
#[derive(Clone, Debug)]
struct Remembered<T> {
    answer: T,
    until: Instant,
}

/// The permission for a stream.
#[derive(Clone)]
pub struct Grant {
    access: Option<Arc<Inner>>,
    token: Option<Token>,
    namespace: Arc<str>,
    peer: Option<IpAddr>,
    user: Option<Arc<User>>,
    /// The time until which the answers behind it count; `None`: forever.
    until: Option<Instant>,
}

impl Access {
    /// Access control with these options.
    pub fn new(options: Options, reviewer: impl Reviewer, metrics: AccessMetrics) -> Self {
        if options.mode == Mode::None {
            return Self::default();
        }
        Self(Some(Arc::new(Inner {
            turns: Semaphore::new(options.reviews.get()),
            peer_turns: moka::sync::Cache::builder().max_capacity(MAX_REMEMBERED).time_to_idle(HOUSEKEEPING).build(),
            options,
            reviewer: Box::new(reviewer),
            metrics,
            tokens: Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(HOUSEKEEPING).build(),
            rights: Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(HOUSEKEEPING).build(),
        })))
    }

    /// Returns whether a request without a valid token is refused: only with the mode `token`.
    pub fn needs_token(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.options.mode == Mode::Token)
    }

    /// Decides about a request for the runs of a namespace. Returns the grant, and with the mode `audit` the refusal
    /// that the mode `token` would have given.
    ///
    /// # Errors
    /// The refusal, with the mode `token`.
    pub async fn admit(
        &self,
        token: Option<Token>,
        namespace: &Arc<str>,
        peer: Option<IpAddr>,
    ) -> Result<(Grant, Option<Refusal>), Refusal> {
        let open = |user, until| Grant {
            access: self.0.clone(),
            token: token.clone(),
            namespace: namespace.clone(),
            peer,
            user,
            until,
        };
        let Some(inner) = &self.0 else { return Ok((open(None, None), None)) };
        let decision = inner.check(token.as_ref(), namespace, peer).await;
        inner.metrics.decided(decision.as_ref().err());
        match (decision, inner.options.mode) {
            (Ok((user, until)), Mode::Token) => Ok((open(Some(user), Some(until)), None)),
            (Ok((user, _)), _) => Ok((open(Some(user), None), None)),
            (Err(refusal), Mode::Token) => Err(refusal),
            (Err(refusal), _) => {
                inner.metrics.audited(namespace, &refusal);
                Ok((open(None, None), Some(refusal)))
            }
        }
    }
}

impl Access {
    /// Decides about a reader of the status of a namespace, of all namespaces if its name is empty. The right is that
    /// of a subscription. With the mode `audit`, returns the refusal that the mode `token` would have given. The
    /// decision is not counted among those about subscriptions.
    ///
    /// # Errors
    /// The refusal, with the mode `token`.
    pub async fn admit_reader(
        &self,
        token: Option<&Token>,
        namespace: &Arc<str>,
        peer: Option<IpAddr>,
    ) -> Result<Option<Refusal>, Refusal> {
        let Some(inner) = &self.0 else { return Ok(None) };
        match inner.check(token, namespace, peer).await {
            Ok(_) => Ok(None),
            Err(refusal) if inner.options.mode == Mode::Token => Err(refusal),
            Err(refusal) => Ok(Some(refusal)),
        }
    }
}

impl Grant {
    /// The user of the stream, if there was a review.
    pub fn user(&self) -> Option<&User> {
        self.user.as_deref()
    }

    /// The scope of the subscription's name; only with the mode `token`.
    pub fn scope(&self) -> Option<String> {
        let (user, access) = (self.user.as_ref()?, self.access.as_ref()?);
        if access.options.mode != Mode::Token {
            return None;
        }
        Some(user.scope())
    }

    /// Returns whether the permission can end.
    pub fn expires(&self) -> bool {
        self.until.is_some()
    }

    /// Waits until the permission ends, and returns why: the reviews are repeated when their answers expire. While they
    /// cannot be made, the permission holds for ten minutes.
    pub async fn revoked(self) -> Refusal {
        let (Some(mut until), Some(inner)) = (self.until, &self.access) else { return std::future::pending().await };
        let (mut failures, mut last_answer) = (0, Instant::now());
        loop {
            tokio::time::sleep_until(until).await;
            let decision = inner.check(self.token.as_ref(), &self.namespace, self.peer).await;
            inner.metrics.decided(decision.as_ref().err());
            match decision {
                Ok((_, valid_until)) => (until, failures, last_answer) = (valid_until, 0, Instant::now()),
                Err(Refusal::Unavailable { reason }) if last_answer.elapsed() < UNREVIEWED => {
                    failures += 1;
                    debug!(namespace = %self.namespace, error = reason, "review of an open stream failed, retrying");
                    let pause = RETRY.pause(failures, &mut rand::rng());
                    sleep(pause).await;
                }
                Err(refusal) => return refusal,
            }
        }
    }
}

impl Inner {
    /// Reviews a token and the right of its user. Returns the user, and the time until which both answers count.
    async fn check(
        &self,
        token: Option<&Token>,
        namespace: &Arc<str>,
        peer: Option<IpAddr>,
    ) -> Result<(Arc<User>, Instant), Refusal> {
        let token = token.ok_or(Refusal::NoToken)?;
        let unavailable = |error: Arc<ReviewError>| Refusal::Unavailable { reason: error.to_string() };
        let authentication = self.authentication(token, peer).await.map_err(unavailable)?;
        let user = match &authentication.answer {
            Authentication::User(user) => user,
            Authentication::Invalid(reason) => {
                let (reason, audiences) = (reason.clone(), self.options.audiences.clone());
                return Err(Refusal::InvalidToken { reason, audiences });
            }
        };
        let right = self.right(user, namespace, peer).await.map_err(unavailable)?;
        if right.answer {
            Ok((user.clone(), authentication.until.min(right.until)))
        } else {
            Err(Refusal::denied(user, namespace, self.options.subscriber_role.as_deref()))
        }
    }

    async fn authentication(
        &self,
        token: &Token,
        peer: Option<IpAddr>,
    ) -> Result<Arc<Remembered<Authentication>>, Arc<ReviewError>> {
        remembered(&self.tokens, token.key(), async {
            let review = self.reviewer.authenticate(token, &self.options.audiences);
            let is_positive = |answer: &Authentication| matches!(answer, Authentication::User(_));
            let (answer, turn) = self.review(ReviewKind::Token, PeerTurn::Of(peer), review, is_positive).await?;
            let Authentication::Invalid(reason) = answer else {
                return Ok(Remembered { answer, until: Instant::now() + self.options.cache_token });
            };
            hold(PeerTurn::Held(turn), INVALID_TOKEN);
            let answer = Authentication::Invalid(reason.chars().take(MAX_REASON).collect());
            Ok(Remembered { answer, until: Instant::now() + self.options.cache_deny })
        })
        .await
    }

    async fn right(
        &self,
        user: &Arc<User>,
        namespace: &Arc<str>,
        peer: Option<IpAddr>,
    ) -> Result<Arc<Remembered<bool>>, Arc<ReviewError>> {
        remembered(&self.rights, (user.clone(), namespace.clone()), async {
            let mut turn = PeerTurn::Of(peer);
            for verb in [Verb::Subscribe, Verb::Watch] {
                let review = self.reviewer.authorize(user, namespace, verb);
                let (answer, held) = self.review(ReviewKind::Access, turn, review, |allowed| *allowed).await?;
                if answer {
                    return Ok(Remembered { answer, until: Instant::now() + self.options.cache_allow });
                }
                turn = PeerTurn::Held(held);
            }
            hold(turn, MISSING_RIGHT);
            Ok(Remembered { answer: false, until: Instant::now() + self.options.cache_deny })
        })
        .await
    }

    /// Makes a review in its turn, within its time, and counts it. Returns the turn of its peer, too.
    async fn review<T>(
        &self,
        kind: ReviewKind,
        turn: PeerTurn,
        review: impl Future<Output = Result<T, ReviewError>>,
        is_positive: impl FnOnce(&T) -> bool,
    ) -> Result<(T, Option<OwnedSemaphorePermit>), ReviewError> {
        let in_turn = async {
            let peer_turn = match turn {
                PeerTurn::Held(turn) => turn,
                PeerTurn::Of(peer) => {
                    let of_peer = self.peer_turns.get_with(peer, || Semaphore::new(REVIEWS_PER_PEER).into());
                    // An error would mean that the semaphore was closed.
                    of_peer.acquire_owned().await.ok()
                }
            };
            let _turn = self.turns.acquire().await;
            Ok((review.await?, peer_turn))
        };
        let answer = timeout(REVIEW_TIMEOUT, in_turn).await.unwrap_or_else(|_| {
            Err(ReviewError(format!("no answer from the Kubernetes API server within {} s", REVIEW_TIMEOUT.as_secs())))
        });
        let result = match &answer {
            Ok((answer, _)) if is_positive(answer) => ReviewResult::Positive,
            Ok(_) => ReviewResult::Negative,
            Err(_) => ReviewResult::Error,
        };
        self.metrics.reviewed(kind, result);
        answer
    }
}

/// The turn of a peer for a review.
enum PeerTurn {
    /// To be waited for.
    Of(Option<IpAddr>),
    /// Kept from a review before.
    Held(Option<OwnedSemaphorePermit>),
}

/// Keeps the turn of a peer for this time.
fn hold(turn: PeerTurn, time: Duration) {
    tokio::spawn(async move {
        sleep(time).await;
        drop(turn);
    });
}

/// Returns the remembered answer, or makes the review. Of equal reviews at a time, one is made. Errors are not
/// remembered.
async fn remembered<K, T>(
    cache: &Cache<K, Arc<Remembered<T>>>,
    key: K,
    review: impl Future<Output = Result<Remembered<T>, ReviewError>>,
) -> Result<Arc<Remembered<T>>, Arc<ReviewError>>
where
    K: Clone + Eq + std::hash::Hash + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    if let Some(entry) = cache.get(&key).await {
        if Instant::now() < entry.until {
            return Ok(entry);
        }
        cache.invalidate(&key).await;
    }
    cache.try_get_with(key, async { review.await.map(Arc::new) }).await
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let options = self.0.as_ref().map(|inner| &inner.options);
        f.debug_struct("Access").field("options", &options).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant").field("user", &self.user).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
