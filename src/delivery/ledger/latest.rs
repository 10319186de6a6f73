//! `latestOnly`: of the runs of one pipeline, a subscription receives only the newest one with a model.
//!
//! A run is *superseded* by a newer one of its pipeline from the moment in which that one is handed off: from then on it
//! is never sent, because an older model must not follow a newer one. It is marked once the delivery of the newer run is
//! certain, and *held* until then: if this process ends before, the newer run is sent again, or if its Workflow is gone,
//! the older one.
//!
//! A run that is ready waits for newer ones whose lookups may still find a model, but not forever. And it waits until the
//! pipelines of all newer runs are known that were delivered before: another process may have sent them, and only ML
//! Metadata has the names of some.
//!
//! Failed runs have no model. So they supersede only older failed runs, but are superseded by every newer run.

mod candidates;
mod sent;

use std::sync::Arc;

use super::{
    Ledger,
    stream::Stream,
    types::{Action, Now, Report},
};
use crate::{
    delivery::StreamId,
    model::{RunModels, SkipReason, SubscriptionName, Uid, Workflow},
};

pub(super) use self::{
    candidates::{Candidates, Wait},
    sent::{Rank, SentRuns},
};
pub(super) use crate::model::latest::{Lane, Recency};

impl Ledger {
    /// The runs that a subscription was sent, or without `remember` the stream. `None` without `latestOnly`.
    fn sent_runs(&mut self, id: StreamId) -> Option<&mut SentRuns> {
        let Stream { subscription, .. } = self.registry.stream(id);
        if !subscription.latest_only {
            return None;
        }
        if subscription.remember {
            let subscription = subscription.clone();
            return Some(&mut self.registry.state_mut(&subscription)?.sent);
        }
        self.registry.stream(id).candidates_mut().map(|candidates| &mut candidates.own_sent)
    }

    /// Returns the rank of a run of this lane among those that were sent.
    pub(super) fn rank(&mut self, id: StreamId, lane: &Lane, run: Recency) -> Rank {
        self.sent_runs(id).map_or(Rank::Current, |sent| sent.rank(lane, run))
    }

    /// The newest run that was delivered and whose pipeline is not known.
    pub(super) fn newest_unnamed(&mut self, id: StreamId) -> Option<Recency> {
        self.sent_runs(id).and_then(|sent| sent.newest_unnamed)
    }

    /// Records a hand-off: older runs of the lane are no longer sent.
    pub(super) fn sent(&mut self, id: StreamId, workflow: &Workflow, models: &RunModels) {
        let Some(lane) = Lane::of(workflow, models) else { return };
        let Some(sent) = self.sent_runs(id) else { return };
        sent.handed_off(&lane, Recency::of(workflow));
        let subscription = self.registry.stream(id).subscription.clone();
        let mut streams = vec![id];
        if subscription.remember {
            streams = self.registry.streams_of_subscription(&subscription.namespace, &subscription.name);
        }
        self.lane_changed(&streams, &lane);
    }

    /// Records that it is certain whether a run was delivered: it was, or it will not be before it ends again.
    pub(super) fn settle(&mut self, namespace: &str, subscription: &SubscriptionName, run: Uid) {
        let mut settled = None;
        self.registry.change_state(namespace, subscription, |state| settled = state.sent.settle(run));
        if let Some(lane) = settled {
            self.lane_changed(&self.registry.streams_of_subscription(namespace, subscription), &lane);
        }
    }

    /// The same for every subscription, and for the streams without one.
    pub(super) fn settle_all(&mut self, namespace: &str, run: Uid) {
        let mut settled = Vec::new();
        self.registry.change_states(namespace, |_, state| {
            settled.extend(state.sent.settle(run).map(|lane| (state.streams.clone(), lane)));
        });
        for id in self.registry.streams_of(namespace) {
            self.settle_own(id, run);
        }
        for (streams, lane) in settled {
            self.lane_changed(&streams, &lane);
        }
    }

    /// The same for a stream without `remember`.
    pub(super) fn settle_own(&mut self, id: StreamId, run: Uid) {
        let own = self.registry.stream(id).candidates_mut().and_then(|candidates| candidates.own_sent.settle(run));
        if let Some(lane) = own {
            self.lane_changed(&[id], &lane);
        }
    }

