//! The gRPC server for subscribers: `generic.Eventing/StartEventSource`, as Argo Events' generic EventSource calls it.
//!
//! | module | holds |
//! |---|---|
//! | `server` | the server: connections, the service, gRPC health and reflection |
//! | `service` | the method, its refusals and their log |
//! | [`config`] | `EventSource.config` |
//! | `stream` | the stream of one subscriber: events to it, acknowledgements from it |
//! | [`link`] | acknowledgements by HTTP/2 PINGs, below gRPC |
//! | `socket` | time limits of a connection |
//! | `tls` | TLS, with certificates that are read again
//! | `codec` | the codec of the messages |
//! | `metrics` | metrics |
//! | `client` | a subscriber, for the demo and for tests |

mod client;
mod codec;
pub mod config;
pub mod link;
mod metrics;
mod server;
mod service;
mod socket;
mod stream;
mod tls;

pub use client::{ReceivedEvent, SubscribeError, Subscriber};
pub use metrics::StreamMetrics;
pub use server::{Options, Server};
pub use tls::{TlsError, TlsFiles, TlsMetrics};

/// Code generated from `proto/generic.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod proto {
    pub(crate) use super::codec::SmallBuffers as Codec;
    tonic::include_proto!("generic");
}
