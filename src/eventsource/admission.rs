//! The counts of connections and streams, and their limits: in all, by peer address, and by namespace.
//!
//! A connection beyond a limit makes room: the connection that has been without a stream for the longest is closed, of
//! the same peer, or of the peer with the most connections. Connections with streams are never closed for another.
//!
//! An HTTP/2 stream whose call has ended occupies memory until the peer reads its response. If too many wait for that,
//! the connection with most of them is closed.

mod guards;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::task::AtomicWaker;
use tonic::Status;
use tracing::warn;

pub(super) use self::guards::{CallPermit, ConnectionGuard, ConnectionHandle};
use super::{link::Usage, options::Limits, status};
use crate::telemetry::{Limit, LimitHits, LogThrottle};

/// The open calls of other services, which are health and reflection. Both are for people and for probes.
const MAX_OTHER_CALLS: usize = 64;
/// Those of one peer's address.
const MAX_OTHER_CALLS_PER_PEER: usize = 16;
/// The connections with frames of more than 4 KiB. hyper keeps about 20 KiB more for each of them; usual requests have a
/// few hundred bytes.
const MAX_LARGE: usize = 256;
/// The peers of which the last logged closing of a connection is remembered.
const REMEMBERED: usize = 1024;

/// The kind of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// A stream of a subscriber.
    Subscription,
    /// Health or reflection.
    Other,
}

/// The counts. Cheap to clone.
#[derive(Clone)]
pub(super) struct Admission(Arc<Shared>);

struct Shared {
    limits: Limits,
    hits: LimitHits,
    state: Mutex<State>,
}

struct State {
    calls: Calls,
    /// Streams by namespace.
    namespaces: HashMap<Arc<str>, usize>,
    peers: HashMap<IpAddr, Peer>,
    connections: HashMap<SocketAddr, Connection>,
    /// The sum of [`Connection::unread`].
    unread: usize,
    /// Connections with large frames.
    large: usize,
    next_id: u64,
    closed: LogThrottle<IpAddr>,
}

/// Numbers of open calls.
#[derive(Default)]
struct Calls {
    subscriptions: usize,
    others: usize,
}

#[derive(Default)]
struct Peer {
    calls: Calls,
    connections: usize,
    /// Connections without a call, by the order in which they became so.
    idle: BTreeMap<u64, SocketAddr>,
}

struct Connection {
    id: u64,
    /// Open calls.
    calls: usize,
    usage: Usage,
    /// The key in [`Peer::idle`].
    idle_since: Option<u64>,
    closer: Arc<Closer>,
}

impl Connection {
    /// Open HTTP/2 streams without a call.
    fn unread(&self) -> usize {
        self.usage.streams.saturating_sub(self.calls)
    }
}

/// Closes a connection from outside its task.
#[derive(Default)]
struct Closer {
    closed: AtomicBool,
    task: AtomicWaker,
}

