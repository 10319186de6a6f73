//! The delivery task: performs the actions of the ledger and feeds back their results. It is the only reader of the
//! store's journal, and waits for nothing but its next input.
//!
//! All events of all tenants depend on this task, so none of its turns is long: each handles a slice of what is there,
//! and the next one goes on. It shows that it runs by a heartbeat.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::OptionFuture;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet, yield_now},
    time::{Instant, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    ArtifactLookup, CloseReason, Deliveries, DeliveryMetrics, KnownAhead, LookupError, MarkError, MarkPatch, Marker,
    Options, StreamId,
    backlog::{Backlog, Slice},
    handle::StreamMessage,
    ledger::{Action, Ledger, LookupId, Now},
    mailbox::EventSender,
    observer::Observer,
    payload,
    spans::Step,
    status::{DeliveryStatus, StatusPublisher, StatusReader},
};
use crate::{
    clock::WallClock,
    failpoint::FailPoint,
    model::{RunModels, Workflow},
    readiness::Heartbeat,
    store::Store,
    telemetry::{Traces, trace::SpanRef},
};

/// Messages of streams, and results, that are handled in a turn.
const MAX_BATCH: usize = 256;
/// Offers of runs to streams in a turn, from changes and records.
const OFFERS: usize = 1000;
/// Offers of the runs of one namespace, before that of another one has its turn.
const OFFERS_OF_NAMESPACE: usize = 100;
/// The interval of heartbeats while nothing happens: a sixth of the age at which `/livez` fails. Each heartbeat wakes
/// the process up.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The shortest interval between updates of the gauges, which follow inputs only.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// The delivery task. See [`Driver::run`].
pub struct Driver {
    ledger: Ledger,
    store: Arc<Store>,
    lookup: Arc<dyn ArtifactLookup>,
    marker: Arc<dyn Marker>,
    wall_clock: WallClock,
    traces: Traces,
    observer: Observer,
    heartbeat: Heartbeat,
    status: StatusPublisher,
    backlog: Backlog,
    from_streams: mpsc::UnboundedReceiver<StreamMessage>,
    to_streams: HashMap<StreamId, ToStream>,
    tasks: JoinSet<TaskResult>,
    drain_confirmations: Duration,
    drain_marks: Duration,
    /// The numbers of changes and records in the turns so far.
    #[cfg(test)]
    turns: Arc<std::sync::Mutex<Vec<usize>>>,
}

/// The sending side of a stream.
struct ToStream {
    events: EventSender,
    /// The stream's own span.
    span: Option<SpanRef>,
}

