//! What the peer sends, on its way to hyper. Two things are changed, nothing else: an acknowledgement of a PING of ours
//! is taken out (hyper never sent that PING, and would log a warning for each), and the header block that opens a
//! stream gets one more header, which tells the handler its stream's id.

use super::frame::{Frames, HEAD, Head, MAX_PAYLOAD, Step, flag, kind};
use super::ledger::{Ledger, PingPayload};
use super::stream_id;

/// What every HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The priority that HEADERS may begin with.
const PRIORITY: u32 = 5;

/// The direction from the peer to hyper.
#[derive(Debug)]
pub(super) struct Inbound {
    phase: Phase,
    frames: Frames,
    /// What is done with the frame that is being read.
    role: Role,
    /// The stream whose opening header block is being read.
    opening: Option<u32>,
    /// The newest stream that the peer has opened.
    newest: u32,
    /// Tells our header from one of that name that the peer sends: it never learns this number.
    token: u64,
}

#[derive(Debug)]
enum Phase {
    /// So many octets of the preface have come.
    Preface(usize),
    Framed,
    /// Not HTTP/2, or not any more: passed through, never looked at again.
    Foreign,
}

#[derive(Debug)]
enum Role {
    /// Goes on as it is.
    Pass,
    /// The last frame of the header block that opens this stream: our header is put at its end.
    Opens(u32),
    /// May be the acknowledgement of our PING: kept until its payload (so many octets of it are there) has told.
    Pong(PingPayload, usize),
}

impl Inbound {
    pub(super) fn new(token: u64) -> Self {
        Self { phase: Phase::Preface(0), frames: Frames::default(), role: Role::Pass, opening: None, newest: 0, token }
    }

    /// Follows `bytes`, which the peer sent, and gives `pass` what hyper shall read of them.
    pub(super) fn advance(&mut self, mut bytes: &[u8], ledger: &mut Ledger, mut pass: impl FnMut(&[u8])) {
        if let Phase::Preface(have) = self.phase {
            let (preface, rest) = bytes.split_at(bytes.len().min(PREFACE.len() - have));
            let have = have + preface.len();
            pass(preface);
            bytes = rest;
            if !PREFACE[..have].ends_with(preface) {
                self.give_up(ledger);
            } else if have == PREFACE.len() {
                self.phase = Phase::Framed;
            } else {
                self.phase = Phase::Preface(have);
            }
        }
        if let Phase::Framed = self.phase {
            self.follow(&mut bytes, ledger, &mut pass);
        }
        if !bytes.is_empty() {
            pass(bytes);
        }
    }

    /// The peer sends nothing more: gives `pass` what was kept back in the middle of a frame.
    pub(super) fn finish(&mut self, mut pass: impl FnMut(&[u8])) {
        if let Phase::Framed = self.phase {
            pass(self.frames.partial_head());
            if let Role::Pong(payload, have) = &self.role {
                pass(pong_head().octets());
                pass(&payload[..*have]);
            }
        }
        self.phase = Phase::Foreign;
    }

    fn follow(&mut self, bytes: &mut &[u8], ledger: &mut Ledger, pass: &mut impl FnMut(&[u8])) {
        while let Some(step) = self.frames.step(bytes) {
            match step {
                Step::Head(head) => {
                    self.role = self.role_of(&head, ledger);
                    match self.role {
                        Role::Pass => pass(head.octets()),
                        Role::Opens(_) => pass(head.lengthened(stream_id::LITERAL).octets()),
                        Role::Pong(..) => {}
                    }
                }
                Step::Payload(payload) => match &mut self.role {
                    Role::Pass | Role::Opens(_) => pass(payload),
                    Role::Pong(pong, have) => {
                        pong[*have..*have + payload.len()].copy_from_slice(payload);
                        *have += payload.len();
                    }
                },
                Step::End(head) => match std::mem::replace(&mut self.role, Role::Pass) {
                    Role::Pass if head.kind() == kind::RST_STREAM => ledger.reset(head.stream()),
                    Role::Pass => {}
                    Role::Opens(stream) => {
                        pass(&stream_id::literal(stream, self.token));
                        ledger.open(stream);
                    }
                    Role::Pong(pong, _) => {
                        if !ledger.acknowledged(pong) {
                            pass(head.octets());
                            pass(&pong);
                        }
                    }
                },
                Step::Broken(head) => {
                    self.give_up(ledger);
                    pass(head.octets());
                    return;
                }
            }
        }
    }

    fn role_of(&mut self, head: &Head, ledger: &Ledger) -> Role {
        match head.kind() {
            kind::PING if *head == pong_head() => Role::Pong([0; 8], 0),
            kind::HEADERS => {
                // Odd and above all before: anything else opens no stream, but may be the trailers of one.
                let stream = head.stream();
                let opens = stream % 2 == 1 && stream > self.newest;
                self.opening = opens.then_some(stream);
                self.newest = self.newest.max(stream);
                // Behind padding our header would not be part of the block, and a frame too short for its own
                // priority would become long enough.
                let plain = !head.has(flag::PADDED) && (!head.has(flag::PRIORITY) || head.len() >= PRIORITY);
                self.block_role(head, plain, ledger)
            }
            kind::CONTINUATION => self.block_role(head, true, ledger),
            _ => Role::Pass,
        }
    }

    /// The role of a frame of a header block. Where our header cannot be put at its end (which happens with no known
    /// client) the stream goes without an account.
    fn block_role(&mut self, head: &Head, extensible: bool, ledger: &Ledger) -> Role {
        if !head.has(flag::END_HEADERS) {
            return Role::Pass;
        }
        match self.opening.take() {
            Some(stream) if extensible && head.len() + stream_id::LITERAL <= MAX_PAYLOAD && ledger.has_room() => {
                Role::Opens(stream)
            }
            _ => Role::Pass,
        }
    }

    fn give_up(&mut self, ledger: &mut Ledger) {
        self.phase = Phase::Foreign;
        ledger.end();
    }
}

/// The only head that an acknowledgement of a PING can have: eight octets, no other flag, on the connection itself.
fn pong_head() -> Head {
    Head::new(8, kind::PING, flag::ACK, 0)
}

const _: () = assert!(HEAD + 8 == 17, "a PING is seventeen octets on the wire");
