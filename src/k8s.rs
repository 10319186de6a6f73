//! The Kubernetes adapter: the watch that fills the store, and the patches that write marks.
//!
//! - `client`: the connection to the API server, with its deadlines
//! - `object`: the decoder of a Workflow's metadata
//! - `watch`: the reflector's loop
//! - `marker`: patches of marks on Workflows
//! - `metrics`: metrics of all of these

mod client;
#[cfg(test)]
mod fixtures;
mod marker;
mod metrics;
mod object;
mod reviews;
mod watch;

pub use client::{Client, ConnectError};
pub use marker::PatchMarker;
pub use metrics::KubernetesMetrics;
pub use reviews::ApiReviewer;
pub use watch::Watch;
