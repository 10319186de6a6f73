//! HTTP/2 framing (RFC 9113, section 4): where a frame begins and ends, what its header says, and whether its place in
//! the sequence of frames is valid. Payloads are not interpreted. Incremental: bytes may arrive in pieces of any size.

/// The length of a frame header.
pub(super) const HEADER_LEN: usize = 9;

/// The largest payload that every HTTP/2 endpoint accepts (RFC 9113, section 4.2). Larger frames depend on SETTINGS,
/// which the link does not follow, so it extends frames up to this size only.
pub(super) const MAX_PAYLOAD: u32 = 16_384;

/// Frame types.
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0x0;
    pub(in super::super) const HEADERS: u8 = 0x1;
    pub(in super::super) const RST_STREAM: u8 = 0x3;
    pub(in super::super) const SETTINGS: u8 = 0x4;
    pub(in super::super) const PUSH_PROMISE: u8 = 0x5;
    pub(in super::super) const PING: u8 = 0x6;
    pub(in super::super) const CONTINUATION: u8 = 0x9;
}

/// Frame flags. The meaning of a bit depends on the frame's type.
pub(super) mod flag {
    /// On DATA and HEADERS: the sender ends its side of the stream.
    pub(in super::super) const END_STREAM: u8 = 0x1;
    /// On SETTINGS and PING: an acknowledgement.
    pub(in super::super) const ACK: u8 = 0x1;
    /// On HEADERS, PUSH_PROMISE and CONTINUATION: the header block ends with this frame.
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    /// On DATA and HEADERS: the payload begins with a padding length and ends with the padding.
    pub(in super::super) const PADDED: u8 = 0x8;
    /// On HEADERS: five bytes of priority precede the header block.
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

/// A frame header, kept as the bytes that were received, so that forwarding it changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FrameHeader([u8; HEADER_LEN]);

impl FrameHeader {
    /// Creates the header of a frame that the link itself sends.
    pub(super) fn new(len: u32, kind: u8, flags: u8, stream: u32) -> Self {
        let [_, a, b, c] = len.to_be_bytes();
        let [s, t, u, v] = stream.to_be_bytes();
        Self([a, b, c, kind, flags, s, t, u, v])
    }

    /// The bytes on the wire.
    pub(super) fn bytes(&self) -> &[u8; HEADER_LEN] {
        &self.0
    }

    /// The length of the payload in bytes.
    pub(super) fn len(&self) -> u32 {
        u32::from_be_bytes([0, self.0[0], self.0[1], self.0[2]])
    }

    /// The type of the frame, see [`kind`].
    pub(super) fn kind(&self) -> u8 {
        self.0[3]
    }

    /// Returns whether all bits of `flag` are set, see [`flag`].
    pub(super) fn has(&self, flag: u8) -> bool {
        self.0[4] & flag == flag
    }

    /// The stream of the frame. 0 is the connection itself.
    pub(super) fn stream(&self) -> u32 {
        u32::from_be_bytes([self.0[5], self.0[6], self.0[7], self.0[8]]) & 0x7fff_ffff
    }

    /// The same header for a payload that is `by` bytes longer.
    pub(super) fn extended(mut self, by: u32) -> Self {
        let [_, a, b, c] = (self.len() + by).to_be_bytes();
        self.0[..3].copy_from_slice(&[a, b, c]);
        self
    }
}

/// The result of [`FrameParser::step`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// A frame header is complete.
    Header(FrameHeader),
    /// A part of the current frame's payload.
    Payload(&'a [u8]),
    /// The frame with this header is complete.
    End(FrameHeader),
    /// A frame with this header is not allowed here. The bytes after it cannot be interpreted.
    Invalid(FrameHeader),
}

/// Splits one direction of a connection into frames. Checks two rules of their sequence: SETTINGS is the first frame
/// (RFC 9113, section 3.4), and the frames of a header block are contiguous (section 4.3).
#[derive(Debug, Default)]
pub(super) struct FrameParser {
    header: FrameHeader,
    /// The complete bytes of `header`. [`HEADER_LEN`]: the payload is being read.
    header_read: usize,
    /// The missing bytes of the payload.
    payload_left: u32,
    /// The stream whose header block is open.
    open_block: Option<u32>,
    /// The first frame was valid.
    started: bool,
}

impl FrameParser {
    /// Consumes bytes from the front of `bytes` up to the next [`Step`]. `None`: all are consumed. Call it until `None`
    /// after every piece, because [`Step::End`] needs no further byte.
    pub(super) fn step<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Step<'a>> {
        if self.header_read < HEADER_LEN {
            let (read, rest) = bytes.split_at(bytes.len().min(HEADER_LEN - self.header_read));
            self.header.0[self.header_read..self.header_read + read.len()].copy_from_slice(read);
            self.header_read += read.len();
            *bytes = rest;
            if self.header_read < HEADER_LEN {
                return None;
            }
            self.payload_left = self.header.len();
            return Some(if self.check_sequence() { Step::Header(self.header) } else { Step::Invalid(self.header) });
        }
        if self.payload_left == 0 {
            self.header_read = 0;
            return Some(Step::End(self.header));
        }
        if bytes.is_empty() {
            return None;
        }
        let len = bytes.len().min(usize::try_from(self.payload_left).unwrap_or(usize::MAX));
        let (payload, rest) = bytes.split_at(len);
        self.payload_left -= u32::try_from(len).unwrap_or(self.payload_left);
        *bytes = rest;
        Some(Step::Payload(payload))
    }

    /// Returns whether another frame may be inserted here: no frame is incomplete and no header block is open.
    pub(super) fn at_boundary(&self) -> bool {
        self.header_read == 0 && self.open_block.is_none()
    }

    /// The missing bytes of the current frame's payload.
    pub(super) fn payload_left(&self) -> u32 {
        self.payload_left
    }

    /// The bytes of an incomplete frame header.
    pub(super) fn partial_header(&self) -> &[u8] {
        if self.header_read < HEADER_LEN { &self.header.0[..self.header_read] } else { &[] }
    }

    fn check_sequence(&mut self) -> bool {
        let header = &self.header;
        if !self.started {
            self.started = true;
            return header.kind() == kind::SETTINGS && !header.has(flag::ACK) && header.stream() == 0;
        }
        match self.open_block {
            Some(stream) => {
                if header.kind() != kind::CONTINUATION || header.stream() != stream {
                    return false;
                }
                if header.has(flag::END_HEADERS) {
                    self.open_block = None;
                }
            }
            None => match header.kind() {
                kind::CONTINUATION => return false,
                kind::HEADERS | kind::PUSH_PROMISE if !header.has(flag::END_HEADERS) => {
                    self.open_block = Some(header.stream());
                }
                _ => {}
            },
        }
        true
    }
}
