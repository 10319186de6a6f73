//! The delivery task: performs the actions of the ledger and feeds back their results. It is the only reader of the
//! store's journal, and waits for nothing but its next input.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::OptionFuture;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    ArtifactLookup, CloseReason, Deliveries, DeliveryMetrics, Handoff, LookupError, MarkError, MarkPatch, Marker,
    Options, StreamId,
    handle::StreamMessage,
    ledger::{Action, Ledger, LookupId, Now},
    observer::Observer,
    payload,
    spans::Step,
};
use crate::{
    failpoint::FailPoint,
    model::{RunModels, Workflow},
    store::{Change, Store},
    telemetry::{Traces, trace::SpanRef},
};

/// Messages of streams that are handled at once.
const MAX_BATCH: usize = 1024;
/// The shortest interval between updates of the gauges, which follow inputs only.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// The wall clock, in whole seconds since the Unix epoch: the ages of runs follow it, pauses never do. The default is
/// the system's; tests use one that jumps.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl WallClock {
    /// Returns a clock that reads `now`.
    pub fn new(now: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new(|| jiff::Timestamp::now().as_second())
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

/// The delivery task. See [`Driver::run`].
pub struct Driver {
    ledger: Ledger,
    store: Arc<Store>,
    lookup: Arc<dyn ArtifactLookup>,
    marker: Arc<dyn Marker>,
    wall_clock: WallClock,
    traces: Traces,
    observer: Observer,
    from_streams: mpsc::UnboundedReceiver<StreamMessage>,
    to_streams: HashMap<StreamId, ToStream>,
    tasks: JoinSet<TaskResult>,
    drain_confirmations: Duration,
    drain_marks: Duration,
}

/// The sending side of a stream.
struct ToStream {
    events: mpsc::Sender<Handoff>,
    /// The stream's own span.
    span: Option<SpanRef>,
    closed: Arc<OnceLock<CloseReason>>,
}

impl ToStream {
    /// Ends the stream.
    fn close(self, reason: CloseReason) {
        // Set before the end of `events`, upon which the stream reads it.
        self.closed.set(reason).ok();
    }
}

/// The result of a lookup or patch.
enum TaskResult {
    Lookup { id: LookupId, workflow: Arc<Workflow>, step: Option<Step>, answer: Result<Arc<RunModels>, LookupError> },
    Patch { patch: MarkPatch, step: Option<Step>, result: Result<(), MarkError> },
}

/// The deadlines of a drain.
#[derive(Clone, Copy)]
struct Drain {
    confirmations: Instant,
    marks: Instant,
}

impl Driver {
    /// Creates the delivery task, and the handle through which streams attach to it.
    pub fn new(
        store: Arc<Store>,
        lookup: Arc<dyn ArtifactLookup>,
        marker: Arc<dyn Marker>,
        options: Options,
        wall_clock: WallClock,
        metrics: DeliveryMetrics,
    ) -> (Deliveries, Self) {
        let (deliveries, from_streams) = Deliveries::new();
        let driver = Self {
            ledger: Ledger::new(&options, rand::random()),
            store,
            lookup,
            marker,
            wall_clock,
            observer: Observer::new(metrics, options.traces.clone()),
            traces: options.traces,
            from_streams,
            to_streams: HashMap::new(),
            tasks: JoinSet::new(),
            drain_confirmations: options.drain_confirmations,
            drain_marks: options.drain_marks,
        };
        (deliveries, driver)
    }

    /// Delivers until `shutdown` is cancelled, and then until the last events are confirmed and marked or the drain's time
    /// is over.
    ///
    /// # Errors
    /// Where a lookup or a patch panicked: its run would never be delivered, so the process has to be restarted.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), JoinError> {
        let store = self.store.clone();
        let mut drain: Option<Drain> = None;
        let mut next_stats = Instant::now();
        let mut stats_due = false;
        let mut closed = false;
        loop {
            stats_due |= self.ledger.handle_timeout(self.now());
            self.perform_actions();
            let now = Instant::now();
            if let Some(Drain { confirmations, marks }) = drain {
                if self.ledger.is_drained() || now >= marks {
                    self.observer.drained(&self.ledger.stats());
                    return Ok(());
                }
                if now >= confirmations {
                    self.to_streams.clear();
                }
            }
            if stats_due && now >= next_stats {
                self.observer.update_gauges(&self.ledger.stats(), self.now());
                stats_due = false;
                next_stats = now + STATS_INTERVAL;
            }
            let deadlines = [
                self.ledger.poll_timeout().map(Instant::from_std),
                stats_due.then_some(next_stats),
                drain.map(|drain| drain.confirmations).filter(|at| *at > now),
                drain.map(|drain| drain.marks),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            tokio::select! {
                changes = store.changes() => {
                    self.handle_changes(&changes);
                    stats_due = true;
                }
                message = self.from_streams.recv(), if !closed => {
                    // `None` once every `Deliveries` is dropped: the server no longer accepts streams.
                    closed = message.is_none();
                    if closed && drain.is_none() {
                        drain = Some(self.begin_drain());
                    }
                    self.drain_inbox(message);
                    stats_due = true;
                }
                Some(result) = self.tasks.join_next() => {
                    self.handle_result(result?);
                    while let Some(result) = self.tasks.try_join_next() {
                        self.handle_result(result?);
                    }
                    stats_due = true;
                }
                Some(()) = OptionFuture::from(deadline.map(sleep_until)) => {}
                () = shutdown.cancelled(), if drain.is_none() => drain = Some(self.begin_drain()),
            }
        }
    }

    fn now(&self) -> Now {
        Now { instant: Instant::now().into_std(), unix: (self.wall_clock.0)() }
    }

    fn begin_drain(&mut self) -> Drain {
        self.ledger.drain();
        let confirmations = Instant::now() + self.drain_confirmations;
        Drain { confirmations, marks: confirmations + self.drain_marks }
    }

    // === inputs ===

    fn handle_changes(&mut self, changes: &[Change]) {
        let now = self.now();
        changes.iter().for_each(|change| self.ledger.handle_change(change, now));
    }

    /// Handles a message and those behind it, up to an attached stream: that one may have thousands of runs to catch up
    /// with, for which streams that attach at the same time should not wait.
    fn drain_inbox(&mut self, first: Option<StreamMessage>) {
        let mut next = first;
        let mut handled = 0;
        while let Some(message) = next.take() {
            handled += 1;
            let attaches = matches!(message, StreamMessage::Attached { .. });
            self.handle_message(message);
            if !attaches && handled < MAX_BATCH {
                next = self.from_streams.try_recv().ok();
            }
        }
    }

    fn handle_message(&mut self, message: StreamMessage) {
        match message {
            StreamMessage::Attached { id, subscription, peer, span, events, closed } => {
                let followed = self.store.follow(&subscription.namespace);
                self.handle_changes(&followed.changes);
                self.to_streams.insert(id, ToStream { events, span, closed });
                let now = self.now();
                self.ledger.attach(id, subscription, peer, &followed.records, now);
            }
            StreamMessage::Acknowledged { id, sequence } => self.ledger.handle_ack(id, sequence, self.now()),
            StreamMessage::Ended { id, held } => {
                self.to_streams.remove(&id);
                self.ledger.end(id, self.now());
                drop(held);
            }
        }
    }

    fn handle_result(&mut self, result: TaskResult) {
        let now = self.now();
        match result {
            TaskResult::Lookup { id, workflow, step, answer } => {
                FailPoint::AfterLookup.pass();
                self.observer.lookup_ended(step, &workflow, &answer);
                self.ledger.handle_answer(id, answer, now);
            }
            TaskResult::Patch { patch, step, result } => {
                FailPoint::Marked.pass();
                self.observer.patch_ended(step, &patch, &result);
                self.ledger.handle_patch(patch, result, now);
            }
        }
    }

    // === actions ===

    fn perform_actions(&mut self) {
        loop {
            let (now, traces) = (self.now(), &self.traces);
            let encode = |run: &_, models: &_, subscription: &_| payload::encode(traces, run, models, subscription);
            let actions = self.ledger.poll_actions(now, &encode);
            if actions.is_empty() {
                return;
            }
            actions.into_iter().for_each(|action| self.perform(action));
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Lookup { id, workflow, types, attempt } => {
                FailPoint::BeforeLookup.pass();
                let step = self.observer.lookup_begins(&workflow, attempt);
                let lookup = self.lookup.clone();
                self.tasks.spawn(Traces::within(step.as_ref().map(Step::id), async move {
                    let answer = lookup.find(&workflow, &types).await;
                    TaskResult::Lookup { id, workflow, step, answer }
                }));
            }
            Action::Patch { patch, attempt } => {
                FailPoint::Confirmed.pass();
                let step = self.observer.patch_begins(&patch, attempt);
                let marker = self.marker.clone();
                self.tasks.spawn(Traces::within(step.as_ref().map(Step::id), async move {
                    let result = marker.patch(&patch).await;
                    TaskResult::Patch { patch, step, result }
                }));
            }
            Action::HandOff { stream, subscription, handoff, workflow, pending_for, redelivery } => {
                let Some(ToStream { events, span, .. }) = self.to_streams.get(&stream) else { return };
                FailPoint::BeforeHandoff.pass();
                self.observer.handing_off(&subscription, &workflow, pending_for, redelivery, *span);
                // The ledger keeps within the channel's capacity. A closed channel means that the end of the stream is
                // next in the inbox: then the run is redelivered.
                events.try_send(handoff).ok();
            }
            Action::Forget(run) => self.lookup.forget(run),
            Action::Close(stream) => {
                if let Some(to_stream) = self.to_streams.remove(&stream) {
                    to_stream.close(CloseReason::ShuttingDown);
                }
            }
            Action::Reread(namespace) => {
                let followed = self.store.follow(&namespace);
                self.handle_changes(&followed.changes);
                let now = self.now();
                self.ledger.reread(&followed.records, now);
            }
            Action::Unfollow(namespace) => self.store.unfollow(&namespace),
            Action::Report(report) => self.observer.report(&report),
        }
    }
}

#[cfg(test)]
mod tests;