/// The result of a lookup or patch.
enum TaskResult {
    Lookup { id: LookupId, workflow: Arc<Workflow>, step: Option<Step>, answer: Result<Arc<RunModels>, LookupError> },
    LookupAhead { workflow: Arc<Workflow>, answer: Result<KnownAhead, LookupError> },
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
        heartbeat: Heartbeat,
    ) -> (Deliveries, Self) {
        let (deliveries, from_streams) = Deliveries::new();
        let driver = Self {
            ledger: Ledger::new(&options, rand::random()),
            observer: Observer::new(
                metrics,
                options.limits,
                options.notices,
                options.traces.clone(),
                store.clone(),
                wall_clock.clone(),
            ),
            store,
            lookup,
            marker,
            wall_clock,
            heartbeat,
            status: StatusPublisher::default(),
            backlog: Backlog::default(),
            traces: options.traces,
            from_streams,
            to_streams: HashMap::new(),
            tasks: JoinSet::new(),
            drain_confirmations: options.drain_confirmations,
            drain_marks: options.drain_marks,
            #[cfg(test)]
            turns: Arc::default(),
        };
        (deliveries, driver)
    }

    /// Returns a reader of the status of this task.
    pub fn status(&self) -> StatusReader {
        self.status.reader()
    }

    /// Delivers until `shutdown` is cancelled, and then until the last events are confirmed and marked or the drain's
    /// time is over.
    ///
    /// # Errors
    /// If a lookup or a patch panicked: its run would never be delivered, so the process has to be restarted.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), JoinError> {
        let store = self.store.clone();
        let mut heartbeats = interval(HEARTBEAT);
        let mut drain: Option<Drain> = None;
        let mut next_stats = Instant::now();
        let mut stats_due = false;
        let mut closed = false;
        loop {
            self.heartbeat.beat();
            stats_due |= self.ledger.handle_timeout(self.now());
            let handled = self.handle_backlog();
            self.record_turn(handled);
            self.perform_actions();
            let now = Instant::now();
            if let Some(Drain { confirmations, marks }) = drain {
                if self.ledger.is_drained() || now >= marks {
                    self.observer.drained(&self.ledger.stats());
                    return Ok(());
                }
                if now >= confirmations {
                    self.close_streams();
                }
            }
            if stats_due && now >= next_stats {
                self.observer.update_gauges(&self.ledger.stats(), self.now());
                stats_due = false;
                next_stats = now + STATS_INTERVAL;
            }
            let (ledger, observer) = (&self.ledger, &self.observer);
            self.status
                .publish(now, || DeliveryStatus { streams: ledger.streams(now.into_std()), ..observer.recent() });
            let deadlines = [
                self.ledger.poll_timeout().map(Instant::from_std),
                stats_due.then_some(next_stats),
                self.status.deadline(),
                drain.map(|drain| drain.confirmations).filter(|at| *at > now),
                drain.map(|drain| drain.marks),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            let has_more = self.ledger.has_more() || !self.backlog.is_empty();
            loop {
                tokio::select! {
                    changes = store.changes() => {
                        self.backlog.push(changes);
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
                        self.handle_results(result)?;
                        stats_due = true;
                    }
                    Some(()) = OptionFuture::from(deadline.map(sleep_until)) => {}
                    () = self.status.requested() => {}
                    () = shutdown.cancelled(), if drain.is_none() => drain = Some(self.begin_drain()),
                    // Lets the other tasks of this thread proceed.
                    () = yield_now(), if has_more => stats_due = true,
                    _ = heartbeats.tick() => {
                        self.heartbeat.beat();
                        continue;
                    }
                }
                break;
            }
        }
    }

    fn now(&self) -> Now {
        Now { instant: Instant::now().into_std(), unix: self.wall_clock.now() }
    }

    fn begin_drain(&mut self) -> Drain {
        self.ledger.drain();
        self.backlog.cancel_readers();
        let confirmations = Instant::now() + self.drain_confirmations;
        Drain { confirmations, marks: confirmations + self.drain_marks }
    }

    fn close_streams(&mut self) {
        for (_, to_stream) in self.to_streams.drain() {
            self.observer.closing(CloseReason::ShuttingDown);
            to_stream.events.close(CloseReason::ShuttingDown);
        }
    }

    // === inputs ===

    #[cfg(test)]
    fn record_turn(&self, handled: usize) {
        self.turns.lock().expect("no panic in another turn").push(handled);
    }

    #[cfg(not(test))]
    fn record_turn(&self, _: usize) {}

    /// Handles changes and records, a limited number. Returns the number.
    fn handle_backlog(&mut self) -> usize {
        let now = self.now();
        let mut left = OFFERS;
        let mut handled = 0;
        while left > 0 {
            let ledger = &self.ledger;
            let cost = |namespace: &str| 1 + ledger.streams_in(namespace);
            let limit = |namespace: &str| (OFFERS_OF_NAMESPACE / cost(namespace)).max(1);
            match self.backlog.next(&self.store, limit, OFFERS_OF_NAMESPACE) {
                Some(Slice::Changes { namespace, changes }) => {
                    left = left.saturating_sub(changes.len() * cost(&namespace));
                    handled += changes.len();
                    changes.iter().for_each(|change| self.ledger.handle_change(change, now));
                }
                Some(Slice::Records(records)) => {
                    left = left.saturating_sub(records.records.len().max(1));
                    handled += records.records.len();
                    let offered = self.ledger.offer_records(records.stream, &records.records, records.is_last, now);
                    offered.into_iter().for_each(|offered| self.backlog.read_on(&records, offered));
                }
                None => break,
            }
        }
        handled
    }

    /// Handles a message and those behind it, up to a stream that attaches or ends, which may take longer.
    fn drain_inbox(&mut self, first: Option<StreamMessage>) {
        let mut next = first;
        let mut handled = 0;
        while let Some(message) = next.take() {
            handled += 1;
            let is_short = matches!(message, StreamMessage::Acknowledged { .. });
            self.handle_message(message);
            if is_short && handled < MAX_BATCH {
                next = self.from_streams.try_recv().ok();
            }
        }
    }

    /// Handles a result and those behind it.
    fn handle_results(&mut self, first: Result<TaskResult, JoinError>) -> Result<(), JoinError> {
        self.handle_result(first?);
        for _ in 1..MAX_BATCH {
            let Some(result) = self.tasks.try_join_next() else { break };
            self.handle_result(result?);
        }
        Ok(())
    }

    fn handle_message(&mut self, message: StreamMessage) {
        match message {
            StreamMessage::Attached { id, subscription, peer, span, events } => {
                self.store.follow(&subscription.namespace);
                self.to_streams.insert(id, ToStream { events, span });
                let now = self.now();
                self.ledger.attach(id, subscription, peer, now);
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
            TaskResult::LookupAhead { workflow, answer } => self.ledger.handle_answer_ahead(&workflow, &answer, now),
            TaskResult::Patch { patch, step, result } => {
                FailPoint::Marked.pass();
                self.observer.patch_ended(step, &patch, &result);
                self.ledger.handle_patch(patch, result, now);
            }
        }
    }

    // === actions ===

    fn perform_actions(&mut self) {
        let (now, traces, store) = (self.now(), &self.traces, &self.store);
        let encode = |run: &_, models: &_, subscription: &_| payload::encode(traces, store, run, models, subscription);
        let actions = self.ledger.poll_actions(now, &encode);
        actions.into_iter().for_each(|action| self.perform(action));
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
            Action::LookAhead(workflow) => {
                let lookup = self.lookup.clone();
                self.tasks.spawn(async move {
                    let answer = lookup.look_ahead(&workflow).await;
                    TaskResult::LookupAhead { workflow, answer }
                });
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
                let Some(ToStream { events, span }) = self.to_streams.get(&stream) else { return };
                FailPoint::BeforeHandoff.pass();
                self.observer.handing_off(&subscription, &workflow, pending_for, redelivery, *span);
                // If the stream has ended, its end is next in the inbox: then the run is redelivered.
                events.send(handoff);
            }
            Action::Forget(run) => self.lookup.forget(run),
            Action::Close(stream, reason) => {
                if let Some(to_stream) = self.to_streams.remove(&stream) {
                    self.observer.closing(reason);
                    to_stream.events.close(reason);
                }
            }
            Action::Read { stream, namespace } => self.backlog.read(&namespace, stream),
            Action::Unfollow(namespace) => self.store.unfollow(&namespace),
            Action::Report(report) => self.observer.report(&report),
        }
    }
}

#[cfg(test)]
mod tests;
