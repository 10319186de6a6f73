//! Offers: the runs of a namespace are offered to its streams, from changes and from records that are read. Each stream
//! decides whether a run is pending for it.

use std::{net::SocketAddr, sync::Arc};

use super::{
    Ledger, SHARED_TOO_LONG,
    stream::{Run, Stream},
    timers::Timer,
    types::{Action, Now, Report},
};
use crate::{
    delivery::{CloseReason, StreamId},
    model::{FilterReason, Subscription, Workflow},
    store::Before,
};

/// The seconds by which the clock of Argo's controller may be behind, for streams that begin with runs that end from now
/// on.
const CLOCK_SKEW: i64 = 60;
/// Deleted runs that are offered at once.
const CLAIMED_AT_ONCE: usize = 100;

/// The news in an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The run may have ended long ago.
    Record,
    /// The run has ended by this change.
    End,
    /// The Workflow was not known before: it may have ended long ago, too.
    FirstSight,
    /// Another change of a run that had ended before.
    Change,
}

impl News {
    pub(super) fn of(workflow: &Workflow, before: Option<Before>) -> Self {
        match before {
            None => Self::FirstSight,
            Some(before) if before.outcome != workflow.outcome() => Self::End,
            Some(_) => Self::Change,
        }
    }
}

/// The verdict of a subscription's filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passes,
    Excluded(FilterReason),
    /// It is known in a later turn.
    Open,
}

// === streams that attach ===

impl Ledger {
    /// Attaches a stream. It is offered the records of its namespace next.
    pub(in crate::delivery) fn attach(
        &mut self,
        id: StreamId,
        subscription: Subscription,
        peer: Option<SocketAddr>,
        now: Now,
    ) {
        if self.draining {
            self.actions.push(Action::Close(id, CloseReason::ShuttingDown));
            return;
        }
        self.timers.cancel(&Timer::DropNamespace(subscription.namespace.clone()));
        let streams = self.registry.attach(id, subscription, peer, now);
        if streams > 1 {
            self.timers.set(now.instant + SHARED_TOO_LONG, Timer::CheckShared(id));
        }
        self.limit_age(id, now.instant);
        let stream = self.registry.stream(id);
        let subscription = stream.subscription.clone();
        if !subscription.remember && subscription.max_age.is_none() {
            return self.attached(id);
        }
        if let Some(attaching) = &mut stream.attaching
            && subscription.remember
        {
            attaching.claimed = self.deleted.claimed_by(&subscription);
        }
        self.read_records(id);
    }

    /// Offers records of its namespace to a stream, for [`Action::Read`]. Returns the number of records that it was
    /// offered: those behind them are to be offered later. Returns `None` where no more are, because these were the last
    /// ones or the stream has ended.
    pub(in crate::delivery) fn offer_records(
        &mut self,
        id: StreamId,
        records: &[Arc<Workflow>],
        is_last: bool,
        now: Now,
    ) -> Option<usize> {
        let stream = self.registry.streams.get_mut(&id)?;
        if let Some(attaching) = &mut stream.attaching
            && !attaching.claimed.is_empty()
        {
            let rest = attaching.claimed.len().saturating_sub(CLAIMED_AT_ONCE);
            for workflow in attaching.claimed.split_off(rest) {
                if self.deleted.contains(workflow.uid) {
                    self.offer(id, &workflow, News::Change, now);
                }
            }
            return Some(0);
        }
        for (offered, workflow) in records.iter().enumerate() {
            self.workflow_returned(workflow, now);
            self.look_ahead(workflow, false, now);
            if !self.offer(id, workflow, News::Record, now) {
                return Some(offered);
            }
        }
        if !is_last {
            return Some(records.len());
        }
        self.records_read(id);
        None
    }

    /// Handles the end of a reader of records.
    fn records_read(&mut self, id: StreamId) {
        let stream = self.registry.stream(id);
        stream.readers -= 1;
        if stream.readers > 0 {
            return;
        }
        stream.candidates_mut().into_iter().for_each(|candidates| candidates.end_reading());
        self.dirty.insert(id);
        if stream.attaching.is_some() {
            self.attached(id);
        }
    }

    fn attached(&mut self, id: StreamId) {
        let stream = self.registry.stream(id);
        stream.attaching = None;
        let (subscription, peer) = (stream.subscription.clone(), stream.peer);
        let (pending, filtered) = (stream.pending_runs(), stream.filtered);
        self.report(Report::Attached { stream: id, subscription, peer, pending, filtered });
    }
}

// === offers ===

