//! The two directions, each on its own.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::http2::*;
use crate::eventsource::link::{
    inbound::Inbound,
    outbound::Outbound,
    tracker::{AckTracker, MAX_STREAMS, PingDue, Usage, UsageObserver},
};

const TOKEN: u64 = 0xfeed_beef;
const Q: [u8; 8] = *b"12345678";

struct Reader {
    inbound: Inbound,
    tracker: AckTracker,
    /// The usage as it is reported.
    usage: Arc<Mutex<Usage>>,
}

impl Reader {
    fn new() -> Self {
        let (mut tracker, usage) = (AckTracker::default(), Arc::<Mutex<Usage>>::default());
        let reported = usage.clone();
        tracker.observe(UsageObserver::new(move |usage| *reported.lock().expect("no panic") = usage));
        Self { inbound: Inbound::new(TOKEN), tracker, usage }
    }

    /// After the client's preface.
    fn connected() -> Self {
        let mut reader = Self::new();
        assert_eq!(reader.read(&client_preface()), client_preface());
        reader
    }

    fn read(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut forwarded = Vec::new();
        self.inbound.advance(bytes, &mut self.tracker, |bytes| forwarded.extend_from_slice(bytes));
        forwarded
    }

    fn finish(&mut self) -> Vec<u8> {
        let mut forwarded = Vec::new();
        self.inbound.finish(|bytes| forwarded.extend_from_slice(bytes));
        forwarded
    }

    #[track_caller]
    fn forwards(&mut self, bytes: &[u8]) {
        assert_eq!(self.read(bytes), bytes);
    }

    /// One frame as it is forwarded.
    fn read_frame(&mut self, bytes: &[u8]) -> Frame {
        let forwarded = [settings(), self.read(bytes)].concat();
        let (mut frames, rest) = parse(&forwarded);
        assert!(rest.is_empty());
        frames.pop().expect("a frame")
    }

    fn is_tracked(&mut self, stream: u32) -> bool {
        self.tracker.watch(stream).is_some()
    }

    fn ping(&mut self) {
        self.tracker.ping_started(Instant::now(), Q);
        self.tracker.ping_written();
    }
}

#[test]
fn the_block_that_opens_a_stream_ends_with_its_id() {
    let mut reader = Reader::connected();
    for stream in [1, 7] {
        let sent = headers(stream, END_STREAM, 60);
        let mut frame = reader.read_frame(&sent);
        assert_eq!(take_literal(&mut frame), Some((stream, TOKEN)));
        assert_eq!(frame.bytes(), sent, "nothing else has changed");
        assert!(reader.is_tracked(stream));
    }
}

#[test]
fn the_id_is_at_the_end_of_the_last_continuation() {
    let mut reader = Reader::connected();
    reader.forwards(&frame(HEADERS, END_STREAM, 1, &[0x82; 20]));
    reader.forwards(&frame(CONTINUATION, 0, 1, &[0x82; 20]));
    assert!(!reader.is_tracked(1));
    let forwarded = reader.read(&frame(CONTINUATION, END_HEADERS, 1, &[0x82; 20]));
    assert_eq!(forwarded.len(), 9 + 20 + 43);
    assert_eq!(forwarded[..9], frame(CONTINUATION, END_HEADERS, 1, &[0; 63])[..9]);
    assert!(reader.is_tracked(1));
    reader.forwards(&headers(1, END_STREAM, 20));
}

#[test]
fn trailers_and_invalid_stream_ids_are_forwarded_unchanged() {
    let mut reader = Reader::connected();
    reader.read(&headers(5, 0, 20));
    for stream in [5, 3, 4, 6, 0] {
        reader.forwards(&headers(stream, END_STREAM, 20));
        assert_eq!(reader.is_tracked(stream), stream == 5, "stream {stream}");
    }
}

