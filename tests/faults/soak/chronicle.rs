//! The books in the hands of many tasks, and a clock that all of them share.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::books::Books;

#[derive(Debug)]
pub(crate) struct Chronicle {
    origin: Instant,
    books: Mutex<Books>,
    changed: watch::Sender<()>,
}

impl Chronicle {
    /// Time begins.
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), books: Mutex::default(), changed: watch::Sender::new(()) }
    }

    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Returns at this time.
    pub(crate) async fn at(&self, time: Duration) {
        tokio::time::sleep_until(self.origin + time).await;
    }

    /// Returns when this much time is over: what a fault lasts.
    pub(crate) async fn after(&self, time: Duration) {
        self.at(self.now() + time).await;
    }

    /// Writes something down, as of now.
    pub(crate) fn note<T>(&self, what: impl FnOnce(&mut Books, Duration) -> T) -> T {
        let now = self.now();
        self.note_at(now, what)
    }

    /// Writes something down that happened earlier.
    pub(crate) fn note_at<T>(&self, at: Duration, what: impl FnOnce(&mut Books, Duration) -> T) -> T {
        let result = what(&mut self.books(), at);
        self.changed.send_replace(());
        result
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("nothing panics while it is held")
    }

    /// Returns when the books say so.
    pub(crate) async fn becomes(&self, mut is_so: impl FnMut(&Books) -> bool) {
        let mut changes = self.changed.subscribe();
        while !is_so(&self.books()) {
            changes.changed().await.expect("the sender is in self");
        }
    }

    /// As [`Chronicle::becomes`]; whether it did within this time.
    pub(crate) async fn until(&self, deadline: Duration, is_so: impl FnMut(&Books) -> bool) -> bool {
        tokio::time::timeout(deadline, self.becomes(is_so)).await.is_ok()
    }
}
