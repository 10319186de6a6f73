//! The connection under a stream: proof that the peer has read what we sent.
//!
//! # Why
//!
//! The `generic` protocol has no acknowledgement, and nothing that a server ordinarily sees is proof of delivery. "The
//! stream was polled again" only says that hyper has buffered the last message; an empty socket queue only says that the
//! peer's *kernel* has the octets, which it also takes for a process that is frozen. HTTP/2 does have a proof, one layer
//! below gRPC: a **PING** must be acknowledged by the peer's HTTP/2 stack, and a stack reads frames in the order in which
//! they were sent. If a PING that was written *after* an event's last octet is acknowledged, the event has been read.
//!
//! hyper can send PINGs, but only for its own purposes, and puts them off while anything is read. So a [`Link`] stands
//! between hyper and the socket and sends its own:
//!
//! ```text
//!   handler ──▶ tonic ──▶ hyper ──▶ ┌──────── Link ────────┐ ──▶ socket (or TLS)
//!      │                            │ outbound: counts DATA│
//!      │ expect(total)              │   ◀ a PING between   │
//!      ▼                            │     two frames       │
//!   StreamAccount ◀── ledger ◀───── │ inbound: takes its   │
//!      acknowledged()               │   acknowledgement out│ ◀── socket
//!                                   └──────────────────────┘
//! ```
//!
//! # The rule
//!
//! Event m of stream s ends at DATA octet T of s. It is confirmed if and only if
//!
//! 1. the count of s was ≥ T when PING q was begun,
//! 2. q was then written whole, at a place where HTTP/2 allows a frame,
//! 3. an acknowledgement with exactly q's payload came, on stream 0,
//! 4. before that, neither side had reset s and the connection had not ended.
//!
//! The count is one **of the stream**: over the whole connection, other streams' octets would stand in for those that
//! flow control still holds back. A PING is sent only while some stream has octets that are written, wanted
//! ([`StreamAccount::expect`]) and unproven; there is at most one outstanding on a connection, and at least 10 ms lie
//! between the beginnings of two, so that one PING confirms everything that was written meanwhile. Its payload is random:
//! a peer cannot acknowledge what it has not read.
//!
//! # Which stream is mine
//!
//! A handler does not learn its stream's id from hyper. The link writes it into the request: it appends one header
//! ([`STREAM_ID_HEADER`]) to each header block that opens a stream. In HPACK that is a literal that is never indexed, so
//! the compression state of the connection stays as the peer knows it. The value carries a random number of the
//! connection, so that nothing a client sends under that name is mistaken for it. Where the block cannot be extended
//! (padding, a frame at its size limit) the stream has no account, and its events are not confirmed by guess.
//!
//! # How to use it
//!
//! Wrap each accepted connection: `Link::new(stream).with_peer_addr(addr)`, and serve the links with
//! `serve_with_incoming`. tonic sets no socket options on such connections: TCP_NODELAY and keepalive are the
//! acceptor's business. gRPC compression must be off, or the octets of a message are not what its length says. Then, in
//! the handler:
//!
//! ```no_run
//! # use model_update_eventsource::eventsource::link::LinkInfo;
//! # async fn handler(request: tonic::Request<()>, encoded_len: u64) -> Option<()> {
//! let account = request.extensions().get::<LinkInfo>()?.account(request.metadata().as_ref())?;
//! let mut acknowledged = account.acknowledged();
//!
//! // One message: five octets of gRPC's own before it. Expect first, then hand it to the stream.
//! let total = 5 + encoded_len;
//! account.expect(total);
//! match acknowledged.wait_for(|octets| *octets >= total).await {
//!     Ok(_) => { /* read by the peer's HTTP/2 stack */ }
//!     Err(_) => { /* the stream or its connection ended first: it may or may not have been read */ }
//! }
//! # Some(())
//! # }
//! ```
//!
//! # What it never does
//!
//! - It never changes what the peer receives, but for whole PING frames between two frames: not within a frame, not
//!   between HEADERS and their CONTINUATION, not before our SETTINGS, not after the shutdown of our side.
//! - It never changes what hyper receives, but for the header above and its own acknowledgements.
//! - It never judges: a peer that speaks no HTTP/2, or breaks its framing, is passed through to hyper octet for
//!   octet, and from there on no account is opened and nothing confirmed.
//! - It never waits on anybody's behalf. It holds back only what it cannot yet tell apart (less than 17 octets), and
//!   hyper's writes only while a PING is half written, when the socket takes nothing anyway.
//! - It never claims more than "read by the HTTP/2 stack at the other end of this connection". What a proxy, or the
//!   program above that stack, then does with it cannot be seen from here.
//!
//! # Where things are
//!
//! `frame` knows the wire, `ledger` the rule; `inbound` and `outbound` follow the two directions; `stream_id` is the
//! header; `account` has the handles; `io` moves the octets. All but the last two are synchronous and do no I/O.

mod account;
mod frame;
mod inbound;
mod io;
mod ledger;
mod outbound;
mod stream_id;

pub use account::{LinkInfo, StreamAccount};
pub use io::Link;
pub use stream_id::STREAM_ID_HEADER;

#[cfg(test)]
mod tests;
