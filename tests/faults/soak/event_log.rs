//! The oracle shared by many tasks, with the clock of the soak.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::oracle::Oracle;

/// The recorded history of a soak, with its clock. All times are since the start.
#[derive(Debug)]
pub(crate) struct EventLog {
    start: Instant,
    oracle: Mutex<Oracle>,
    changed: watch::Sender<()>,
}

impl EventLog {
    /// An empty log; its clock starts now.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), oracle: Mutex::default(), changed: watch::Sender::new(()) }
    }

    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) async fn sleep_until(&self, time: Duration) {
        sleep_until(self.start + time).await;
    }

    /// Records something that happens now.
    pub(crate) fn record<T>(&self, record: impl FnOnce(&mut Oracle, Duration) -> T) -> T {
        let now = self.now();
        let result = record(&mut self.oracle(), now);
        self.changed.send_replace(());
        result
    }

    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().expect("nothing panics while it is held")
    }

    /// Waits until a condition holds.
    pub(crate) async fn wait(&self, mut condition: impl FnMut(&Oracle) -> bool) {
        let mut changes = self.changed.subscribe();
        while !condition(&self.oracle()) {
            changes.changed().await.expect("the sender is in self");
        }
    }

    /// As [`EventLog::wait`]; returns whether the condition holds before the deadline.
    pub(crate) async fn wait_within(&self, deadline: Duration, condition: impl FnMut(&Oracle) -> bool) -> bool {
        timeout(deadline, self.wait(condition)).await.is_ok()
    }
}
