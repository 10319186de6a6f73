//! Carries out what the ledger decides, and feeds back what comes of it. The only task that reads the store's journal;
//! it waits for nothing but its next input, so that nobody waits for it.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    ArtifactLookup, Deliveries, Handoff, LookupError, MarkError, MarkPatch, Marker, Options, StreamId,
    handle::FromStream,
    ledger::{Action, Ledger, Lookup, Now},
    observer::Observer,
    spans::Step,
};
use crate::{
    failpoint::FailPoint,
    model::{RunModels, Workflow},
    store::{Change, Store},
    telemetry::{Traces, metrics::DeliveryMetrics, trace::SpanRef},
};

/// How many messages of streams are taken in at once.
const BATCH: usize = 1024;
/// How often the gauges of what is pending are renewed, at most, and only after something has happened.
const CENSUS: Duration = Duration::from_secs(1);

/// The wall clock, in whole seconds since the Unix epoch: ages of runs are told by it, waits never. The default is the
/// system's; a test may let one of its own jump.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl WallClock {
    /// A clock that shows what `now` returns.
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
    observer: Observer,
    from_streams: mpsc::UnboundedReceiver<FromStream>,
    to_streams: HashMap<StreamId, ToStream>,
    tasks: JoinSet<Done>,
    drain_confirmations: Duration,
    drain_marks: Duration,
}

/// The way to a stream.
struct ToStream {
    events: mpsc::Sender<Handoff>,
    /// The span of the stream itself.
    span: Option<SpanRef>,
}

/// The result of something that was under way.
enum Done {
    Lookup(Lookup, Arc<Workflow>, Option<Step>, Result<Arc<RunModels>, LookupError>),
    Patch(MarkPatch, Option<Step>, Result<(), MarkError>),
}

impl Driver {
    /// Makes the delivery task, and the handle through which streams attach to it.
    pub fn new(
        store: Arc<Store>,
        lookup: Arc<dyn ArtifactLookup>,
        marker: Arc<dyn Marker>,
        options: Options,
        wall_clock: WallClock,
        metrics: DeliveryMetrics,
    ) -> (Deliveries, Self) {
        let (deliveries, from_streams) = Deliveries::new();
        let observer = Observer::new(metrics, options.traces.clone());
        let (drain_confirmations, drain_marks) = (options.drain_confirmations, options.drain_marks);
        let driver = Self {
            ledger: Ledger::new(options, rand::random()),
            store,
            lookup,
            marker,
            wall_clock,
            observer,
            from_streams,
            to_streams: HashMap::new(),
            tasks: JoinSet::new(),
            drain_confirmations,
            drain_marks,
        };
        (deliveries, driver)
    }

    /// Delivers until `drain` is cancelled, and then until the last hand-offs are confirmed and marked, or that has
    /// taken too long.
    ///
    /// # Errors
    /// Where a lookup or a patch panicked: its run would be stuck for ever, so the process has to start anew.
    pub async fn run(mut self, drain: CancellationToken) -> Result<(), JoinError> {
        let store = self.store.clone();
        let mut draining: Option<Instant> = None;
        let mut next_census = Instant::now();
        let mut census_due = false;
        let mut closed = false;
        loop {
            let now = self.now();
            census_due |= self.ledger.tick(now);
            self.settle(now);
            if let Some(began) = draining {
                if self.ledger.is_drained() || Instant::now() >= began + self.drain_confirmations + self.drain_marks {
                    self.observer.drained(&self.ledger.census());
                    return Ok(());
                }
                if Instant::now() >= began + self.drain_confirmations {
                    self.to_streams.clear();
                }
            }
            if census_due && Instant::now() >= next_census {
                self.observer.census(&self.ledger.census(), self.now());
                census_due = false;
                next_census = Instant::now() + CENSUS;
            }
            let deadline = self
                .ledger
                .next_deadline()
                .map(Instant::from_std)
                .into_iter()
                .chain(census_due.then_some(next_census))
                .chain(draining.iter().flat_map(|began| {
                    let ends =
                        [*began + self.drain_confirmations, *began + self.drain_confirmations + self.drain_marks];
                    ends.into_iter().filter(|end| *end > Instant::now())
                }))
                .min();
            tokio::select! {
                changes = store.changes() => {
                    self.changed(&changes);
                    census_due = true;
                }
                message = self.from_streams.recv(), if !closed => {
                    // `self` holds no sender, but the server that accepts streams does, for as long as it runs.
                    closed = message.is_none();
                    if closed && draining.is_none() {
                        draining = Some(self.begin_drain());
                    }
                    self.take_in(message);
                    census_due = true;
                }
                Some(done) = self.tasks.join_next() => {
                    self.done(done?);
                    while let Some(done) = self.tasks.try_join_next() {
                        self.done(done?);
                    }
                    census_due = true;
                }
                () = until(deadline) => {}
                () = drain.cancelled(), if draining.is_none() => draining = Some(self.begin_drain()),
            }
        }
    }