#[test]
fn a_block_that_cannot_be_extended_is_not_tracked() {
    let mut reader = Reader::connected();
    reader.forwards(&headers(1, PADDED, 60));
    reader.forwards(&headers(3, 0, 16_384));
    reader.forwards(&headers(5, 0, 16_384 - 42));
    reader.forwards(&headers(7, HAS_PRIORITY, 4));
    for stream in [1, 3, 5, 7] {
        assert!(!reader.is_tracked(stream), "stream {stream}");
    }
    assert_eq!(reader.read(&headers(9, 0, 16_384 - 43)).len(), 9 + 16_384, "just fits");
    assert!(reader.is_tracked(9));
    reader.read(&headers(11, HAS_PRIORITY, 5));
    assert!(reader.is_tracked(11));
    reader.read(&frame(HEADERS, PADDED, 13, &[0; 9]));
    reader.read(&frame(CONTINUATION, END_HEADERS, 13, &[0x82; 9]));
    assert!(reader.is_tracked(13), "the padding belongs to another frame");
    let usage = Usage { streams: 7, has_large_frames: true };
    assert_eq!(*reader.usage.lock().expect("no panic"), usage, "untracked streams are open, too");
}

#[test]
fn streams_beyond_the_limit_are_not_tracked() {
    let mut reader = Reader::connected();
    let limit = u32::try_from(MAX_STREAMS).expect("small");
    for index in 0..limit {
        reader.read(&headers(2 * index + 1, 0, 1));
    }
    reader.forwards(&headers(2 * limit + 1, 0, 1));
    reader.read(&reset(1));
    assert_eq!(reader.read(&headers(2 * limit + 3, 0, 1)).len(), 9 + 1 + 43, "there is room again");
}

#[test]
fn only_the_ack_of_the_links_own_ping_is_removed() {
    let mut reader = Reader::connected();
    reader.forwards(&ping_ack(&Q));
    reader.ping();
    reader.forwards(&ping_ack(b"12345679"));
    reader.forwards(&ping_ack(b"1234567"));
    reader.forwards(&ping_ack(b"123456789"));
    reader.forwards(&frame(PING, ACK, 1, &Q));
    reader.forwards(&frame(PING, 0, 0, &Q));
    reader.forwards(&frame(PING, ACK | 2, 0, &Q));
    let around = [data(1, 0, 3), ping_ack(&Q), data(1, 0, 4)].concat();
    assert_eq!(reader.read(&around), [data(1, 0, 3), data(1, 0, 4)].concat());
    reader.forwards(&ping_ack(&Q));
}

#[test]
fn an_incomplete_frame_at_the_end_is_forwarded() {
    for cut in 0..17 {
        let mut reader = Reader::connected();
        reader.ping();
        let sent = &ping_ack(&Q)[..cut];
        assert_eq!([reader.read(sent), reader.finish()].concat(), sent, "{cut} bytes");
        assert!(reader.finish().is_empty(), "only once");
    }
}

#[test]
fn anything_but_http2_is_forwarded_without_parsing() {
    for start in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX", b"\x16\x03\x01", &[0; 64]] {
        let mut reader = Reader::new();
        reader.forwards(start);
        reader.forwards(&[client_preface(), headers(1, 0, 20), ping_ack(&Q)].concat());
        assert!(!reader.is_tracked(1));
    }
}

#[test]
fn invalid_framing_is_forwarded_and_closes_every_receiver() {
    let invalid = [
        frame(CONTINUATION, END_HEADERS, 1, b"x"),
        [frame(HEADERS, 0, 3, b"x"), data(3, 0, 1)].concat(),
        [frame(HEADERS, 0, 3, b"x"), headers(5, 0, 1)].concat(),
        [frame(HEADERS, 0, 3, b"x"), frame(CONTINUATION, END_HEADERS, 5, b"x")].concat(),
    ];
    for invalid in invalid {
        let mut reader = Reader::connected();
        reader.read(&headers(1, 0, 20));
        let acked = reader.tracker.watch(1).expect("tracked");
        reader.ping();
        reader.forwards(&invalid);
        assert!(acked.has_changed().is_err(), "closed");
        reader.forwards(&[ping_ack(&Q), headers(7, 0, 20)].concat());
        assert_eq!(*acked.borrow(), 0);
    }
    for first in [headers(1, 0, 20), frame(SETTINGS, ACK, 0, &[]), frame(SETTINGS, 0, 1, &[])] {
        let mut reader = Reader::new();
        reader.forwards(&[PREFACE, &first, &headers(3, 0, 20)].concat());
        assert!(!reader.is_tracked(1) && !reader.is_tracked(3));
    }
}

