//! What hyper sends, on its way to the peer. Nothing is changed; it is followed to count the DATA octets of each
//! stream, to see streams end, and to know where a PING of ours may be put in.

use super::frame::{Frames, Step, flag, kind};
use super::ledger::Ledger;

/// The direction from hyper to the peer.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    phase: Phase,
    frames: Frames,
    /// The stream that ends with the header block that is being written.
    ending: Option<u32>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Our SETTINGS, which must be the first frame, are not out yet.
    #[default]
    Silent,
    Framed,
    /// Not HTTP/2: never looked at again.
    Foreign,
}

impl Outbound {
    /// Whether the octets written so far end where another frame may begin.
    pub(super) fn ping_allowed(&self) -> bool {
        self.phase == Phase::Framed && self.frames.at_boundary()
    }

    /// Follows `bytes`, which have been written.
    pub(super) fn advance(&mut self, mut bytes: &[u8], ledger: &mut Ledger) {
        if self.phase == Phase::Foreign {
            return;
        }
        while let Some(step) = self.frames.step(&mut bytes) {
            match step {
                Step::Head(_) | Step::Payload(_) => {}
                Step::End(head) => {
                    self.phase = Phase::Framed;
                    let stream = head.stream();
                    match head.kind() {
                        // How much of it is padding is not known here. hyper never pads.
                        kind::DATA if head.has(flag::PADDED) => ledger.reset(stream),
                        kind::DATA => {
                            ledger.data_written(stream, head.len());
                            if head.has(flag::END_STREAM) {
                                ledger.end_written(stream);
                            }
                        }
                        // The flag comes with HEADERS, but the stream ends with the last CONTINUATION.
                        kind::HEADERS if head.has(flag::END_STREAM) => self.ending = Some(stream),
                        kind::RST_STREAM => ledger.reset(stream),
                        _ => {}
                    }
                    if self.frames.at_boundary()
                        && let Some(stream) = self.ending.take()
                    {
                        ledger.end_written(stream);
                    }
                }
                Step::Broken(_) => {
                    self.phase = Phase::Foreign;
                    ledger.end();
                    return;
                }
            }
        }
    }
}
