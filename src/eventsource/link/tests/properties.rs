//! Whole connections at random: any frames, in any pieces, with a peer that stalls, resets and acknowledges as it likes.

use proptest::prelude::*;

use super::wire::*;
use super::world::{Op, World};
use crate::eventsource::link::inbound::Inbound;
use crate::eventsource::link::ledger::Ledger;
use crate::eventsource::link::outbound::Outbound;

fn op() -> impl Strategy<Value = Op> {
    let stream = 0..4_usize;
    prop_oneof![
        3 => (1..4_u8).prop_map(|blocks| Op::Open { blocks }),
        3 => any::<u8>().prop_map(Op::Chatter),
        1 => stream.clone().prop_map(Op::PeerResets),
        2 => (stream.clone(), prop_oneof![6 => 0..300_usize, 1 => Just(40_000)]).prop_map(|(s, len)| Op::Respond(s, len)),
        12 => (stream.clone(), prop_oneof![12 => 0..400_usize, 1 => 0..16_385_usize]).prop_map(|(s, len)| Op::Data(s, len)),
        1 => (stream.clone(), prop_oneof![6 => 0..300_usize, 1 => Just(20_000)]).prop_map(|(s, len)| Op::Trailers(s, len)),
        1 => stream.clone().prop_map(Op::WeReset),
        1 => Just(Op::OwnPing),
        8 => (stream, prop_oneof![3 => Just(0), 1 => 0..20_000_u64]).prop_map(|(s, ahead)| Op::Expect(s, ahead)),
        2 => any::<bool>().prop_map(Op::Frozen),
        1 => any::<bool>().prop_map(Op::Full),
        4 => (0..25_u64).prop_map(Op::Pass),
        8 => Just(Op::Turn),
    ]
}

/// What each call on the transport does; the last one moves something, or nothing ever would.
fn moods() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => (proptest::collection::vec(0..14_u8, 0..12), 1..14_u8)
            .prop_map(|(mut moods, last)| { moods.push(last); moods }),
        1 => Just(Vec::new()),
    ]
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

proptest! {
    #[test]
    fn any_connection_is_left_as_it_is_and_proves_only_what_was_read(
        ops in proptest::collection::vec(op(), 1..60),
        moods in moods(),
        vectored in any::<bool>(),
    ) {
        paused().block_on(async {
            let mut world = World::new(&moods, vectored);
            for op in ops {
                world.apply(op).await;
                world.check();
            }
            world.finish().await;
        });
    }

    #[test]
    fn what_is_no_http2_passes_untouched_both_ways(
        (peer, ours) in (any::<Vec<u8>>(), any::<Vec<u8>>()),
        preface in 0..=PREFACE.len(),
        moods in moods(),
    ) {
        let mut peer = [&PREFACE[..preface], &peer].concat();
        // Were it SETTINGS by chance, it would be HTTP/2.
        if let Some(kind) = peer.get_mut(PREFACE.len() + 3) {
            *kind |= 0x80;
        }
        let ours = [b"HTTP/1.1 ", &ours[..]].concat();
        paused().block_on(async {
            let mut world = World::new(&moods, false);
            world.wire.state().incoming = peer.iter().copied().collect();
            world.queue = ours.clone();
            world.run();
            world.read_to_end();
            prop_assert_eq!(&world.received, &peer);
            prop_assert_eq!(world.wire.outgoing(), ours);
            Ok(())
        })?;
    }

    #[test]
    fn the_pieces_in_which_octets_come_make_no_difference(
        mut octets in any::<Vec<u8>>(),
        frames in proptest::collection::vec((0..10_u8, any::<u8>(), 0..6_u32, 0..40_usize), 0..12),
        cuts in proptest::collection::vec(1..30_usize, 1..40),
    ) {
        let mut sent = hello();
        for (kind, flags, stream, len) in frames {
            sent.extend(frame(kind, flags, stream, &vec![0x82; len]));
        }
        sent.append(&mut octets);
        let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let (mut inbound, mut outbound) = (Inbound::new(7), Outbound::default());
            let (mut ledger, mut written) = (Ledger::default(), Ledger::default());
            let mut passed = Vec::new();
            for piece in pieces {
                inbound.advance(piece, &mut ledger, |octets| passed.extend_from_slice(octets));
                outbound.advance(piece, &mut written);
            }
            inbound.finish(|octets| passed.extend_from_slice(octets));
            let accounts: Vec<_> = (0..6).map(|stream| ledger.watch(stream).is_some()).collect();
            (passed, accounts, outbound.ping_allowed())
        };
        let whole = read(&mut std::iter::once(&sent[..]));
        let mut rest = &sent[..];
        let pieces = read(&mut cuts.iter().cycle().map_while(|cut| {
            let (piece, tail) = rest.split_at(rest.len().min(*cut));
            rest = tail;
            (!piece.is_empty()).then_some(piece)
        }));
        prop_assert_eq!(whole, pieces);
    }
}