impl Closer {
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Admission {
    pub(super) fn new(limits: Limits, hits: LimitHits) -> Self {
        let state = State {
            calls: Calls::default(),
            namespaces: HashMap::new(),
            peers: HashMap::new(),
            connections: HashMap::new(),
            unread: 0,
            large: 0,
            next_id: 0,
            closed: LogThrottle::new(REMEMBERED),
        };
        Self(Arc::new(Shared { limits, hits, state: Mutex::new(state) }))
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Counts a hit of a limit.
    pub(super) fn hit(&self, limit: Limit) {
        self.0.hits.hit(limit);
    }

    /// Admits an accepted connection. `None`: there are too many, and none is without a stream.
    pub(super) fn connect(&self, address: SocketAddr) -> Option<ConnectionGuard> {
        let limits = &self.0.limits;
        let mut state = self.lock();
        // The kernel may reuse an address before this process has noticed the end of its old connection.
        state.disconnect(address, None);
        let peer = peer_of(address);
        if state.peers.get(&peer).is_some_and(|peer| peer.connections >= limits.connections_per_peer()) {
            self.hit(Limit::Connections);
            state.make_room(peer).or_else(|| state.refuse(address))?;
        }
        if state.connections.len() >= limits.connections() {
            self.hit(Limit::Connections);
            let largest = state.peers.iter().filter(|(_, peer)| !peer.idle.is_empty());
            let largest = largest.max_by_key(|(_, peer)| peer.connections).map(|(peer, _)| *peer);
            largest.and_then(|peer| state.make_room(peer)).or_else(|| state.refuse(address))?;
        }
        let id = state.next_id();
        let closer = Arc::<Closer>::default();
        let connection = Connection { id, calls: 0, usage: Usage::default(), idle_since: None, closer: closer.clone() };
        state.connections.insert(address, connection);
        state.peers.entry(peer).or_default().connections += 1;
        state.update(address, Some(id), |_| {});
        Some(ConnectionGuard { admission: self.clone(), address, id, closer })
    }

    /// Admits a call from this address.
    ///
    /// # Errors
    /// The status of the refusal: a limit is reached.
    pub(super) fn admit(&self, address: Option<SocketAddr>, call: Call) -> Result<CallPermit, Status> {
        let limits = &self.0.limits;
        let mut state = self.lock();
        let of_peer = address.and_then(|address| state.peers.get(&peer_of(address)));
        let of_peer = of_peer.map_or(0, |peer| peer.calls.of(call));
        let in_all = state.calls.of(call);
        let refusal = match call {
            Call::Subscription if of_peer >= limits.streams_per_peer => Some((
                Limit::StreamsPerPeer,
                "streams of this peer address",
                of_peer,
                limits.streams_per_peer,
                "close some, or raise the server's flag --max-streams-per-peer if a proxy combines many subscribers under \
                 one address",
            )),
            Call::Subscription if in_all >= limits.streams => Some((
                Limit::Streams,
                "streams of this server",
                in_all,
                limits.streams,
                "close EventSources that are not needed, or have the server's flag --max-streams and its memory raised",
            )),
            Call::Other if of_peer >= MAX_OTHER_CALLS_PER_PEER => Some((
                Limit::StreamsPerPeer,
                "calls of health and reflection of this peer address",
                of_peer,
                MAX_OTHER_CALLS_PER_PEER,
                "end some",
            )),
            Call::Other if in_all >= MAX_OTHER_CALLS => Some((
                Limit::Streams,
                "calls of health and reflection",
                in_all,
                MAX_OTHER_CALLS,
                "repeat the call later",
            )),
            _ => None,
        };
        if let Some((limit, what, open, maximum, mend)) = refusal {
            self.hit(limit);
            return Err(status::too_many(limit, what, open, maximum, mend));
        }
        *state.calls.of_mut(call) += 1;
        let mut connection = None;
        if let Some(address) = address {
            *state.peers.entry(peer_of(address)).or_default().calls.of_mut(call) += 1;
            connection = state.connections.get(&address).map(|connection| connection.id);
            state.update(address, connection, |connection| connection.calls += 1);
        }
        Ok(CallPermit { admission: self.clone(), call, address, connection, namespace: OnceLock::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each operation leaves the counts consistent at every point where it could panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    fn of(&self, call: Call) -> usize {
        match call {
            Call::Subscription => self.subscriptions,
            Call::Other => self.others,
        }
    }

    fn of_mut(&mut self, call: Call) -> &mut usize {
        match call {
            Call::Subscription => &mut self.subscriptions,
            Call::Other => &mut self.others,
        }
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Changes the connection of this id, if it is open, and what follows from it.
    fn update(&mut self, address: SocketAddr, id: Option<u64>, change: impl FnOnce(&mut Connection)) {
        let now = self.next_id();
        let Some(connection) = self.connections.get_mut(&address) else { return };
        if Some(connection.id) != id {
            return;
        }
        self.unread -= connection.unread();
        self.large -= usize::from(connection.usage.has_large_frames);
        change(connection);
        self.unread += connection.unread();
        self.large += usize::from(connection.usage.has_large_frames);
        let Some(peer) = self.peers.get_mut(&peer_of(address)) else { return };
        match (connection.calls, connection.idle_since) {
            (0, None) => {
                peer.idle.insert(now, address);
                connection.idle_since = Some(now);
            }
            (1.., Some(since)) => {
                peer.idle.remove(&since);
                connection.idle_since = None;
            }
            _ => {}
        }
    }

    /// Closes the connection of this peer that has been without a call for the longest.
    fn make_room(&mut self, peer: IpAddr) -> Option<()> {
        let (_, address) = self.peers.get(&peer)?.idle.first_key_value()?;
        self.close(*address, "too many connections, and this one had no stream for the longest");
        Some(())
    }

    fn close(&mut self, address: SocketAddr, reason: &'static str) {
        let Some(connection) = self.disconnect(address, None) else { return };
        connection.closer.close();
        self.log_closed(address, reason);
    }

    fn refuse(&mut self, address: SocketAddr) -> Option<()> {
        self.log_closed(address, "too many connections, and all have streams");
        None
    }

    fn log_closed(&mut self, address: SocketAddr, reason: &'static str) {
        if self.closed.allows(peer_of(address), &reason) {
            warn!(peer = %address, reason, connections = self.connections.len(), "closed connection beyond a limit");
        }
    }

    /// Removes a connection: any of this address, or that of this id.
    fn disconnect(&mut self, address: SocketAddr, id: Option<u64>) -> Option<Connection> {
        if self.connections.get(&address).is_none_or(|connection| id.is_some_and(|id| id != connection.id)) {
            return None;
        }
        let connection = self.connections.remove(&address)?;
        self.unread -= connection.unread();
        self.large -= usize::from(connection.usage.has_large_frames);
        if let Some(peer) = self.peers.get_mut(&peer_of(address)) {
            peer.connections -= 1;
            connection.idle_since.map(|since| peer.idle.remove(&since));
        }
        self.forget_peer(peer_of(address));
        Some(connection)
    }

    /// Removes a peer without connections and calls.
    fn forget_peer(&mut self, address: IpAddr) {
        let is_gone = |peer: &Peer| peer.connections + peer.calls.subscriptions + peer.calls.others == 0;
        if self.peers.get(&address).is_some_and(is_gone) {
            self.peers.remove(&address);
        }
    }
}

/// The peer of an address. A socket for both versions of IP shows addresses of version 4 in their mapped form.
fn peer_of(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

impl Admission {
    fn observe(&self, address: SocketAddr, id: u64, usage: Usage) {
        let mut state = self.lock();
        if state.connections.get(&address).is_none_or(|connection| connection.id != id) {
            return;
        }
        state.update(address, Some(id), |connection| connection.usage = usage);
        if usage.has_large_frames && state.large > MAX_LARGE {
            self.hit(Limit::RequestSize);
            state.close(address, "too many connections with frames of more than 4 KiB");
        }
        if state.unread > self.0.limits.unread_responses() {
            self.hit(Limit::Connections);
            let most = state.connections.iter().max_by_key(|(_, connection)| connection.unread());
            if let Some(address) = most.map(|(address, _)| *address) {
                state.close(address, "its peer does not read responses");
            }
        }
    }
}

#[cfg(test)]
mod tests;
