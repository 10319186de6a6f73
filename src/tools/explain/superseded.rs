//! `latestOnly`: the newer run that supersedes one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;

use super::{
    Explainer, Lookups, Newer,
    decision::{self, Decision},
    subscriptions::Known,
};
use crate::{
    model::{
        ArtifactTypes, RunModels, Subscription, Uid, Workflow, event,
        latest::{Lane, Recency},
        workflow::MARK_PREFIX,
    },
    tools::explain::decision::Status,
};

/// Newer runs whose pipelines are looked up.
const MAX_LOOKUPS: usize = 16;

/// The lanes of runs that were looked up, by run and types: other runs are compared with the same ones.
pub(super) type Lanes = Mutex<HashMap<(Uid, Arc<ArtifactTypes>), Option<Lane>>>;

impl Explainer {
    /// Returns the newest delivered run that supersedes this one, for a subscription with `latestOnly`.
    pub(super) async fn newest_delivered(
        &self,
        run: &Workflow,
        found: &RunModels,
        subscription: &Subscription,
        others: &[Workflow],
    ) -> Option<Newer> {
        if !subscription.latest_only {
            return None;
        }
        let lane = Lane::of(run, found)?;
        let mut lookups = 0;
        for other in self.newer_delivered(run, subscription, others) {
            let lane_of_other = match Subscription::certain_pipeline(other) {
                Some(name) => Lane::named(other, name),
                None if lookups < MAX_LOOKUPS => {
                    lookups += 1;
                    self.looked_up_lane(other, subscription).await?
                }
                None => return None,
            };
            if lane_of_other.is_some_and(|other| lane.superseding().any(|lane| lane == other)) {
                return Some(Newer { name: other.name.to_string(), finished: other.finished });
            }
        }
        None
    }

    /// The delivered runs that are newer than this one, newest first.
    fn newer_delivered<'a>(
        &self,
        run: &Workflow,
        subscription: &Subscription,
        others: &'a [Workflow],
    ) -> Vec<&'a Workflow> {
        let recency = Recency::of(run);
        let is_newer = |other: &&Workflow| {
            other.outcome().is_some()
                && recency.is_before(Recency::of(other))
                && subscription.is_delivered(other, self.options.skip_labelled)
        };
        let mut newer: Vec<&Workflow> = others.iter().filter(is_newer).collect();
        newer.sort_by_key(|other| std::cmp::Reverse(Recency::of(other)));
        newer
    }

    /// Returns the lane of a run whose name is not certain. `None`: it is not known.
    async fn looked_up_lane(&self, run: &Workflow, subscription: &Subscription) -> Option<Option<Lane>> {
        let lanes = || self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (run.uid, subscription.artifact_types.clone());
        let known = lanes().get(&key).cloned();
        if known.is_some() {
            return known;
        }
        let found = self.ask_sources(run, &subscription.artifact_types).await.found.ok()?;
        let lane = Lane::of(run, &found);
        lanes().insert(key, lane.clone());
        Some(lane)
    }

    /// Returns the newer run that has superseded one whose mark is that of a superseded run. Both marks are equal, but that
    /// of a superseded run is written after the newer one has ended. `object` is the Workflow, if it was read.
    pub(super) async fn superseded_by_mark(
        &self,
        run: &Workflow,
        known: &Known,
        decision: &Decision,
        others: &[Workflow],
        lookups: &mut Lookups,
        object: Option<&Value>,
    ) -> Option<Newer> {
        let subscription = &known.subscription;
        let is_candidate = decision.status == Status::Delivered && subscription.latest_only;
        if !is_candidate || self.newer_delivered(run, subscription, others).is_empty() {
            return None;
        }
        let found = if lookups.contains_key(&subscription.artifact_types)
            || Subscription::certain_pipeline(run).is_none() && decision::needs_lookup(run)
        {
            self.look_up(run, &subscription.artifact_types, lookups).await.found.clone().ok()?
        } else {
            RunModels::default()
        };
        event::pipeline_name(run, &found)?;
        let newer = self.newest_delivered(run, &found, subscription, others).await?;
        let marked = match object {
            Some(object) => mark_time(object, subscription)?,
            // Without the right to get it, the time is not known.
            None => mark_time(&self.cluster.workflow_metadata(&run.namespace, &run.name).await.ok()??, subscription)?,
        };
        (marked > newer.finished).then_some(newer)
    }
}

/// Returns the time of a subscription's mark, if the API server's record of owners tells it: one writer has one time for all
/// that it has written.
fn mark_time(object: &Value, subscription: &Subscription) -> Option<i64> {
    let keys = [Some(&subscription.name), subscription.unscoped.as_ref()];
    let keys: Vec<String> = keys.into_iter().flatten().map(|name| format!("f:{MARK_PREFIX}{name}")).collect();
    let entries = object["metadata"]["managedFields"].as_array()?;
    entries.iter().find_map(|entry| {
        let owned = &entry["fieldsV1"]["f:metadata"];
        let fields = [&owned["f:annotations"], &owned["f:labels"]].into_iter().filter_map(Value::as_object);
        let prefix = format!("f:{MARK_PREFIX}");
        let marks: Vec<&String> =
            fields.flat_map(|fields| fields.keys()).filter(|key| key.starts_with(&prefix)).collect();
        let [mark] = marks[..] else { return None };
        let time: jiff::Timestamp = entry["time"].as_str()?.parse().ok()?;
        keys.contains(mark).then(|| time.as_second())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tools::explain::subscriptions::{self, Subscriptions};

    fn object(marks: &[&str]) -> Value {
        let annotations: serde_json::Map<_, _> =
            marks.iter().map(|name| (format!("f:{MARK_PREFIX}{name}"), json!({}))).collect();
        json!({"metadata": {"managedFields": [
            {"time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:metadata": {"f:labels": {"f:x": {}}}}},
            {"time": "2026-01-01T00:00:09Z", "fieldsV1": {"f:metadata": {"f:annotations": annotations}}},
        ]}})
    }

    #[test]
    fn the_time_of_a_mark_is_known_if_it_is_the_only_one() {
        let config = json!({"metadata": {"namespace": "team", "name": "x"}, "spec": {"generic": {
            "deploy": {"config": "kfpNamespace: team"},
        }}});
        let (entries, _) = subscriptions::entries(&[config]);
        let known = Subscriptions::of("team", &entries, &[], &Default::default(), None);
        let subscription = &known.known()[0].subscription;
        let ninth = "2026-01-01T00:00:09Z".parse::<jiff::Timestamp>().unwrap().as_second();
        assert_eq!(mark_time(&object(&["deploy"]), subscription), Some(ninth));
        assert_eq!(mark_time(&object(&["deploy", "other"]), subscription), None);
        assert_eq!(mark_time(&object(&["other"]), subscription), None);
        assert_eq!(mark_time(&Value::Null, subscription), None);
    }
}
