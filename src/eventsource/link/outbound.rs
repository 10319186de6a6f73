//! The direction from hyper to the peer. Its bytes are not changed. They are parsed to count the DATA bytes of each
//! stream, to notice the end of streams, and to know where a PING may be inserted.

use super::{
    frame::{FrameParser, Step, flag, kind},
    tracker::AckTracker,
};

/// The direction from hyper to the peer.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    phase: Phase,
    parser: FrameParser,
    /// The stream that ends with the header block that is being written.
    ending: Option<u32>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The server's SETTINGS frame, which must be the first, is not complete yet.
    #[default]
    Start,
    Frames,
    /// Not HTTP/2, and not parsed any more.
    PassThrough,
}

impl Outbound {
    /// Returns whether another frame may begin after the bytes written so far.
    pub(super) fn ping_allowed(&self) -> bool {
        self.phase == Phase::Frames && self.parser.at_boundary()
    }

    /// Parses `bytes`, which were written.
    pub(super) fn advance(&mut self, mut bytes: &[u8], tracker: &mut AckTracker) {
        if self.phase == Phase::PassThrough {
            return;
        }
        while let Some(step) = self.parser.step(&mut bytes) {
            match step {
                Step::Header(_) | Step::Payload(_) => {}
                Step::End(header) => {
                    self.phase = Phase::Frames;
                    let stream = header.stream();
                    match header.kind() {
                        // The length of the padding is not known here. hyper never pads.
                        kind::DATA if header.has(flag::PADDED) => tracker.stream_reset(stream),
                        kind::DATA => {
                            tracker.data_written(stream, header.len());
                            if header.has(flag::END_STREAM) {
                                tracker.end_written(stream);
                            }
                        }
                        // HEADERS has the flag, but the stream ends with the last CONTINUATION.
                        kind::HEADERS if header.has(flag::END_STREAM) => self.ending = Some(stream),
                        kind::RST_STREAM => tracker.stream_reset(stream),
                        _ => {}
                    }
                    if self.parser.at_boundary()
                        && let Some(stream) = self.ending.take()
                    {
                        tracker.end_written(stream);
                    }
                }
                Step::Invalid(_) => {
                    self.phase = Phase::PassThrough;
                    tracker.close();
                    return;
                }
            }
        }
    }
}
