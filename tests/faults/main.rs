//! The guarantees G1 to G8 under faults, on the real neighbours: each fault is made to happen, and what it cost is
//! printed as a line of events expected, delivered, duplicated and lost. docs/guarantees.md says which test shows what.
//!
//! A fault that needs the cluster for itself takes one of its own; [`alone`] keeps those from slowing each other down.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

mod api_proxy;
mod api_server;
mod crashes;
mod marks;
mod metadata_store;
mod replicas;
mod scale;
mod scene;
mod soak;
mod subscribers;

/// Held by a test that starts neighbours of its own or measures a time: two cores do not bear many at once.
async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}
