//! The subscriber's side: `generic.Eventing/StartEventSource`, as Argo Events' generic EventSource dials it.
//!
//! - `server` accepts connections, and offers health and reflection beside the service
//! - `service` answers requests; `config` reads what they ask for; `refusals` decides which refusals are logged
//! - `stream` is one subscriber's stream: events out, proofs of receipt back
//! - [`link`] is the connection under it, from which the proofs come; `socket` is what it stands on
//! - `codec` puts messages on the wire
//! - `client` is the other end, for the demo

mod client;
mod codec;
pub mod config;
pub mod link;
mod refusals;
mod server;
mod service;
mod socket;
mod stream;

pub use client::{ReceivedEvent, SubscribeError, Subscriber};
pub use server::{Options, Server};

/// What is generated from `proto/generic.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod proto {
    pub(crate) use super::codec::SmallBuffers as Codec;
    tonic::include_proto!("generic");
}
