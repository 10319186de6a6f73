//! The gRPC server for subscribers: `generic.Eventing/StartEventSource`, as Argo Events' generic EventSource calls it.
//!
//! | module | holds |
//! |---|---|
//! | `server` | the server: connections, the service, gRPC health and reflection |
//! | `admission` | limits of connections and streams |
//! | `request` | limits of a request |
//! | `service` | the method |
//! | [`config`] | `EventSource.config` |
//! | `status`, `refusals` | the statuses of refusals, and their record |
//! | `stream` | the stream of one subscriber: events to it, acknowledgements from it |
//! | [`link`] | acknowledgements by HTTP/2 PINGs, below gRPC |
//! | `permission` | the permission of a stream |
//! | `socket` | time limits of a connection |
//! | `incoming` | accepts connections |
//! | `tls` | TLS, with certificates that are read again |
//! | `codec` | the codec of the messages |
//! | `options` | options, and the values of limits |
//! | `metrics` | metrics |
//! | `client` | a subscriber, for the demo and for tests |

mod admission;
mod client;
mod codec;
pub mod config;
mod incoming;
pub mod link;
mod metrics;
mod options;
mod permission;
mod proxies;
mod refusals;
mod request;
mod server;
mod service;
mod socket;
mod status;
mod stream;
mod tls;

pub use client::{Credentials, ReceivedEvent, SubscribeError, Subscriber};
pub use metrics::StreamMetrics;
pub use options::{Limits, Options};
pub use server::Server;
pub use tls::{Tls, TlsError, TlsFiles, TlsMetrics};

/// Code generated from `proto/generic.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod proto {
    pub(crate) use super::codec::SmallBuffers as Codec;
    tonic::include_proto!("generic");
}

#[cfg(test)]
mod tests;
