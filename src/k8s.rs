//! The side of Kubernetes: the watch that fills the store, and the patches that write marks.
//!
//! - `client`: the connection to the API server, its deadlines, and what is counted of its requests
//! - `object`: what is decoded of a Workflow: a record's worth, and nothing else
//! - `watch`: the reflector's loop
//! - `marker`: marks on Workflows

mod client;
#[cfg(test)]
mod fixtures;
mod marker;
mod object;
mod watch;

pub use client::{Client, ConnectError};
pub use marker::PatchMarker;
pub use watch::Watch;
