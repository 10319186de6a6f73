//! The two directions, each by itself.

use super::wire::*;
use crate::eventsource::link::inbound::Inbound;
use crate::eventsource::link::ledger::{Due, Ledger, MAX_STREAMS};
use crate::eventsource::link::outbound::Outbound;
use tokio::time::Instant;

const TOKEN: u64 = 0xfeed_beef;
const Q: [u8; 8] = *b"12345678";

struct Reader {
    inbound: Inbound,
    ledger: Ledger,
}

impl Reader {
    fn new() -> Self {
        Self { inbound: Inbound::new(TOKEN), ledger: Ledger::default() }
    }

    /// A client that has said hello.
    fn greeted() -> Self {
        let mut reader = Self::new();
        assert_eq!(reader.read(&hello()), hello());
        reader
    }

    fn read(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut passed = Vec::new();
        self.inbound.advance(bytes, &mut self.ledger, |bytes| passed.extend_from_slice(bytes));
        passed
    }

    fn finish(&mut self) -> Vec<u8> {
        let mut passed = Vec::new();
        self.inbound.finish(|bytes| passed.extend_from_slice(bytes));
        passed
    }

    #[track_caller]
    fn passes(&mut self, bytes: &[u8]) {
        assert_eq!(self.read(bytes), bytes);
    }

    /// What is passed of one frame that follows a hello.
    fn read_frame(&mut self, octets: &[u8]) -> Frame {
        let passed = [settings(), self.read(octets)].concat();
        let (mut frames, rest) = parse(&passed);
        assert!(rest.is_empty());
        frames.pop().expect("a frame")
    }

    fn has_account(&mut self, stream: u32) -> bool {
        self.ledger.watch(stream).is_some()
    }

    fn ping(&mut self) {
        self.ledger.ping_begun(Instant::now(), Q);
        self.ledger.ping_written();
    }
}

#[test]
fn the_block_that_opens_a_stream_gets_the_id_at_its_end() {
    let mut reader = Reader::greeted();
    for stream in [1, 7] {
        let sent = headers(stream, END_STREAM, 60);
        let mut frame = reader.read_frame(&sent);
        assert_eq!(take_literal(&mut frame), Some((stream, TOKEN)));
        assert_eq!(frame.octets(), sent, "nothing else is changed");
        assert!(reader.has_account(stream));
    }
}

#[test]
fn the_id_comes_at_the_end_of_the_last_continuation() {
    let mut reader = Reader::greeted();
    reader.passes(&frame(HEADERS, END_STREAM, 1, &[0x82; 20]));
    reader.passes(&frame(CONTINUATION, 0, 1, &[0x82; 20]));
    assert!(!reader.has_account(1));
    let passed = reader.read(&frame(CONTINUATION, END_HEADERS, 1, &[0x82; 20]));
    assert_eq!(passed.len(), 9 + 20 + 43);
    assert_eq!(passed[..9], frame(CONTINUATION, END_HEADERS, 1, &[0; 63])[..9]);
    assert!(reader.has_account(1));
    reader.passes(&headers(1, END_STREAM, 20));
}

#[test]
fn trailers_and_streams_that_a_client_cannot_open_are_left_alone() {
    let mut reader = Reader::greeted();
    reader.read(&headers(5, 0, 20));
    for stream in [5, 3, 4, 6, 0] {
        reader.passes(&headers(stream, END_STREAM, 20));
        assert_eq!(reader.has_account(stream), stream == 5, "stream {stream}");
    }
}

