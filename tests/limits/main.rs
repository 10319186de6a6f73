//! Guarantee G4 under attack: what a tenant, or a client of the ports, does without limit. Each test lets a hostile tenant
//! act against the real program. Meanwhile it observes another tenant ([`Observation`]): its events arrive exactly once
//! and within a second, `/livez` answers, and the resident memory stays below the chart's limit.
//!
//! Each test holds [`exclusive`]: it measures times and memory, and two cores are too few for several at once.
//!
//! [`Observation`]: harness::Observation

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

mod admin;
mod deleted;
mod harness;
mod marks;
mod models;
mod not_reading;
mod patterns;
mod requests;
mod soak;
mod streams;
mod webhook;
mod workflows;

use tokio::sync::{Mutex, MutexGuard};

/// Lock of the tests that measure times and memory.
async fn exclusive() -> MutexGuard<'static, ()> {
    static EXCLUSIVE: Mutex<()> = Mutex::const_new(());
    EXCLUSIVE.lock().await
}
