use std::sync::Weak;

use proptest::prelude::*;
use tonic::Code;

use super::*;

fn limits() -> Limits {
    Limits { streams: 3, streams_per_namespace: 2, streams_per_peer: 2, ..Limits::default() }
}

fn admission(limits: Limits) -> Admission {
    Admission::new(limits, LimitHits::default())
}

fn address(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], port))
}

impl Admission {
    fn hits(&self, limit: Limit) -> u64 {
        self.0.hits.count(limit)
    }

    fn stream(&self, host: u8, port: u16) -> Result<CallPermit, Status> {
        self.admit(Some(address(host, port)), Call::Subscription)
    }

    /// Asserts that nothing is counted any more.
    fn assert_empty(&self) {
        let state = self.lock();
        assert_eq!((state.calls.subscriptions, state.calls.others, state.unread, state.large), (0, 0, 0, 0));
        assert!(state.namespaces.is_empty() && state.peers.is_empty() && state.connections.is_empty());
    }
}

impl ConnectionGuard {
    fn is_closed(&self) -> bool {
        self.closer.closed.load(Ordering::Acquire)
    }
}

fn streams(streams: usize) -> Usage {
    Usage { streams, has_large_frames: false }
}

#[track_caller]
fn refusal(result: Result<CallPermit, Status>) -> String {
    let status = result.err().expect("refused");
    assert_eq!(status.code(), Code::ResourceExhausted);
    status.message().to_owned()
}

#[test]
fn streams_are_limited_in_all() {
    let admission = admission(limits());
    let open: Vec<_> = (1..=3).map(|host| admission.stream(host, 1).unwrap()).collect();
    assert_eq!(
        refusal(admission.stream(4, 1)),
        "3 of at most 3 streams of this server are open; close EventSources that are not needed, or have the server's \
         flag --max-streams and its memory raised"
    );
    assert_eq!((admission.hits(Limit::Streams), admission.hits(Limit::StreamsPerPeer)), (1, 0));
    drop(open);
    drop(admission.stream(4, 1).unwrap());
    admission.assert_empty();
}

#[test]
fn streams_are_limited_by_peer_address() {
    let admission = admission(limits());
    let mapped = SocketAddr::new(std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().into(), 2);
    let open = [admission.stream(1, 1).unwrap(), admission.admit(Some(mapped), Call::Subscription).unwrap()];
    assert_eq!(
        refusal(admission.stream(1, 3)),
        "2 of at most 2 streams of this peer address are open; close some, or raise the server's flag \
         --max-streams-per-peer if a proxy combines many subscribers under one address"
    );
    assert_eq!((admission.hits(Limit::Streams), admission.hits(Limit::StreamsPerPeer)), (0, 1));
    admission.stream(2, 1).expect("another peer");
    drop(open);
    admission.assert_empty();
}

#[test]
fn streams_are_limited_by_namespace() {
    let admission = admission(limits());
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    let permits: Vec<_> = (1..=3).map(|host| admission.stream(host, 1).unwrap()).collect();
    permits[0].enter(&a).unwrap();
    permits[1].enter(&a).unwrap();
    let status = permits[2].enter(&a).unwrap_err();
    assert_eq!(
        status.message(),
        "2 of at most 2 streams of this namespace are open; remove EventSources that are not needed, or have the \
         server's flag --max-streams-per-namespace raised"
    );
    assert_eq!(admission.hits(Limit::StreamsPerNamespace), 1);
    permits[2].enter(&b).expect("another namespace");
    drop(permits);
    admission.assert_empty();
}

#[test]
fn health_and_reflection_do_not_compete_with_streams() {
    let admission = admission(limits());
    let call = |host| admission.admit(Some(address(host, 1)), Call::Other);
    let mut open: Vec<_> = (0..MAX_OTHER_CALLS_PER_PEER).map(|_| call(1).unwrap()).collect();
    assert!(refusal(call(1)).starts_with("16 of at most 16 calls of health and reflection of this peer address"));
    while open.len() < MAX_OTHER_CALLS {
        open.push(call(2 + u8::try_from(open.len() / 8).unwrap()).unwrap());
    }
    assert!(refusal(call(200)).starts_with("64 of at most 64 calls of health and reflection are open"));
    drop(admission.stream(1, 1).expect("a stream"));
    drop(open);
    admission.assert_empty();
}