impl Ledger {
    /// Offers a run to a stream, which may have it already, or not want it. Returns `false` where a record has to be offered
    /// again in a later turn, in which the verdict of the stream's filter is known. Runs of other offers are pending until
    /// then.
    pub(super) fn offer(&mut self, id: StreamId, workflow: &Arc<Workflow>, news: News, now: Now) -> bool {
        let uid = workflow.uid;
        if workflow.outcome().is_none() {
            return true;
        }
        let stream = self.registry.stream(id);
        let subscription = stream.subscription.clone();
        if !subscription.remember && !stream.runs.contains_key(&uid) && !is_news(workflow, news, stream) {
            return true;
        }
        if self.is_delivered(&subscription, workflow) {
            if subscription.latest_only {
                self.delivery_seen(workflow, &subscription.name, now);
            }
            return true;
        }
        let mut pending_since = self.registry.state(&subscription).and_then(|state| state.failed.pending_since(uid));
        let stream = self.registry.stream(id);
        if let Some(run) = stream.runs.get(&uid) {
            if !is_replaced(run, workflow) {
                stream.update(workflow);
                return true;
            }
            pending_since = Some(run.pending_since);
            self.withdraw(id, uid);
        }
        match self.verdict(id, workflow, now) {
            Verdict::Excluded(reason) => {
                self.filtered(id, workflow, reason);
                return true;
            }
            Verdict::Open if news == News::Record => return false,
            Verdict::Open | Verdict::Passes => {}
        }
        let types = self.registry.stream(id).types;
        if !self.registry.namespace_of(&subscription).types.has_no_model(types, uid) {
            self.registry.stream(id).insert(workflow.clone(), pending_since.unwrap_or(now.instant));
            self.given_runs += 1;
            self.dirty.insert(id);
        }
        true
    }

    /// Returns whether a run counts as delivered. A stream that remembers nothing has no deliveries but those of others
    /// than subscribers.
    fn is_delivered(&self, subscription: &Subscription, workflow: &Workflow) -> bool {
        match self.registry.state(subscription) {
            Some(state) => {
                subscription.is_delivered(workflow, self.skip_labelled) || state.confirmed.contains(&workflow.uid)
            }
            None => self.skip_labelled && workflow.events_published,
        }
    }

    /// Returns the verdict of the filters, as far as they do not need a lookup.
    pub(super) fn verdict(&mut self, id: StreamId, workflow: &Workflow, now: Now) -> Verdict {
        let stream = self.registry.stream(id);
        let (subscription, filter) = (stream.subscription.clone(), stream.filter);
        if workflow.outcome().is_some_and(|outcome| !subscription.statuses.accept(outcome)) {
            return Verdict::Excluded(FilterReason::Statuses);
        }
        if subscription.is_too_old(workflow, now.unix) {
            self.record_age_exclusion(now);
            return Verdict::Excluded(FilterReason::MaxAge);
        }
        let namespace = self.registry.namespace_of(&subscription);
        match (filter, namespace.known_pipeline(workflow)) {
            (Some(filter), Some(name)) => match namespace.filters.matches(filter, &name, &mut self.steps) {
                Some(true) => Verdict::Passes,
                Some(false) => Verdict::Excluded(FilterReason::Pipelines),
                None => Verdict::Open,
            },
            _ => Verdict::Passes,
        }
    }

    /// Reports a run that a filter excludes, once for each subscription.
    pub(super) fn filtered(&mut self, id: StreamId, workflow: &Arc<Workflow>, reason: FilterReason) {
        let stream = self.registry.stream(id);
        let subscription = stream.subscription.clone();
        let is_attaching = stream.attaching.is_some();
        let has_notices = self.has_notices && subscription.remember && !is_attaching;
        let namespace = self.registry.namespace_of(&subscription);
        let is_new = !subscription.remember || namespace.filtered.insert(workflow.uid, &subscription.name);
        // Each is offered once to a stream that attaches, also if an earlier one of its subscription was offered it.
        if is_new || is_attaching {
            self.registry.stream(id).filtered.add(reason);
        }
        // Each person who looks at past runs would report all older ones again.
        let is_past_of_guest = !subscription.remember && is_attaching;
        if is_new && !is_past_of_guest {
            let namespace = self.registry.namespace_of(&subscription);
            let by_all = has_notices.then(|| namespace.excluded_by_all(workflow.uid)).flatten();
            self.report(Report::Filtered { subscription, workflow: workflow.clone(), reason, by_all });
        }
    }
}

/// Returns whether a stream that remembers nothing wants to hear of a run: one that has ended since it attached, or with
/// `maxAge` one of the records that it is offered while it attaches. From then on only their ends are news: the records may
/// be read again, and nothing says which of their runs the stream has sent.
fn is_news(workflow: &Workflow, news: News, stream: &Stream) -> bool {
    match news {
        News::End => true,
        News::FirstSight => workflow.finished >= stream.attached.saturating_sub(CLOCK_SKEW),
        News::Record => stream.subscription.max_age.is_some() && stream.attaching.is_some(),
        News::Change => false,
    }
}

/// Returns whether a later record of a run invalidates the stream's state of it, unless the event was handed off.
fn is_replaced(run: &Run, workflow: &Workflow) -> bool {
    let before = Before::of(&run.workflow, workflow);
    before.outcome != workflow.outcome() || (before.identity_changed && !run.is_handed_off())
}
