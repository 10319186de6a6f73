//! The permission of a stream, from its start until it is withdrawn, and the record of who was admitted.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tracing::{debug, field::display, info, warn};

use super::status;
use crate::{
    access::{Grant, Refusal, User},
    model::Subscription,
};

/// The permission of an open stream. Without access control, it is never withdrawn.
pub(super) struct Permission(Option<AbortOnDropHandle<Refusal>>);

impl Permission {
    /// Starts to repeat the reviews in a task of its own, because a stream whose peer does not read is not polled.
    pub(super) fn new(grant: Grant) -> Self {
        Self(grant.expires().then(|| AbortOnDropHandle::new(tokio::spawn(grant.revoked()))))
    }

    /// Waits until the permission is withdrawn, and returns the status for that.
    pub(super) fn poll_withdrawn(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(task) = &mut self.0 else { return Poll::Pending };
        let ended = ready!(Pin::new(task).poll(cx));
        self.0 = None;
        let refusal = ended.unwrap_or_else(|error| Refusal::Unavailable { reason: error.to_string() });
        warn!(reason = %refusal, "permission of a stream withdrawn");
        Poll::Ready(status::access_refused(&refusal))
    }

    pub(super) async fn withdrawn(&mut self) -> Status {
        poll_fn(|cx| self.poll_withdrawn(cx)).await
    }
}

/// Logs an admitted stream: who, from where, what, and the decision. With the mode `audit`, there may be a refusal that the
/// mode `token` would have given.
pub(super) fn log_admitted(
    subscription: &Subscription,
    grant: &Grant,
    peer: Option<SocketAddr>,
    refusal: Option<&Refusal>,
) {
    let (namespace, name) = (&subscription.namespace, &subscription.name);
    let (peer, user) = (peer.map(display), grant.user().map(|User { name, .. }| name));
    match refusal {
        Some(refusal) => warn!(
            %namespace, subscription = %name, peer, decision = "would_refuse", reason = %refusal,
            "admitted subscription that the mode token refuses"
        ),
        None if user.is_some() => {
            info!(%namespace, subscription = %name, peer, user, decision = "allowed", "admitted subscription");
        }
        // Delivery logs the stream with its pending runs once the store is filled.
        None => debug!(%namespace, subscription = %name, peer, "admitted subscription"),
    }
}