#[test]
fn a_reset_by_the_peer_ends_the_tracking_and_a_goaway_does_not() {
    let mut reader = Reader::connected();
    reader.read(&[headers(1, 0, 20), headers(3, END_STREAM, 20)].concat());
    reader.forwards(&[frame(GOAWAY, 0, 0, &[0; 8]), data(1, END_STREAM, 0)].concat());
    assert!(reader.is_tracked(1) && reader.is_tracked(3), "the end of its side closes nothing");
    reader.forwards(&reset(1));
    assert!(!reader.is_tracked(1) && reader.is_tracked(3));
}

/// The outbound direction, with stream 1 open.
fn writer() -> (Outbound, AckTracker) {
    let mut tracker = AckTracker::default();
    tracker.stream_opened(1);
    (Outbound::default(), tracker)
}

#[test]
fn a_ping_is_allowed_only_between_frames() {
    let (mut outbound, mut tracker) = writer();
    assert!(!outbound.ping_allowed(), "before the server's SETTINGS");
    let block = long_headers(1, 0, 40_000);
    assert_eq!(block.len(), 3);
    let mut script = vec![(settings(), true)];
    script.extend(block.into_iter().zip([false, false, true]));
    script.extend([data(1, 0, 50), data(1, 0, 0), frame(WINDOW_UPDATE, 0, 0, &[0; 4])].map(|bytes| (bytes, true)));
    for (bytes, allowed_after) in script {
        let (last, rest) = bytes.split_last().expect("not empty");
        for byte in rest {
            outbound.advance(&[*byte], &mut tracker);
            assert!(!outbound.ping_allowed(), "within a frame");
        }
        outbound.advance(&[*last], &mut tracker);
        assert_eq!(outbound.ping_allowed(), allowed_after);
    }
}

#[test]
fn data_counts_when_its_frame_is_complete() {
    let (mut outbound, mut tracker) = writer();
    let acked = tracker.watch(1).expect("tracked");
    tracker.expect(1, 100);
    outbound.advance(&settings(), &mut tracker);
    outbound.advance(&data(1, 0, 100)[..108], &mut tracker);
    assert_eq!(tracker.ping_due(Instant::now()), PingDue::No);
    outbound.advance(&[0xda], &mut tracker);
    assert_eq!(tracker.ping_due(Instant::now()), PingDue::Now);
    tracker.ping_started(Instant::now(), Q);
    tracker.ping_written();
    tracker.ping_acked(Q);
    assert_eq!(*acked.borrow(), 100, "the frame header does not count");
}

#[test]
fn the_end_of_a_stream_counts_when_its_header_block_is_complete() {
    let (mut outbound, mut tracker) = writer();
    outbound.advance(&settings(), &mut tracker);
    outbound.advance(&frame(HEADERS, END_STREAM, 1, b"x"), &mut tracker);
    assert!(tracker.watch(1).is_some());
    outbound.advance(&frame(CONTINUATION, END_HEADERS, 1, b"x"), &mut tracker);
    assert!(tracker.watch(1).is_none());
    for end in [headers(3, END_STREAM, 5), data(3, END_STREAM, 5), reset(3)] {
        let (mut outbound, mut tracker) = writer();
        tracker.stream_opened(3);
        outbound.advance(&[settings(), end].concat(), &mut tracker);
        assert!(tracker.watch(3).is_none() && tracker.watch(1).is_some());
    }
}

#[test]
fn a_stream_with_padded_data_is_not_tracked() {
    let (mut outbound, mut tracker) = writer();
    outbound.advance(&[settings(), frame(DATA, PADDED, 1, &[3, 0xda, 0, 0, 0])].concat(), &mut tracker);
    assert!(tracker.watch(1).is_none());
}

#[test]
fn no_ping_is_inserted_into_a_response_that_is_not_http2() {
    let (mut outbound, mut tracker) = writer();
    outbound.advance(b"HTTP/1.1 400 Bad Request\r\n\r\n", &mut tracker);
    outbound.advance(&settings(), &mut tracker);
    assert!(!outbound.ping_allowed());
    assert!(tracker.watch(1).is_none());
}
