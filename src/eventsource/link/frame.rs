//! HTTP/2 framing (RFC 9113, section 4), as little of it as the link needs: where a frame begins and ends, what its
//! nine octets of head say, and whether the sequence of frames is one that HTTP/2 allows. Payloads are never looked
//! into here. Pure and incremental: octets may come in pieces of any size.

/// The length of a frame's head.
pub(super) const HEAD: usize = 9;

/// The largest payload that every HTTP/2 endpoint must accept. Larger ones depend on SETTINGS, which the link need not
/// know: what it adds, it adds below this.
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

/// Flags of a frame. What a bit means depends on the frame's type.
pub(super) mod flag {
    /// On DATA and HEADERS: the sender ends its side of the stream.
    pub(in super::super) const END_STREAM: u8 = 0x1;
    /// On SETTINGS and PING: an acknowledgement.
    pub(in super::super) const ACK: u8 = 0x1;
    /// On HEADERS, PUSH_PROMISE and CONTINUATION: the header block ends with this frame.
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    /// On DATA and HEADERS: a length of padding comes first, the padding last.
    pub(in super::super) const PADDED: u8 = 0x8;
    /// On HEADERS: five octets of priority come before the header block.
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

/// The head of a frame, kept as the octets that came, so that passing it on changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head([u8; HEAD]);

impl Head {
    /// A head of our own making.
    pub(super) fn new(len: u32, kind: u8, flags: u8, stream: u32) -> Self {
        let [_, a, b, c] = len.to_be_bytes();
        let [s, t, u, v] = stream.to_be_bytes();
        Self([a, b, c, kind, flags, s, t, u, v])
    }

    /// The octets on the wire.
    pub(super) fn octets(&self) -> &[u8; HEAD] {
        &self.0
    }

    /// The length of the payload in octets.
    pub(super) fn len(&self) -> u32 {
        u32::from_be_bytes([0, self.0[0], self.0[1], self.0[2]])
    }

    /// The type of the frame, see [`kind`].
    pub(super) fn kind(&self) -> u8 {
        self.0[3]
    }

    /// Whether all bits of `flag` are set, see [`flag`].
    pub(super) fn has(&self, flag: u8) -> bool {
        self.0[4] & flag == flag
    }

    /// The stream that the frame belongs to; 0 is the connection itself.
    pub(super) fn stream(&self) -> u32 {
        u32::from_be_bytes([self.0[5], self.0[6], self.0[7], self.0[8]]) & 0x7fff_ffff
    }

    /// The same head for a payload that is `by` octets longer.
    pub(super) fn lengthened(mut self, by: u32) -> Self {
        let [_, a, b, c] = (self.len() + by).to_be_bytes();
        self.0[..3].copy_from_slice(&[a, b, c]);
        self
    }
}

/// What [`Frames::step`] found next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// The head of a frame is complete.
    Head(Head),
    /// Some octets of the current frame's payload.
    Payload(&'a [u8]),
    /// The frame with this head is complete, payload and all.
    End(Head),
    /// This head cannot stand here: it is not HTTP/2. Nothing after it can be understood.
    Broken(Head),
}

/// Splits one direction of a connection into frames, and holds them to the two rules of sequence: SETTINGS come first,
/// and nothing comes between the frames of a header block.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: Head,
    /// How many octets of `head` are there; [`HEAD`] means that the payload is being read.
    have: usize,
    /// How many octets of the payload are still to come.
    left: u32,
    /// The stream whose header block is open.
    block: Option<u32>,
    /// Whether a first frame has been accepted.
    begun: bool,
}

impl Frames {
    /// Takes octets from the front of `bytes` up to the next thing of note, `None` when all are used up. A frame's
    /// [`Step::End`] comes with its last octet, so drain this until `None` after every piece.
    pub(super) fn step<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Step<'a>> {
        if self.have < HEAD {
            let (taken, rest) = bytes.split_at(bytes.len().min(HEAD - self.have));
            self.head.0[self.have..self.have + taken.len()].copy_from_slice(taken);
            self.have += taken.len();
            *bytes = rest;
            if self.have < HEAD {
                return None;
            }
            self.left = self.head.len();
            return Some(if self.accept() { Step::Head(self.head) } else { Step::Broken(self.head) });
        }
        if self.left == 0 {
            self.have = 0;
            return Some(Step::End(self.head));
        }
        if bytes.is_empty() {
            return None;
        }
        let take = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let (payload, rest) = bytes.split_at(take);
        self.left -= u32::try_from(take).unwrap_or(self.left);
        *bytes = rest;
        Some(Step::Payload(payload))
    }

    /// Whether a frame of somebody else's may be put in here: no frame is half done and no header block open.
    pub(super) fn at_boundary(&self) -> bool {
        self.have == 0 && self.block.is_none()
    }

    /// The octets of a head that is not complete yet.
    pub(super) fn partial_head(&self) -> &[u8] {
        if self.have < HEAD { &self.head.0[..self.have] } else { &[] }
    }

    fn accept(&mut self) -> bool {
        let head = &self.head;
        if !self.begun {
            self.begun = true;
            return head.kind() == kind::SETTINGS && !head.has(flag::ACK) && head.stream() == 0;
        }
        match self.block {
            Some(stream) => {
                if head.kind() != kind::CONTINUATION || head.stream() != stream {
                    return false;
                }
                if head.has(flag::END_HEADERS) {
                    self.block = None;
                }
            }
            None => match head.kind() {
                kind::CONTINUATION => return false,
                kind::HEADERS | kind::PUSH_PROMISE if !head.has(flag::END_HEADERS) => {
                    self.block = Some(head.stream());
                }
                _ => {}
            },
        }
        true
    }
}