    /// Records that a run counts as delivered to a subscription: older runs of its pipeline are superseded.
    pub(super) fn delivery_seen(&mut self, workflow: &Arc<Workflow>, subscription: &SubscriptionName, now: Now) {
        let Some(namespace) = self.registry.namespaces.get_mut(&workflow.namespace) else { return };
        let lane = namespace.known_pipeline(workflow).and_then(|pipeline| Lane::named(workflow, &pipeline));
        let Some(state) = namespace.subscriptions.get_mut(subscription).filter(|state| state.latest_streams > 0) else {
            return;
        };
        let streams = state.streams.clone();
        match lane {
            Some(lane) => {
                if state.sent.delivered(&lane, Recency::of(workflow)) {
                    self.lane_changed(&streams, &lane);
                }
            }
            None => {
                state.sent.newest_unnamed = state.sent.newest_unnamed.max(Some(Recency::of(workflow)));
                for id in streams {
                    self.unnamed_delivery(id, workflow, now);
                }
            }
        }
    }

    /// Has the name of a delivered run's pipeline looked up, if a run of the stream waits for that.
    fn unnamed_delivery(&mut self, id: StreamId, workflow: &Arc<Workflow>, now: Now) {
        let stream = self.registry.stream(id);
        let is_new = !stream.runs.contains_key(&workflow.uid);
        if let Some(candidates) = stream.candidates_mut()
            && candidates.needs_name(Recency::of(workflow))
            && is_new
        {
            stream.insert_name_only(workflow.clone(), now.instant);
            self.given_runs += 1;
            self.dirty.insert(id);
        }
    }

    /// Begins to read the records of a stream's namespace for delivered runs that are newer than `run`.
    pub(super) fn read_newer(&mut self, id: StreamId, run: Recency) {
        if let Some(candidates) = self.registry.stream(id).candidates_mut() {
            candidates.begin_reading(run);
            self.read_records(id);
        }
    }

    /// Holds the ready runs of these streams that are older than the newest one that was sent, and has those superseded
    /// that are older than the newest one that was delivered.
    fn lane_changed(&mut self, streams: &[StreamId], lane: &Lane) {
        for id in streams {
            for lane in lane.superseded() {
                let newest = self.sent_runs(*id).and_then(|sent| sent.newest(&lane));
                let stream = self.registry.stream(*id);
                newest.into_iter().for_each(|newest| stream.hold_older(&lane, newest));
                stream.candidates_mut().into_iter().for_each(|candidates| candidates.lane_changed(&lane));
            }
            self.dirty.insert(*id);
        }
    }

    /// Supersedes the runs of a stream that are older than a delivered one, `limit` at most. Returns their number.
    pub(super) fn supersede_held(&mut self, id: StreamId, limit: usize, now: Now) -> usize {
        let mut superseded = 0;
        while superseded < limit {
            let Some(lane) = self.registry.stream(id).candidates_mut().and_then(|it| it.changed_lane()) else { break };
            let delivered = self.sent_runs(id).and_then(|sent| sent.delivered_until(&lane));
            let candidates = self.registry.stream(id).candidates_mut();
            match candidates.and_then(|candidates| candidates.next_superseded(&lane, delivered)) {
                Some(run) => self.supersede(id, run, now),
                None => continue,
            }
            superseded += 1;
        }
        superseded
    }

    /// Drops a run in favor of a newer one that was delivered, and has it marked like a delivery.
    pub(super) fn supersede(&mut self, id: StreamId, run: Uid, now: Now) {
        let stream = self.registry.stream(id);
        let run = stream.remove(run).expect("the run is one of the stream's");
        let subscription = stream.subscription.clone();
        if run.already_delivered {
            return;
        }
        if subscription.remember {
            self.confirm(&subscription, &run.workflow, now);
        }
        let (workflow, reason) = (run.workflow, SkipReason::Superseded);
        self.report(Report::Skipped { subscription, workflow, reason });
    }

    /// Has the records of a stream's namespace offered to it.
    pub(super) fn read_records(&mut self, id: StreamId) {
        let stream = self.registry.stream(id);
        stream.readers += 1;
        let namespace = stream.subscription.namespace.clone();
        self.actions.push(Action::Read { stream: id, namespace });
    }
}
