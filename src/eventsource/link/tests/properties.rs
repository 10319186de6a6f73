//! Random connections: any frames, in pieces of any size, with a peer that stalls, resets and acknowledges at any time.

use proptest::prelude::*;

use super::{
    harness::{Harness, Op},
    http2::*,
    socket::Fault,
};
use crate::eventsource::link::fuzzing::{PING_PAYLOAD, Part, follow};

fn op() -> impl Strategy<Value = Op> {
    let stream = 0..4_usize;
    prop_oneof![
        3 => (1..4_u8).prop_map(|blocks| Op::Open { blocks }),
        3 => any::<u8>().prop_map(Op::OtherFrame),
        1 => stream.clone().prop_map(Op::PeerReset),
        2 => (stream.clone(), prop_oneof![6 => 0..300_usize, 1 => Just(40_000)]).prop_map(|(s, len)| Op::Respond(s, len)),
        12 => (stream.clone(), prop_oneof![12 => 0..400_usize, 1 => 0..16_385_usize]).prop_map(|(s, len)| Op::Data(s, len)),
        1 => (stream.clone(), prop_oneof![6 => 0..300_usize, 1 => Just(20_000)]).prop_map(|(s, len)| Op::Trailers(s, len)),
        1 => stream.clone().prop_map(Op::ServerReset),
        1 => Just(Op::HyperPing),
        8 => (stream, prop_oneof![3 => Just(0), 1 => 0..20_000_u64]).prop_map(|(s, ahead)| Op::Expect(s, ahead)),
        2 => any::<bool>().prop_map(Op::FreezePeer),
        1 => any::<bool>().prop_map(Op::FillSocket),
        4 => (0..25_u64).prop_map(Op::Advance),
        8 => Just(Op::Run),
    ]
}

/// The faults of the transport. The last one transfers bytes, so that the connection makes progress.
fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![1 => Just(Fault::Pending), 13 => (1..14_usize).prop_map(Fault::Short)];
    prop_oneof![
        2 => (proptest::collection::vec(fault, 0..12), 1..14_usize)
            .prop_map(|(mut faults, last)| { faults.push(Fault::Short(last)); faults }),
        1 => Just(Vec::new()),
    ]
}

fn paused_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

proptest! {
    #[test]
    fn any_connection_is_unchanged_and_acks_only_what_was_read(
        ops in proptest::collection::vec(op(), 1..60),
        faults in faults(),
        vectored in any::<bool>(),
    ) {
        paused_runtime().block_on(async {
            let mut harness = Harness::new(&faults, vectored);
            for op in ops {
                harness.apply(op).await;
                harness.check();
            }
            harness.finish().await;
        });
    }

    #[test]
    fn anything_but_http2_is_forwarded_unchanged_both_ways(
        (peer, server) in (any::<Vec<u8>>(), any::<Vec<u8>>()),
        preface in 0..=PREFACE.len(),
        faults in faults(),
    ) {
        let mut peer = [&PREFACE[..preface], &peer].concat();
        // Never SETTINGS, which would be HTTP/2.
        if let Some(kind) = peer.get_mut(PREFACE.len() + 3) {
            *kind |= 0x80;
        }
        let server = [b"HTTP/1.1 ", &server[..]].concat();
        paused_runtime().block_on(async {
            let mut harness = Harness::new(&faults, false);
            harness.socket.state().incoming = peer.iter().copied().collect();
            harness.queue = server.clone();
            harness.run_task();
            harness.read_to_end();
            prop_assert_eq!(&harness.received, &peer);
            prop_assert_eq!(harness.socket.outgoing(), server);
            Ok(())
        })?;
    }

    #[test]
    fn the_size_of_the_pieces_makes_no_difference(
        bytes in any::<Vec<u8>>(),
        frames in proptest::collection::vec((0..10_u8, any::<u8>(), 0..6_u32, 0..40_usize), 0..12),
        cuts in proptest::collection::vec(1..30_usize, 1..40),
    ) {
        let sent = frames.into_iter().map(|(kind, flags, stream, len)| frame(kind, flags, stream, &vec![0x82; len]));
        // Between frames, at the end, and after it: expectations and PINGs of the link.
        let acknowledgement = || [Part::Expect(1, 1), Part::Ping, Part::FromPeer(ping_ack(&PING_PAYLOAD))];
        let mut parts = vec![Part::FromPeer(client_preface()), Part::FromServer(settings())];
        for (index, bytes) in sent.enumerate() {
            parts.push(if index % 3 == 2 { Part::FromServer(bytes) } else { Part::FromPeer(bytes) });
            parts.extend(acknowledgement());
        }
        parts.push(Part::FromServer(bytes.clone()));
        parts.extend(acknowledgement());
        parts.push(Part::FromPeer(bytes));
        prop_assert_eq!(follow(&parts, 7, &[]), follow(&parts, 7, &cuts));
    }
}
