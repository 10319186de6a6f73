//! The channel from the delivery task to one stream: the events to send, and why the stream ends.
//!
//! Most streams are idle nearly all the time, and there are thousands of them. An idle channel needs about a hundred bytes,
//! a tenth of a bounded channel of Tokio with a second one for the reason. The ledger bounds the events in it
//! ([`MAX_UNACKNOWLEDGED`] of a stream, and their bytes).

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::handle::{CloseReason, Handoff, MAX_UNACKNOWLEDGED};

/// Creates a channel.
pub(super) fn mailbox() -> (EventSender, EventReceiver) {
    let shared = Arc::<Shared>::default();
    (EventSender(shared.clone()), EventReceiver(shared))
}

#[derive(Default)]
struct Shared(Mutex<State>);

/// The function that is called at the end of a stream, see [`EventReceiver::on_close`].
type OnClose = Box<dyn FnOnce(CloseReason) + Send>;

#[derive(Default)]
struct State {
    events: VecDeque<Handoff>,
    /// The task that waits for the next event.
    reader: Option<Waker>,
    reason: Option<CloseReason>,
    on_close: Option<OnClose>,
    sender_dropped: bool,
    receiver_dropped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The delivery task's end. Dropping it ends the stream after the events that were sent.
pub(super) struct EventSender(Arc<Shared>);

impl EventSender {
    /// Sends an event. Without effect if the stream has ended: its end is on the way to the delivery task.
    pub(super) fn send(&self, handoff: Handoff) {
        let mut state = self.0.lock();
        if state.receiver_dropped {
            return;
        }
        debug_assert!(state.events.len() < MAX_UNACKNOWLEDGED, "the ledger bounds the events of a stream");
        state.events.push_back(handoff);
        wake(state);
    }

    /// Ends the stream for this reason.
    pub(super) fn close(self, reason: CloseReason) {
        let mut state = self.0.lock();
        state.reason = Some(reason);
        let on_close = state.on_close.take();
        drop(state);
        if let Some(on_close) = on_close {
            on_close(reason);
        }
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.sender_dropped = true;
        wake(state);
    }
}

/// Wakes the reader, without the lock that it takes.
fn wake(mut state: MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

/// A stream's end.
pub struct EventReceiver(Arc<Shared>);

impl EventReceiver {
    /// Receives the next event. `None`: the server ends the stream.
    pub async fn recv(&mut self) -> Option<Handoff> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As [`recv`](Self::recv), for one task.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Handoff>> {
        let mut state = self.0.lock();
        if let Some(handoff) = state.events.pop_front() {
            if state.events.is_empty() {
                state.events = VecDeque::new();
            }
            return Poll::Ready(Some(handoff));
        }
        if state.sender_dropped {
            return Poll::Ready(None);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The reason for which the server ends the stream. `None` while it does not, and if the delivery task has ended.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.0.lock().reason
    }

    /// Sets the function that is called when the server ends the stream, and not if the stream ends before that. A stream
    /// whose subscriber does not read is not polled, so it does not notice its end. The function must not block.
    pub fn on_close(&mut self, on_close: impl FnOnce(CloseReason) + Send + 'static) {
        let mut state = self.0.lock();
        match state.reason {
            None => state.on_close = Some(Box::new(on_close)),
            Some(reason) => {
                drop(state);
                on_close(reason);
            }
        }
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receiver_dropped = true;
        // Dropped without the lock: what they hold is not known here.
        let dropped = (std::mem::take(&mut state.events), state.on_close.take(), state.reader.take());
        drop(state);
        drop(dropped);
    }
}

impl fmt::Debug for EventReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventReceiver").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures::FutureExt;

    use super::*;

    fn handoff(sequence: u64) -> Handoff {
        Handoff { sequence, payload: Bytes::from_static(b"{}") }
    }

    fn sequence(received: Option<Handoff>) -> u64 {
        received.expect("an event").sequence
    }

    #[tokio::test]
    async fn events_arrive_in_order_and_before_the_end() {
        let (sender, mut receiver) = mailbox();
        assert!(receiver.recv().now_or_never().is_none());
        (1..4).for_each(|number| sender.send(handoff(number)));
        assert_eq!(sequence(receiver.recv().await), 1);
        assert_eq!(receiver.close_reason(), None);
        sender.close(CloseReason::TooManyRuns);
        assert_eq!([sequence(receiver.recv().await), sequence(receiver.recv().await)], [2, 3]);
        assert!(receiver.recv().await.is_none());
        assert_eq!(receiver.close_reason(), Some(CloseReason::TooManyRuns));
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let (sender, mut receiver) = mailbox();
        let reader = tokio::spawn(async move { (receiver.recv().await, receiver.recv().await) });
        tokio::task::yield_now().await;
        sender.send(handoff(1));
        tokio::task::yield_now().await;
        drop(sender);
        let (first, end) = reader.await.expect("no panic");
        assert!(sequence(first) == 1 && end.is_none());
    }

    #[tokio::test]
    async fn an_ended_stream_holds_nothing() {
        let (sender, mut receiver) = mailbox();
        let payload = Bytes::from(vec![0; 8]);
        sender.send(Handoff { sequence: 1, payload: payload.clone() });
        let held = Arc::new(());
        let hook = held.clone();
        receiver.on_close(move |_| drop(hook));
        drop(receiver);
        sender.send(Handoff { sequence: 2, payload: payload.clone() });
        assert!(payload.is_unique() && Arc::strong_count(&held) == 1);
        sender.close(CloseReason::ShuttingDown);
    }

    #[test]
    fn an_end_is_reported_while_nothing_reads() {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = |calls: &Arc<AtomicUsize>| {
            let calls = calls.clone();
            move |reason| {
                assert_eq!(reason, CloseReason::NotReading);
                calls.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (sender, mut receiver) = mailbox();
        sender.send(handoff(1));
        receiver.on_close(count(&calls));
        sender.close(CloseReason::NotReading);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        receiver.on_close(count(&calls));
        assert_eq!(calls.load(Ordering::Relaxed), 2, "it had ended before");
    }

    #[test]
    fn an_idle_channel_is_small_also_after_events() {
        assert!(size_of::<State>() <= 96, "{}", size_of::<State>());
        let (sender, mut receiver) = mailbox();
        (1..=100).for_each(|number| sender.send(handoff(number)));
        while let Some(Some(_)) = receiver.recv().now_or_never() {}
        assert_eq!(receiver.0.lock().events.capacity(), 0);
    }
}
