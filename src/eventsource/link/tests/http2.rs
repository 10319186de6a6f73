//! HTTP/2 frames for the tests, independent of the code under test.

use crate::eventsource::link::STREAM_ID_HEADER;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const HAS_PRIORITY: u8 = 0x20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn bytes(&self) -> Vec<u8> {
        frame(self.kind, self.flags, self.stream, &self.payload)
    }

    pub(super) fn is_ping(&self) -> bool {
        self.kind == PING && self.flags == 0
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let id = stream.to_be_bytes();
    [&len[1..], &[kind, flags], &id, payload].concat()
}

pub(super) fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])
}

/// A client's connection preface, SETTINGS included.
pub(super) fn client_preface() -> Vec<u8> {
    [PREFACE, &settings()].concat()
}

/// A header block of one frame. The link does not interpret its content.
pub(super) fn headers(stream: u32, flags: u8, len: usize) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &vec![0x82; len])
}

pub(super) fn data(stream: u32, flags: u8, len: usize) -> Vec<u8> {
    frame(DATA, flags, stream, &vec![0xda; len])
}

pub(super) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

pub(super) fn ping_ack(payload: &[u8]) -> Vec<u8> {
    frame(PING, ACK, 0, payload)
}

/// A header block of `len` bytes, in as many frames as needed.
pub(super) fn long_headers(stream: u32, flags: u8, len: usize) -> Vec<Vec<u8>> {
    let block = vec![0x82; len];
    let chunks: Vec<_> = block.chunks(16_384).collect();
    let last = chunks.len() - 1;
    let frames = chunks.into_iter().enumerate().map(|(index, chunk)| {
        let end = if index == last { END_HEADERS } else { 0 };
        if index == 0 { frame(HEADERS, flags | end, stream, chunk) } else { frame(CONTINUATION, end, stream, chunk) }
    });
    frames.collect()
}

/// Parses frames, and panics at violations of HTTP/2: a frame before SETTINGS, a frame within a header block, a PING
/// without exactly eight bytes.
#[derive(Debug, Default)]
pub(super) struct Parser {
    started: bool,
    block: Option<u32>,
}

impl Parser {
    /// Returns the complete frames at the front of `bytes`, and the rest.
    pub(super) fn parse<'a>(&mut self, bytes: &'a [u8]) -> (Vec<Frame>, &'a [u8]) {
        let (mut frames, mut rest) = (Vec::new(), bytes);
        while let Some((header, tail)) = rest.split_first_chunk::<9>() {
            let [a, b, c, kind, flags, id @ ..] = *header;
            let len = usize::try_from(u32::from_be_bytes([0, a, b, c])).expect("small");
            let stream = u32::from_be_bytes(id);
            let Some((payload, tail)) = tail.split_at_checked(len) else { break };
            assert!(self.started || kind == SETTINGS, "a frame of type {kind} before SETTINGS");
            self.started = true;
            match self.block {
                Some(open) => assert_eq!((kind, stream), (CONTINUATION, open), "within the header block of {open}"),
                None => assert_ne!(kind, CONTINUATION, "outside a header block"),
            }
            if matches!(kind, HEADERS | CONTINUATION) {
                self.block = (flags & END_HEADERS == 0).then_some(stream);
            }
            assert!(kind != PING || (len, stream) == (8, 0), "a malformed PING");
            frames.push(Frame { kind, flags, stream, payload: payload.to_vec() });
            rest = tail;
        }
        (frames, rest)
    }
}

/// All complete frames of one direction of a connection, and the rest.
pub(super) fn parse(bytes: &[u8]) -> (Vec<Frame>, &[u8]) {
    Parser::default().parse(bytes)
}

/// Removes the header that the link appended to this frame. Returns its stream id and token.
pub(super) fn take_literal(frame: &mut Frame) -> Option<(u32, u64)> {
    let at = frame.payload.len().checked_sub(43)?;
    let literal = &frame.payload[at..];
    let name = [&[0x10, 16], STREAM_ID_HEADER.as_bytes(), &[24]].concat();
    let value = std::str::from_utf8(literal.strip_prefix(name.as_slice())?).ok()?;
    let (stream, token) = value.split_at(8);
    let found = (u32::from_str_radix(stream, 16).ok()?, u64::from_str_radix(token, 16).ok()?);
    frame.payload.truncate(at);
    Some(found)
}