    fn settle(&mut self, now: Now) {
        loop {
            let actions = self.ledger.settle(now);
            if actions.is_empty() {
                return;
            }
            actions.into_iter().for_each(|action| self.perform(action));
        }
    }

    fn now(&self) -> Now {
        Now { instant: Instant::now().into_std(), unix: (self.wall_clock.0)() }
    }

    fn begin_drain(&mut self) -> Instant {
        self.ledger.drain();
        Instant::now()
    }

    fn changed(&mut self, changes: &[Change]) {
        let now = self.now();
        for change in changes {
            match change {
                Change::Applied(workflow) => self.ledger.applied(workflow, now),
                Change::Gone(workflow) => self.ledger.gone(workflow, now),
            }
        }
    }

    /// Takes in a message and those that came after it, up to a new stream: that one may have thousands of runs to be
    /// caught up with, and those who attach together shall not wait for all of them.
    fn take_in(&mut self, first: Option<FromStream>) {
        let mut next = first;
        let mut taken = 0;
        while let Some(message) = next.take() {
            taken += 1;
            let may_be_much = matches!(message, FromStream::Attached { .. });
            self.told(message);
            if !may_be_much && taken < BATCH {
                next = self.from_streams.try_recv().ok();
            }
        }
    }

    fn told(&mut self, message: FromStream) {
        match message {
            FromStream::Attached { id, subscription, peer, span, events } => {
                let (changes, records) = self.store.follow(&subscription.namespace);
                self.changed(&changes);
                self.to_streams.insert(id, ToStream { events, span });
                let now = self.now();
                self.ledger.attached(id, subscription, peer, &records, now);
            }
            FromStream::Acknowledged { id, sequence } => self.ledger.acknowledged(id, sequence, self.now()),
            FromStream::Ended { id } => {
                self.to_streams.remove(&id);
                self.ledger.ended(id, self.now());
            }
        }
    }

    fn done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Lookup(id, workflow, step, answer) => {
                FailPoint::Asked.pass();
                self.observer.asked(step, &workflow, &answer);
                self.ledger.answered(id, answer, now);
            }
            Done::Patch(patch, step, result) => {
                FailPoint::Marked.pass();
                self.observer.patched(step, &patch, &result);
                self.ledger.patched(patch, result, now);
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Lookup { id, workflow, types, attempt } => {
                FailPoint::Asking.pass();
                let step = self.observer.asking(&workflow, attempt);
                let lookup = self.lookup.clone();
                self.tasks.spawn(Traces::within(step.as_ref().map(Step::id), async move {
                    let answer = lookup.find(&workflow, &types).await;
                    Done::Lookup(id, workflow, step, answer)
                }));
            }
            Action::Patch { patch, attempt } => {
                FailPoint::Confirmed.pass();
                let step = self.observer.patching(&patch, attempt);
                let marker = self.marker.clone();
                self.tasks.spawn(Traces::within(step.as_ref().map(Step::id), async move {
                    let result = marker.patch(&patch).await;
                    Done::Patch(patch, step, result)
                }));
            }
            Action::HandOff { stream, subscription, handoff, workflow, waited, again } => {
                let Some(ToStream { events, span }) = self.to_streams.get(&stream) else { return };
                FailPoint::HandingOff.pass();
                self.observer.handing_off(&subscription, &workflow, waited, again, *span);
                // The ledger keeps within the channel's capacity. A closed one means that the stream's end is on its
                // way to us, which gives the run back.
                events.try_send(handoff).ok();
            }
            Action::Forget(run) => self.lookup.forget(run),
            Action::Close(stream) => {
                self.to_streams.remove(&stream);
            }
            Action::Reread(namespace) => {
                let (changes, records) = self.store.follow(&namespace);
                self.changed(&changes);
                let now = self.now();
                self.ledger.reread(&records, now);
            }
            Action::Unfollow(namespace) => self.store.unfollow(&namespace),
            Action::Report(report) => self.observer.report(&report),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
