//! The follower of HTTP/2 frames: what it forwards and acknowledges does not depend on the pieces in which bytes arrive,
//! and a link transfers the bytes of both directions unchanged but for its own header.

#![no_main]

use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use model_update_eventsource::eventsource::link::fuzzing::{
    Conclusion, PING_PAYLOAD, Part, Transferred, follow, transfer,
};

const TOKEN: u64 = 7;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

#[derive(Arbitrary, Debug)]
struct Input {
    /// The connection begins as HTTP/2 requires.
    has_preface: bool,
    parts: Vec<Piece>,
    sizes: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    /// Frames of few kinds and streams.
    PeerFrame(FuzzFrame),
    ServerFrame(FuzzFrame),
    PeerBytes(Vec<u8>),
    ServerBytes(Vec<u8>),
    PingAck,
    Expect {
        stream: u8,
        total: u16,
    },
    Ping,
}

#[derive(Arbitrary, Debug)]
struct FuzzFrame {
    kind: u8,
    flags: u8,
    stream: u8,
    len: u16,
}

impl FuzzFrame {
    fn bytes(&self) -> Vec<u8> {
        let len = self.len % 600;
        let [a, b] = len.to_be_bytes();
        let header = [0, a, b, self.kind % 11, self.flags, 0, 0, 0, self.stream % 8];
        [&header[..], &vec![0x82; usize::from(len)]].concat()
    }
}

fuzz_target!(|input: Input| {
    let mut parts = Vec::new();
    if input.has_preface {
        parts.push(Part::FromPeer([PREFACE, SETTINGS].concat()));
        parts.push(Part::FromServer(SETTINGS.to_vec()));
    }
    parts.extend(input.parts.into_iter().map(|piece| match piece {
        Piece::PeerFrame(frame) => Part::FromPeer(frame.bytes()),
        Piece::ServerFrame(frame) => Part::FromServer(frame.bytes()),
        Piece::PeerBytes(bytes) => Part::FromPeer(bytes),
        Piece::ServerBytes(bytes) => Part::FromServer(bytes),
        Piece::PingAck => Part::FromPeer([&[0, 0, 8, 6, 1, 0, 0, 0, 0], &PING_PAYLOAD[..]].concat()),
        Piece::Expect { stream, total } => Part::Expect((stream % 8).into(), total.into()),
        Piece::Ping => Part::Ping,
    }));
    let sizes: Vec<usize> = input.sizes.into_iter().map(usize::from).collect();
    assert_eq!(follow(&parts, TOKEN, &[]), follow(&parts, TOKEN, &sizes));

    let (mut peer, mut server) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::FromPeer(bytes) => peer.extend(bytes),
            Part::FromServer(bytes) => server.extend(bytes),
            Part::Expect(..) | Part::Ping => {}
        }
    }
    let Transferred { by_server, by_peer, token } =
        transfer(&peer, &server, &sizes).expect("no error of the transport");
    // In the same order: a server that violates HTTP/2 ends the tracking of streams.
    let parts = [Part::FromServer(server.clone()), Part::FromPeer(peer)];
    let Conclusion { forwarded, .. } = follow(&parts, token, &[]);
    assert_eq!((by_server, by_peer), (forwarded, server));
});