#[test]
fn a_block_that_cannot_be_extended_goes_without_an_account() {
    let mut reader = Reader::greeted();
    reader.passes(&headers(1, PADDED, 60));
    reader.passes(&headers(3, 0, 16_384));
    reader.passes(&headers(5, 0, 16_384 - 42));
    reader.passes(&headers(7, HAS_PRIORITY, 4));
    for stream in [1, 3, 5, 7] {
        assert!(!reader.has_account(stream), "stream {stream}");
    }
    assert_eq!(reader.read(&headers(9, 0, 16_384 - 43)).len(), 9 + 16_384, "this one just fits");
    assert!(reader.has_account(9));
    reader.read(&headers(11, HAS_PRIORITY, 5));
    assert!(reader.has_account(11));
    reader.read(&frame(HEADERS, PADDED, 13, &[0; 9]));
    reader.read(&frame(CONTINUATION, END_HEADERS, 13, &[0x82; 9]));
    assert!(reader.has_account(13), "the padding was of another frame");
}

#[test]
fn a_connection_with_too_many_streams_opens_no_further_account() {
    let mut reader = Reader::greeted();
    let limit = u32::try_from(MAX_STREAMS).expect("small");
    for index in 0..limit {
        reader.read(&headers(2 * index + 1, 0, 1));
    }
    reader.passes(&headers(2 * limit + 1, 0, 1));
    reader.read(&reset(1));
    assert_eq!(reader.read(&headers(2 * limit + 3, 0, 1)).len(), 9 + 1 + 43, "there is room again");
}

#[test]
fn only_our_own_acknowledgement_is_taken_out() {
    let mut reader = Reader::greeted();
    reader.passes(&pong(&Q));
    reader.ping();
    reader.passes(&pong(b"12345679"));
    reader.passes(&pong(b"1234567"));
    reader.passes(&pong(b"123456789"));
    reader.passes(&frame(PING, ACK, 1, &Q));
    reader.passes(&frame(PING, 0, 0, &Q));
    reader.passes(&frame(PING, ACK | 2, 0, &Q));
    let around = [data(1, 0, 3), pong(&Q), data(1, 0, 4)].concat();
    assert_eq!(reader.read(&around), [data(1, 0, 3), data(1, 0, 4)].concat());
    reader.passes(&pong(&Q));
}

#[test]
fn what_a_frame_at_the_end_kept_back_is_passed_on() {
    for cut in 0..17 {
        let mut reader = Reader::greeted();
        reader.ping();
        let sent = &pong(&Q)[..cut];
        assert_eq!([reader.read(sent), reader.finish()].concat(), sent, "{cut} octets");
        assert!(reader.finish().is_empty(), "once");
    }
}

#[test]
fn what_is_not_http2_is_passed_on_and_never_looked_at() {
    for begin in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX", b"\x16\x03\x01", &[0; 64]] {
        let mut reader = Reader::new();
        reader.passes(begin);
        reader.passes(&[hello(), headers(1, 0, 20), pong(&Q)].concat());
        assert!(!reader.has_account(1));
    }
}

#[test]
fn broken_framing_is_passed_on_and_closes_every_account() {
    let broken = [
        frame(CONTINUATION, END_HEADERS, 1, b"x"),
        [frame(HEADERS, 0, 3, b"x"), data(3, 0, 1)].concat(),
        [frame(HEADERS, 0, 3, b"x"), headers(5, 0, 1)].concat(),
        [frame(HEADERS, 0, 3, b"x"), frame(CONTINUATION, END_HEADERS, 5, b"x")].concat(),
    ];
    for broken in broken {
        let mut reader = Reader::greeted();
        reader.read(&headers(1, 0, 20));
        let account = reader.ledger.watch(1).expect("an account");
        reader.ping();
        reader.passes(&broken);
        assert!(account.has_changed().is_err(), "closed");
        reader.passes(&[pong(&Q), headers(7, 0, 20)].concat());
        assert_eq!(*account.borrow(), 0);
    }
    for first in [headers(1, 0, 20), frame(SETTINGS, ACK, 0, &[]), frame(SETTINGS, 0, 1, &[])] {
        let mut reader = Reader::new();
        reader.passes(&[PREFACE, &first, &headers(3, 0, 20)].concat());
        assert!(!reader.has_account(1) && !reader.has_account(3));
    }
}

