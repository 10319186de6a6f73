//! The delivery guarantees under faults, with real peers. Each test injects a fault and prints how many events were
//! expected, delivered, duplicated and lost. docs/guarantees-tests.md lists the tests of each guarantee.
//!
//! A fault of the API server needs a cluster of its own. Tests that measure times or memory hold [`exclusive`].

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

mod api_server;
mod crashes;
mod in_process;
mod marks;
mod metadata_store;
mod replicas;
mod scale;
mod soak;
mod subscribers;
mod test_env;

use tokio::sync::{Mutex, MutexGuard};

/// Lock of the tests that load the machine or measure times and memory: two cores are too few for several at once.
async fn exclusive() -> MutexGuard<'static, ()> {
    static EXCLUSIVE: Mutex<()> = Mutex::const_new(());
    EXCLUSIVE.lock().await
}