/// A connection that idles longer than another makes room first, and one with a stream never does.
#[test]
fn the_connection_without_a_stream_for_the_longest_makes_room() {
    let admission = admission(limits());
    let mut connections: Vec<_> = (0..64).map(|port| admission.connect(address(1, port)).unwrap()).collect();
    // The first has a stream, the second had one until now.
    let _stream = admission.stream(1, 0).unwrap();
    drop(admission.stream(1, 1).unwrap());
    for (port, closed) in [(64, 2), (65, 3)] {
        connections.push(admission.connect(address(1, port)).expect("room was made"));
        let are_closed: Vec<usize> =
            connections.iter().enumerate().filter(|(_, guard)| guard.is_closed()).map(|(index, _)| index).collect();
        assert_eq!(are_closed.last(), Some(&closed));
        assert_eq!(are_closed.len(), usize::from(port) - 63);
    }
    assert_eq!(admission.hits(Limit::Connections), 2);
}

#[test]
fn a_connection_is_closed_at_once_if_all_others_have_calls() {
    let admission = admission(Limits { streams: 40, streams_per_peer: 40, ..limits() });
    let open = |host, call| {
        let admission = &admission;
        (0..16).map(move |port| {
            let guard = admission.connect(address(host, port)).expect("room");
            (guard, admission.admit(Some(address(host, port)), call).expect("room"))
        })
    };
    let others = (1..=4).flat_map(|host| open(host, Call::Other));
    let all: Vec<_> = others.chain(open(5, Call::Subscription)).collect();
    assert_eq!((all.len(), admission.hits(Limit::Connections)), (80, 0));
    assert!(admission.connect(address(6, 1)).is_none());
    assert_eq!(admission.hits(Limit::Connections), 1);
    assert!(all.iter().all(|(guard, _)| !guard.is_closed()));
    drop(all);
    admission.assert_empty();
}

/// A peer with many connections cannot close the few of another.
#[test]
fn the_peer_with_the_most_connections_makes_room() {
    let admission = admission(Limits { streams: 50, streams_per_peer: 45, ..limits() });
    let other = admission.connect(address(2, 0)).unwrap();
    let connections: Vec<_> = (0..200).map(|port| admission.connect(address(1, port)).unwrap()).collect();
    let more = admission.connect(address(3, 0)).unwrap();
    assert!(!other.is_closed() && !more.is_closed());
    assert_eq!(connections.iter().filter(|guard| !guard.is_closed()).count(), 90, "the limit of the peer");
    let more: Vec<_> = (0..20).map(|host| admission.connect(address(10 + host, 0)).unwrap()).collect();
    assert!(!other.is_closed() && more.iter().all(|guard| !guard.is_closed()));
    assert_eq!(connections.iter().filter(|guard| !guard.is_closed()).count(), 100 - 22);
}

#[test]
fn the_connection_with_the_most_unread_responses_is_closed() {
    let admission = admission(limits());
    let guards: Vec<_> = (0..3).map(|port| admission.connect(address(1, port)).unwrap()).collect();
    let observers: Vec<_> = guards.iter().map(ConnectionGuard::usage_observer).collect();
    let permits = [admission.stream(1, 0).unwrap(), admission.stream(1, 0).unwrap()];
    observers[0](streams(22));
    observers[1](streams(24));
    observers[2](streams(20));
    assert!(guards.iter().all(|guard| !guard.is_closed()), "64 in all, without the two streams");
    observers[2](streams(21));
    assert!(guards[1].is_closed() && !guards[0].is_closed() && !guards[2].is_closed());
    assert_eq!(admission.hits(Limit::Connections), 1);
    observers[1](streams(1_000));
    assert!(!guards[0].is_closed() && !guards[2].is_closed(), "a closed connection counts no more");
    drop((permits, guards));
    admission.assert_empty();
}

