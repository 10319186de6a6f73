//! Acknowledgements below gRPC: whether the peer has read what was sent on a stream.
//!
//! The `generic` protocol has no acknowledgement. A [`Link`] wraps an accepted connection below hyper and adds one: it
//! sends an HTTP/2 PING behind the DATA frames of an event. The peer's HTTP/2 stack reads frames in the order in which
//! they were sent, so its acknowledgement of the PING shows that it has read the event.
//!
//! ```text
//!   handler ──▶ tonic ──▶ hyper ──▶ ┌───────── Link ─────────┐ ──▶ socket (or TLS)
//!      │                            │ outbound: counts DATA, │
//!      │ expect(total)              │   inserts PINGs        │
//!      ▼                            │                        │
//!   StreamAcks ◀── AckTracker ◀──── │ inbound: removes their │
//!                                   │   acknowledgements     │ ◀── socket
//!                                   └────────────────────────┘
//! ```
//!
//! The rule, the reasons for it and its limits are specified in `docs/http2-acknowledgements.md`. Change that page
//! together with this module.
//!
//! # Usage
//!
//! Wrap each accepted connection with `Link::new(stream).with_peer_addr(addr)` and serve the links with
//! `serve_with_incoming`. tonic sets no socket options on such connections, so the caller sets TCP_NODELAY and
//! keepalive. gRPC compression must be off, because the encoded length of a message is then not its length on the wire.
//!
//! ```no_run
//! # use model_update_eventsource::eventsource::link::LinkInfo;
//! # async fn handler(request: tonic::Request<()>, encoded_len: u64) -> Option<()> {
//! let acks = request.extensions().get::<LinkInfo>()?.stream_acks(request.metadata().as_ref())?;
//! let mut acked = acks.acked();
//!
//! // gRPC adds a prefix of 5 bytes to each message. Call `expect` before the message is given to the stream.
//! let total = 5 + encoded_len;
//! acks.expect(total);
//! match acked.wait_for(|bytes| *bytes >= total).await {
//!     Ok(_) => { /* the peer's HTTP/2 stack has read the message */ }
//!     Err(_) => { /* the stream or its connection ended first: the message may or may not have been read */ }
//! }
//! # Some(())
//! # }
//! ```
//!
//! # Files
//!
//! | file | holds |
//! |---|---|
//! | `frame` | HTTP/2 framing |
//! | `tracker` | the rule: what was written, what is expected, which PING is in flight |
//! | `inbound`, `outbound` | the two directions of a connection |
//! | `stream_id` | the header that contains a request's stream id |
//! | `acks` | handles for the rest of the program |
//! | `io` | reads and writes |
//!
//! All but the last two are synchronous and without I/O.

mod acks;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod inbound;
mod io;
mod outbound;
mod stream_id;
mod tracker;

pub use acks::{LinkInfo, StreamAcks};
pub use io::Link;
pub use stream_id::STREAM_ID_HEADER;
pub use tracker::Usage;

#[cfg(test)]
mod tests;
