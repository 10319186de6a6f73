//! The shares in limits that an admitted connection or call holds until it ends.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::Ordering},
    task::{Context, Poll},
};

use tonic::Status;

use super::{Admission, Call, Closer, peer_of};
use crate::{
    eventsource::{link::Usage, status},
    telemetry::Limit,
};

/// An open connection. Counts until it is dropped or closed.
pub(in crate::eventsource) struct ConnectionGuard {
    pub(super) admission: Admission,
    pub(super) address: SocketAddr,
    pub(super) id: u64,
    pub(super) closer: Arc<Closer>,
}

impl ConnectionGuard {
    /// Ready once the connection is to be closed. Until then, the task is woken for it.
    pub(in crate::eventsource) fn poll_closed(&self, cx: &Context<'_>) -> Poll<()> {
        self.closer.task.register(cx.waker());
        if self.closer.closed.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns a function that receives the usage of the connection.
    pub(in crate::eventsource) fn usage_observer(&self) -> impl Fn(Usage) + Send + Sync + use<> {
        let (admission, address, id) = (self.admission.clone(), self.address, self.id);
        move |usage| admission.observe(address, id, usage)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.admission.lock().disconnect(self.address, Some(self.id));
    }
}

/// An admitted call. Counts until it is dropped.
pub(in crate::eventsource) struct CallPermit {
    pub(super) admission: Admission,
    pub(super) call: Call,
    pub(super) address: Option<SocketAddr>,
    /// The connection's id.
    pub(super) connection: Option<u64>,
    /// Present once the stream counts for a namespace.
    pub(super) namespace: OnceLock<Arc<str>>,
}

impl CallPermit {
    /// Admits the stream to a namespace.
    ///
    /// # Errors
    /// The status of the refusal: the namespace has too many streams.
    pub(in crate::eventsource) fn enter(&self, namespace: &Arc<str>) -> Result<(), Status> {
        let maximum = self.admission.0.limits.streams_per_namespace;
        let mut state = self.admission.lock();
        let open = state.namespaces.get(namespace).copied().unwrap_or(0);
        if open >= maximum {
            self.admission.hit(Limit::StreamsPerNamespace);
            return Err(status::too_many(
                Limit::StreamsPerNamespace,
                "streams of this namespace",
                open,
                maximum,
                "remove EventSources that are not needed, or have the server's flag --max-streams-per-namespace raised",
            ));
        }
        if self.namespace.set(namespace.clone()).is_ok() {
            *state.namespaces.entry(namespace.clone()).or_default() += 1;
        }
        Ok(())
    }

    /// Returns a handle to the call's connection.
    pub(in crate::eventsource) fn connection(&self) -> Option<ConnectionHandle> {
        let (address, id) = self.address.zip(self.connection)?;
        Some(ConnectionHandle { admission: self.admission.clone(), address, id })
    }
}

/// A connection that may have ended.
pub(in crate::eventsource) struct ConnectionHandle {
    pub(super) admission: Admission,
    pub(super) address: SocketAddr,
    pub(super) id: u64,
}

impl ConnectionHandle {
    /// Closes the connection, unless it has ended.
    pub(in crate::eventsource) fn close(&self, reason: &'static str) {
        let mut state = self.admission.lock();
        if state.connections.get(&self.address).is_some_and(|connection| connection.id == self.id) {
            state.close(self.address, reason);
        }
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        *state.calls.of_mut(self.call) -= 1;
        if let Some(namespace) = self.namespace.get()
            && let Some(streams) = state.namespaces.get_mut(namespace)
        {
            *streams -= 1;
            if *streams == 0 {
                state.namespaces.remove(namespace);
            }
        }
        let Some(address) = self.address else { return };
        if let Some(peer) = state.peers.get_mut(&peer_of(address)) {
            *peer.calls.of_mut(self.call) -= 1;
        }
        state.update(address, self.connection, |connection| connection.calls -= 1);
        state.forget_peer(peer_of(address));
    }
}
