//! The parts that the adapters for the sources of models have in common: calls over gRPC whose answers tenants decide.
//!
//! - [`client`]: a call, its span and its metric; `streamed` one whose answer is read piece by piece; [`error`] their
//!   failures; [`endpoint`] the connection
//! - [`meter`] and [`budget`]: the memory that answers may take; [`require_grpc`] refuses what is not gRPC
//! - [`allowance`]: what one lookup reads and keeps
//! - [`pages`]: listings in pages; [`wire`] reads messages in place
//! - [`property`], [`names`]: rules that every source has
//! - [`cache`]: the answers by run
//! - [`metrics`]: lookups, calls and cache hits
//! - [`seen`]: the artifacts that an explained lookup has seen
//! - [`sources`]: which source's answer counts, where both are asked

pub(crate) mod allowance;
pub(crate) mod budget;
pub(crate) mod cache;
pub(crate) mod client;
pub(crate) mod endpoint;
pub(crate) mod error;
pub(crate) mod meter;
pub(crate) mod metrics;
pub(crate) mod names;
pub(crate) mod pages;
pub(crate) mod property;
pub(crate) mod require_grpc;
pub(crate) mod seen;
pub mod sources;
mod streamed;
pub(crate) mod wire;

pub use endpoint::{Error, Peer};
pub use meter::Memory;
pub use sources::Artifacts;
