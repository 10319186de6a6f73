//! The choice of the run that a stream is handed next.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    latest::{Candidates, Lane, Recency, Wait},
    queues::Queues,
    stream::{Run, State, Stream},
};
use crate::model::{RunModels, Uid, Workflow};

/// The time for which a ready run waits for the first lookup of an older one, so that runs are sent in order where
/// nothing fails.
pub(super) const IN_ORDER: Duration = Duration::from_millis(500);

/// The run to be handed off next.
#[derive(Debug)]
pub(super) enum Next {
    Run(Arc<Workflow>, Arc<RunModels>),
    NotBefore(Instant),
    /// None before the names of the delivered runs are known that are newer than this one.
    Names(Recency),
    Nothing,
}

impl From<Wait> for Next {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::Names(run) => Self::Names(run),
            Wait::Until(at) => Self::NotBefore(at),
            Wait::Newer => Self::Nothing,
        }
    }
}

impl Stream {
    /// Returns the next ready run. Without one, or where the quarantine is starving, returns the next probe, provided that
    /// nothing else is unconfirmed. `newest_unnamed` is that of [`Candidates::may_send`].
    pub(super) fn next_ready(&self, now: Instant, newest_unnamed: Option<Recency>) -> Next {
        let Queues { ready, quarantine, candidates, .. } = &self.queues;
        let regular = || match candidates {
            None => self.oldest_ready(now),
            Some(candidates) => self.newest_ready(candidates, now, newest_unnamed),
        };
        if !ready.is_empty() && !quarantine.is_starving(now) {
            return regular();
        }
        match quarantine.next().filter(|_| !self.has_unconfirmed()) {
            Some(probe) if probe.due > now => Next::NotBefore(probe.due),
            Some(probe) => match candidates.as_ref().map(|it| self.may_send(it, probe.run, now, newest_unnamed)) {
                None | Some(Ok(())) => self.ready(probe.run),
                // A newer run of its pipeline is sent first.
                Some(Err(_)) if !ready.is_empty() => regular(),
                Some(Err(wait)) => wait.into(),
            },
            None => Next::Nothing,
        }
    }

    /// The time at which the next probe ceases to give way to other runs.
    pub(super) fn starves_at(&self) -> Option<Instant> {
        self.queues.quarantine.starves_at()
    }

    /// The oldest ready run, after a short wait for older ones that may be ready soon.
    fn oldest_ready(&self, now: Instant) -> Next {
        let Some(age) = self.queues.ready.first() else { return Next::Nothing };
        let older = self.queues.first_lookups.range(..age).map(|(_, until)| *until);
        match older.filter(|until| *until > now).min() {
            Some(until) => Next::NotBefore(until),
            None => self.ready(age.uid),
        }
    }

    /// With `latestOnly`, a ready run that need not wait for newer ones.
    fn newest_ready(&self, candidates: &Candidates, now: Instant, newest_unnamed: Option<Recency>) -> Next {
        let mut first = Wait::Newer;
        for age in &self.queues.ready {
            match self.may_send(candidates, age.uid, now, newest_unnamed) {
                Ok(()) => return self.ready(age.uid),
                Err(wait) => first = first.min(wait),
            }
        }
        first.into()
    }

    fn may_send(
        &self,
        candidates: &Candidates,
        run: Uid,
        now: Instant,
        newest_unnamed: Option<Recency>,
    ) -> Result<(), Wait> {
        let Run { workflow, state, .. } = &self.runs[&run];
        let State::Ready { models, .. } = state else { return Ok(()) };
        // Without a valid name, there is no event.
        let Some(lane) = Lane::of(workflow, &models.models) else { return Ok(()) };
        candidates.may_send(&lane, Recency::of(workflow), newest_unnamed, now)
    }

    fn ready(&self, run: Uid) -> Next {
        match self.runs.get(&run) {
            Some(Run { workflow, state: State::Ready { models, .. }, .. }) => {
                Next::Run(workflow.clone(), models.models.clone())
            }
            other => unreachable!("{run} is queued as ready: {other:?}"),
        }
    }
}
