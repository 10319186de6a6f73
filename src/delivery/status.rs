//! The status of the delivery task, for the admin port.
//!
//! A snapshot costs the task a part of a turn: a few hundred nanoseconds for each stream. So one is taken only where it is
//! requested, and at most once a second; all requests of that second share it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use super::{
    ledger::FilterCounts,
    recent::{RecentDelivery, RecentProblem},
};
use crate::model::Subscription;

/// The shortest interval between two snapshots, and the age up to which one is current.
const INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait for a snapshot: turns of the delivery task take milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// A snapshot of the delivery task.
#[derive(Clone, Debug, Default)]
pub struct DeliveryStatus {
    /// The attached streams, in the order of their attachment.
    pub streams: Vec<StreamStatus>,
    /// The latest deliveries, newest first.
    pub deliveries: Vec<Arc<RecentDelivery>>,
    /// The latest problems, newest first.
    pub problems: Vec<Arc<RecentProblem>>,
}

/// An attached stream.
#[derive(Clone, Debug)]
pub struct StreamStatus {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// The subscriber's address.
    pub peer: Option<SocketAddr>,
    /// The pending runs.
    pub pending_runs: usize,
    /// The time for which the oldest of them has been pending.
    pub oldest_pending: Option<Duration>,
    /// Runs that the source of models does not know; not among the pending ones.
    pub runs_without_context: usize,
    /// The runs that the filters have excluded since the stream attached.
    pub filtered: FilterCounts,
}

/// A snapshot and its time.
type Published = Option<(Instant, Arc<DeliveryStatus>)>;

/// Reads the status of the delivery task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StatusReader {
    wanted: Arc<Notify>,
    published: watch::Receiver<Published>,
}

impl StatusReader {
    /// Returns a snapshot that is about a second old at most. After the end of the delivery task it is the last one.
    /// Returns `None` if the task does not answer in time.
    pub async fn current(&self) -> Option<Arc<DeliveryStatus>> {
        let mut published = self.published.clone();
        let asked = Instant::now();
        let is_current = |published: &Published| published.as_ref().is_some_and(|(at, _)| *at + INTERVAL > asked);
        if !is_current(&published.borrow()) {
            self.wanted.notify_one();
            // An error means that the task has ended.
            timeout(PATIENCE, published.wait_for(is_current)).await.ok()?.ok();
        }
        let (_, status) = published.borrow().clone()?;
        Some(status)
    }
}

/// The side of the delivery task.
#[derive(Debug)]
pub(super) struct StatusPublisher {
    wanted: Arc<Notify>,
    is_wanted: bool,
    next: Instant,
    published: watch::Sender<Published>,
}

impl Default for StatusPublisher {
    fn default() -> Self {
        Self { wanted: Arc::default(), is_wanted: false, next: Instant::now(), published: watch::Sender::new(None) }
    }
}

impl StatusPublisher {
    pub(super) fn reader(&self) -> StatusReader {
        StatusReader { wanted: self.wanted.clone(), published: self.published.subscribe() }
    }

    /// Waits for a request.
    pub(super) async fn requested(&mut self) {
        self.wanted.notified().await;
        self.is_wanted = true;
    }

    /// Returns the time of the next snapshot, if one is requested.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.is_wanted.then_some(self.next)
    }

    #[cfg(test)]
    pub(super) fn publish_now(&mut self, status: DeliveryStatus) {
        self.published.send_replace(Some((Instant::now(), Arc::new(status))));
    }

    /// Publishes a snapshot if it is time for one.
    pub(super) fn publish(&mut self, now: Instant, take: impl FnOnce() -> DeliveryStatus) {
        if self.is_wanted && now >= self.next {
            self.is_wanted = false;
            self.next = now + INTERVAL;
            self.published.send_replace(Some((now, Arc::new(take()))));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// A task that publishes for as long as it is polled, and counts its snapshots.
    async fn publish(publisher: &mut StatusPublisher, taken: &std::cell::Cell<usize>) {
        loop {
            match publisher.deadline() {
                Some(at) => tokio::time::sleep_until(at).await,
                None => publisher.requested().await,
            }
            publisher.publish(Instant::now(), || {
                taken.set(taken.get() + 1);
                DeliveryStatus::default()
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_requests_of_a_second_share_a_snapshot() {
        let mut publisher = StatusPublisher::default();
        let (reader, taken) = (publisher.reader(), std::cell::Cell::new(0));
        let requests = async {
            let first = reader.current().await.unwrap();
            for _ in 0..100 {
                assert!(Arc::ptr_eq(&reader.current().await.unwrap(), &first));
            }
            sleep(INTERVAL).await;
            let both = tokio::join!(reader.current(), reader.current());
            assert!(Arc::ptr_eq(&both.0.unwrap(), &both.1.unwrap()));
            sleep(INTERVAL / 2).await;
            reader.current().await.unwrap();
        };
        tokio::select! {
            () = publish(&mut publisher, &taken) => {}
            () = requests => {}
        }
        assert_eq!(taken.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_answer_is_not_waited_for() {
        let publisher = StatusPublisher::default();
        let reader = publisher.reader();
        let start = Instant::now();
        assert!(reader.current().await.is_none());
        assert_eq!(start.elapsed(), PATIENCE);
        drop(publisher);
        assert!(reader.current().await.is_none(), "there was never one");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_snapshot_outlives_the_task() {
        let mut publisher = StatusPublisher::default();
        let (reader, taken) = (publisher.reader(), std::cell::Cell::new(0));
        tokio::select! {
            () = publish(&mut publisher, &taken) => {}
            status = reader.current() => assert!(status.is_some()),
        }
        drop(publisher);
        sleep(10 * INTERVAL).await;
        assert!(reader.current().await.is_some());
    }
}
