//! The direction from the peer to hyper. Two things are changed: the acknowledgement of a PING of the link is removed
//! (hyper did not send that PING and would log a warning), and the header block that opens a stream gets one more
//! header, which contains the stream's id.

use super::{
    frame::{FrameHeader, FrameParser, HEADER_LEN, MAX_PAYLOAD, Step, flag, kind},
    stream_id,
    tracker::{AckTracker, PingPayload},
};

/// The first bytes of every HTTP/2 client (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of the priority fields in HEADERS.
const PRIORITY_LEN: u32 = 5;

/// The direction from the peer to hyper.
#[derive(Debug)]
pub(super) struct Inbound {
    phase: Phase,
    parser: FrameParser,
    /// The treatment of the frame that is being read.
    action: Action,
    /// The stream whose opening header block is being read.
    opening: Option<u32>,
    /// The newest stream that the peer has opened.
    newest: u32,
    /// Distinguishes the link's header from one of that name that the peer sends: the peer never learns this number.
    token: u64,
}

#[derive(Debug)]
enum Phase {
    /// This many bytes of the preface were read.
    Preface(usize),
    Frames,
    /// Not HTTP/2, or not any more: forwarded without being parsed.
    PassThrough,
}

#[derive(Debug)]
enum Action {
    Forward,
    /// Forward the last frame of the header block that opens this stream, with the link's header appended.
    AppendStreamId(u32),
    /// Hold back what may be the acknowledgement of the link's PING until this many bytes of its payload are complete.
    HoldPingAck(PingPayload, usize),
}

impl Inbound {
    pub(super) fn new(token: u64) -> Self {
        Self {
            phase: Phase::Preface(0),
            parser: FrameParser::default(),
            action: Action::Forward,
            opening: None,
            newest: 0,
            token,
        }
    }

    /// The missing bytes of the payload of the frame that is being read. `None` if frames are not parsed.
    pub(super) fn payload_left(&self) -> Option<u32> {
        match self.phase {
            Phase::Preface(_) => Some(0),
            Phase::Frames => Some(self.parser.payload_left()),
            Phase::PassThrough => None,
        }
    }

    /// Parses `bytes`, which the peer sent, and calls `forward` with what hyper is to read.
    pub(super) fn advance(&mut self, mut bytes: &[u8], tracker: &mut AckTracker, mut forward: impl FnMut(&[u8])) {
        if let Phase::Preface(read) = self.phase {
            let (preface, rest) = bytes.split_at(bytes.len().min(PREFACE.len() - read));
            let read = read + preface.len();
            forward(preface);
            bytes = rest;
            if !PREFACE[..read].ends_with(preface) {
                self.pass_through(tracker);
            } else if read == PREFACE.len() {
                self.phase = Phase::Frames;
            } else {
                self.phase = Phase::Preface(read);
            }
        }
        if let Phase::Frames = self.phase {
            self.advance_frames(&mut bytes, tracker, &mut forward);
        }
        if !bytes.is_empty() {
            forward(bytes);
        }
    }

    /// Handles the end of the peer's bytes: calls `forward` with what was held back of an incomplete frame.
    pub(super) fn finish(&mut self, mut forward: impl FnMut(&[u8])) {
        if let Phase::Frames = self.phase {
            forward(self.parser.partial_header());
            if let Action::HoldPingAck(payload, read) = &self.action {
                forward(ping_ack_header().bytes());
                forward(&payload[..*read]);
            }
        }
        self.phase = Phase::PassThrough;
    }

    fn advance_frames(&mut self, bytes: &mut &[u8], tracker: &mut AckTracker, forward: &mut impl FnMut(&[u8])) {
        while let Some(step) = self.parser.step(bytes) {
            match step {
                Step::Header(header) => {
                    tracker.frame_begun(header.len());
                    self.action = self.action_for(&header, tracker);
                    match self.action {
                        Action::Forward => forward(header.bytes()),
                        Action::AppendStreamId(_) => forward(header.extended(stream_id::LITERAL_LEN).bytes()),
                        Action::HoldPingAck(..) => {}
                    }
                }
                Step::Payload(payload) => match &mut self.action {
                    Action::Forward | Action::AppendStreamId(_) => forward(payload),
                    Action::HoldPingAck(held, read) => {
                        held[*read..*read + payload.len()].copy_from_slice(payload);
                        *read += payload.len();
                    }
                },
                Step::End(header) => match std::mem::replace(&mut self.action, Action::Forward) {
                    Action::Forward if header.kind() == kind::RST_STREAM => tracker.stream_reset(header.stream()),
                    Action::Forward => {}
                    Action::AppendStreamId(stream) => {
                        forward(&stream_id::literal(stream, self.token));
                        tracker.stream_opened(stream);
                    }
                    Action::HoldPingAck(payload, _) => {
                        if !tracker.ping_acked(payload) {
                            forward(header.bytes());
                            forward(&payload);
                        }
                    }
                },
                Step::Invalid(header) => {
                    self.pass_through(tracker);
                    forward(header.bytes());
                    return;
                }
            }
        }
    }

    fn action_for(&mut self, header: &FrameHeader, tracker: &mut AckTracker) -> Action {
        match header.kind() {
            kind::PING if *header == ping_ack_header() => Action::HoldPingAck([0; 8], 0),
            kind::HEADERS => {
                // A client's streams have odd, ascending ids. HEADERS with another id are trailers, or an error.
                let stream = header.stream();
                let opens = stream % 2 == 1 && stream > self.newest;
                self.opening = opens.then_some(stream);
                self.newest = self.newest.max(stream);
                // A header behind padding would not belong to the block, and a frame that is too short for its own
                // priority would become long enough.
                let extensible =
                    !header.has(flag::PADDED) && (!header.has(flag::PRIORITY) || header.len() >= PRIORITY_LEN);
                self.block_action(header, extensible, tracker)
            }
            kind::CONTINUATION => self.block_action(header, true, tracker),
            _ => Action::Forward,
        }
    }

    /// The action for a frame of a header block. If the link's header cannot be appended (no known client sends such a
    /// block), the stream is not tracked.
    fn block_action(&mut self, header: &FrameHeader, extensible: bool, tracker: &mut AckTracker) -> Action {
        if !header.has(flag::END_HEADERS) {
            return Action::Forward;
        }
        match self.opening.take() {
            Some(stream)
                if extensible && header.len() + stream_id::LITERAL_LEN <= MAX_PAYLOAD && tracker.has_room() =>
            {
                Action::AppendStreamId(stream)
            }
            Some(_) => {
                tracker.stream_untracked();
                Action::Forward
            }
            None => Action::Forward,
        }
    }

    fn pass_through(&mut self, tracker: &mut AckTracker) {
        self.phase = Phase::PassThrough;
        tracker.close();
    }
}

/// The only valid header of a PING acknowledgement: a payload of eight bytes, no other flag, stream 0.
fn ping_ack_header() -> FrameHeader {
    FrameHeader::new(8, kind::PING, flag::ACK, 0)
}

const _: () = assert!(HEADER_LEN + 8 == 17, "a PING has seventeen bytes on the wire");