#[test]
fn the_peers_reset_closes_the_account_and_its_goaway_does_not() {
    let mut reader = Reader::greeted();
    reader.read(&[headers(1, 0, 20), headers(3, END_STREAM, 20)].concat());
    reader.passes(&[frame(GOAWAY, 0, 0, &[0; 8]), data(1, END_STREAM, 0)].concat());
    assert!(reader.has_account(1) && reader.has_account(3), "nor does the end of its side");
    reader.passes(&reset(1));
    assert!(!reader.has_account(1) && reader.has_account(3));
}

/// Our side, with stream 1 open and wanting everything.
fn writer() -> (Outbound, Ledger) {
    let mut ledger = Ledger::default();
    ledger.open(1);
    (Outbound::default(), ledger)
}

#[test]
fn a_ping_is_allowed_only_between_frames() {
    let (mut outbound, mut ledger) = writer();
    assert!(!outbound.ping_allowed(), "before our SETTINGS");
    let block = long_headers(1, 0, 40_000);
    assert_eq!(block.len(), 3);
    let mut script = vec![(settings(), true)];
    script.extend(block.into_iter().zip([false, false, true]));
    script.extend([data(1, 0, 50), data(1, 0, 0), frame(WINDOW_UPDATE, 0, 0, &[0; 4])].map(|octets| (octets, true)));
    for (octets, allowed_after) in script {
        let (last, most) = octets.split_last().expect("not empty");
        for octet in most {
            outbound.advance(&[*octet], &mut ledger);
            assert!(!outbound.ping_allowed(), "within a frame");
        }
        outbound.advance(&[*last], &mut ledger);
        assert_eq!(outbound.ping_allowed(), allowed_after);
    }
}

#[test]
fn data_counts_when_its_frame_is_whole() {
    let (mut outbound, mut ledger) = writer();
    let account = ledger.watch(1).expect("an account");
    ledger.expect(1, 100);
    outbound.advance(&settings(), &mut ledger);
    outbound.advance(&data(1, 0, 100)[..108], &mut ledger);
    assert_eq!(ledger.due(Instant::now()), Due::No);
    outbound.advance(&[0xda], &mut ledger);
    assert_eq!(ledger.due(Instant::now()), Due::Now);
    ledger.ping_begun(Instant::now(), Q);
    ledger.ping_written();
    ledger.acknowledged(Q);
    assert_eq!(*account.borrow(), 100, "the head is no DATA octet");
}

#[test]
fn our_end_of_a_stream_counts_when_its_header_block_is_whole() {
    let (mut outbound, mut ledger) = writer();
    outbound.advance(&settings(), &mut ledger);
    outbound.advance(&frame(HEADERS, END_STREAM, 1, b"x"), &mut ledger);
    assert!(ledger.watch(1).is_some());
    outbound.advance(&frame(CONTINUATION, END_HEADERS, 1, b"x"), &mut ledger);
    let gone = ledger.watch(1).is_none();
    assert!(gone);
    for end in [headers(3, END_STREAM, 5), data(3, END_STREAM, 5), reset(3)] {
        let (mut outbound, mut ledger) = writer();
        ledger.open(3);
        outbound.advance(&[settings(), end].concat(), &mut ledger);
        assert!(ledger.watch(3).is_none() && ledger.watch(1).is_some());
    }
}

#[test]
fn a_stream_of_ours_with_padding_is_not_accounted_for() {
    let (mut outbound, mut ledger) = writer();
    outbound.advance(&[settings(), frame(DATA, PADDED, 1, &[3, 0xda, 0, 0, 0])].concat(), &mut ledger);
    assert!(ledger.watch(1).is_none());
}

#[test]
fn an_answer_that_is_not_http2_is_never_interrupted() {
    let (mut outbound, mut ledger) = writer();
    outbound.advance(b"HTTP/1.1 400 Bad Request\r\n\r\n", &mut ledger);
    outbound.advance(&settings(), &mut ledger);
    assert!(!outbound.ping_allowed());
    assert!(ledger.watch(1).is_none());
}