#[test]
fn connections_with_large_frames_have_a_limit_of_their_own() {
    let admission = admission(Limits::default());
    let large = Usage { streams: 1, has_large_frames: true };
    let mut guards: Vec<_> = (0..300).map(|port| admission.connect(address(1, port)).unwrap()).collect();
    guards.iter().for_each(|guard| (guard.usage_observer())(large));
    assert!(guards[..MAX_LARGE].iter().all(|guard| !guard.is_closed()));
    assert!(guards[MAX_LARGE..].iter().all(ConnectionGuard::is_closed));
    assert_eq!(admission.hits(Limit::RequestSize), 300 - MAX_LARGE as u64);
    guards.truncate(1);
    let other = admission.connect(address(2, 1)).unwrap();
    (other.usage_observer())(large);
    assert!(!other.is_closed());
    drop((guards, other));
    admission.assert_empty();
}

/// The kernel may accept a connection from an address before the server has noticed the end of the last one.
#[test]
fn a_reused_address_replaces_the_old_connection() {
    let admission = admission(limits());
    let old = admission.connect(address(1, 1)).unwrap();
    let old_stream = admission.stream(1, 1).unwrap();
    let new = admission.connect(address(1, 1)).unwrap();
    let stream = admission.stream(1, 1).unwrap();
    (old.usage_observer())(streams(1_000));
    drop((old, old_stream));
    let connections: Vec<_> = (2..=64).map(|port| admission.connect(address(1, port)).unwrap()).collect();
    assert_eq!(admission.hits(Limit::Connections), 0);
    drop(admission.connect(address(1, 65)).unwrap());
    assert!(!new.is_closed() && connections[0].is_closed(), "the new one has a stream");
    drop((new, stream, connections));
    admission.assert_empty();
}

#[test]
fn a_closed_connection_does_not_keep_the_counts_alive() {
    let admission = admission(limits());
    let weak: Weak<Shared> = Arc::downgrade(&admission.0);
    let guard = admission.connect(address(1, 1)).unwrap();
    drop((guard, admission));
    assert!(weak.upgrade().is_none());
}

proptest! {
    /// Whatever happens in any order, the limits hold, and in the end nothing is counted.
    #[test]
    fn the_limits_hold_in_any_order(steps in prop::collection::vec((0..6_u8, 0..4_u8, 0..40_u16, 0..60_usize), 0..400)) {
        let limits = Limits { streams: 10, streams_per_namespace: 4, streams_per_peer: 6, ..Limits::default() };
        let admission = admission(limits);
        let (mut guards, mut permits) = (Vec::new(), Vec::new());
        for (step, host, port, number) in steps {
            match step {
                0 | 1 => guards.extend(admission.connect(address(host, port))),
                2 => {
                    if let Ok(permit) = admission.stream(host, port) {
                        let namespace: Arc<str> = format!("n{}", number % 3).into();
                        if permit.enter(&namespace).is_ok() {
                            permits.push(permit);
                        }
                    }
                }
                3 if !guards.is_empty() => (guards[number % guards.len()].usage_observer())(Usage { streams: usize::from(port), has_large_frames: host == 0 }),
                4 if !guards.is_empty() => drop(guards.swap_remove(number % guards.len())),
                5 if !permits.is_empty() => drop(permits.swap_remove(number % permits.len())),
                _ => {}
            }
            let state = admission.lock();
            prop_assert!(state.calls.subscriptions <= 10 && state.calls.subscriptions == permits.len());
            prop_assert!(state.namespaces.values().all(|streams| (1..=4).contains(streams)));
            prop_assert!(state.peers.values().all(|peer| peer.calls.subscriptions <= 6 && peer.connections <= 64));
            prop_assert!(state.connections.len() <= 64);
            let unread: usize = state.connections.values().map(Connection::unread).sum();
            prop_assert!(state.unread == unread && unread <= 64 + 39);
            let idle = |peer: &IpAddr| state.connections.iter()
                .filter(|(address, connection)| peer_of(**address) == *peer && connection.calls == 0)
                .count();
            prop_assert!(state.peers.iter().all(|(address, peer)| peer.idle.len() == idle(address)));
        }
        drop((guards, permits));
        admission.assert_empty();
    }
}
