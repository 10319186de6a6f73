//! The status as data: `/statusz.json`, and the content of the page.
//!
//! Everything in it is bounded, also where tenants decide on names and numbers. It contains no payload and no place of a
//! model.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

use super::Admin;
use crate::{
    delivery::{DeliveryStatus, RecentDelivery, RecentProblem, StreamStatus},
    model::SubscriptionName,
    store::Size,
    telemetry::{self, Limit},
};

/// Subscriptions in an answer: more than the streams of the default limits.
const MAX_SUBSCRIPTIONS: usize = 2000;
/// Addresses of a subscription's subscribers in an answer. `streams` is the number of all.
const MAX_PEERS: usize = 16;
/// Deliveries, and problems, in an answer.
const MAX_RECENT: usize = 256;
/// Characters of a reason or text, some of which contain the words of an API server.
const MAX_TEXT: usize = 500;

/// The status of the server, of one namespace or of all.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Statusz {
    pub(super) version: &'static str,
    pub(super) revision: &'static str,
    pub(super) time: String,
    pub(super) ready: bool,
    pub(super) uptime_seconds: u64,
    pub(super) selector: String,
    /// The namespaces that are served; empty: all.
    pub(super) namespaces: Vec<Arc<str>>,
    /// The namespace to which the answer is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<Arc<str>>,
    pub(super) problems: Vec<Problem>,
    pub(super) scopes: Vec<Scope>,
    pub(super) workflows: usize,
    pub(super) subscribers: usize,
    pub(super) limits: Vec<Hits>,
    pub(super) subscriptions: Vec<SubscriptionStatus>,
    /// Subscriptions that are left out, because there are too many.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) omitted_subscriptions: usize,
    pub(super) tenants: Vec<Tenant>,
    pub(super) recent_deliveries: Vec<Delivery>,
    pub(super) recent_problems: Vec<RunProblem>,
}

/// A condition that does not hold, or a scope that is not served, as in `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    pub(super) name: String,
    pub(super) reason: String,
}

/// A watch.
#[derive(Debug, Serialize)]
pub(super) struct Scope {
    pub(super) name: String,
    /// Its list was complete at least once.
    pub(super) listed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

/// A limit that was hit.
#[derive(Debug, Serialize)]
pub(super) struct Hits {
    pub(super) limit: &'static str,
    pub(super) hits: u64,
}

/// A subscription with at least one stream.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SubscriptionStatus {
    pub(super) namespace: Arc<str>,
    pub(super) name: String,
    pub(super) peers: Vec<String>,
    pub(super) streams: usize,
    /// The runs of the stream that has most.
    pub(super) pending_runs: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oldest_pending_seconds: Option<u64>,
    /// Runs that ML Metadata does not know.
    pub(super) runs_without_context: usize,
    pub(super) filtered_runs: BTreeMap<&'static str, usize>,
    pub(super) latest_only: bool,
    /// `false` for the streams of people, which remember nothing.
    pub(super) remember: bool,
}

/// The sum of a namespace's subscriptions.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tenant {
    pub(super) namespace: Arc<str>,
    pub(super) streams: usize,
    pub(super) pending_runs: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oldest_pending_seconds: Option<u64>,
}

/// A confirmed delivery.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Delivery {
    pub(super) time: String,
    pub(super) namespace: Arc<str>,
    pub(super) workflow: Box<str>,
    pub(super) uid: String,
    pub(super) subscription: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seconds_from_finish: Option<u64>,
}

/// A run without an event, or with a late one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunProblem {
    pub(super) time: String,
    pub(super) namespace: Arc<str>,
    pub(super) workflow: Box<str>,
    pub(super) uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subscription: Option<String>,
    pub(super) reason: &'static str,
    pub(super) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_url: Option<String>,
}

impl Statusz {
    /// Returns the status of a namespace, of all if its name is empty.
    pub(super) fn new(admin: &Admin, delivery: &DeliveryStatus, namespace: &Arc<str>) -> Self {
        let is_shown = |other: &Arc<str>| namespace.is_empty() || other == namespace;
        let streams: Vec<_> = delivery.streams.iter().filter(|it| is_shown(&it.subscription.namespace)).collect();
        let mut subscriptions = subscriptions(&streams);
        let tenants = tenants(&subscriptions);
        let omitted_subscriptions = subscriptions.len().saturating_sub(MAX_SUBSCRIPTIONS);
        if omitted_subscriptions > 0 {
            // Those whose runs have been pending for the longest stay.
            subscriptions.sort_by_key(|it| std::cmp::Reverse(it.oldest_pending_seconds));
            subscriptions.truncate(MAX_SUBSCRIPTIONS);
            sort(&mut subscriptions);
        }
        let Size { workflows, .. } = admin.store.size();
        let deliveries = delivery.deliveries.iter().filter(|it| is_shown(&it.namespace)).take(MAX_RECENT);
        let problems = delivery.problems.iter().filter(|it| is_shown(&it.namespace)).take(MAX_RECENT);
        Self {
            version: telemetry::VERSION,
            revision: telemetry::REVISION,
            time: Timestamp::from_second(admin.clock.now()).unwrap_or_default().to_string(),
            ready: admin.readiness.is_ready(),
            uptime_seconds: admin.started.elapsed().as_secs(),
            selector: admin.selector.clone(),
            namespaces: admin.namespaces.iter().filter(|name| is_shown(name)).cloned().collect(),
            namespace: (!namespace.is_empty()).then(|| namespace.clone()),
            problems: problems_of(admin),
            scopes: scopes(admin, namespace),
            workflows: if namespace.is_empty() { workflows } else { admin.store.size_of(namespace) },
            subscribers: streams.len(),
            limits: hits(admin),
            subscriptions,
            omitted_subscriptions,
            tenants,
            recent_deliveries: deliveries.map(|delivery| admin.delivery(delivery)).collect(),
            recent_problems: problems.map(|problem| admin.problem(problem)).collect(),
        }
    }
}

/// The conditions that do not hold, and the scopes that are not served.
pub(super) fn problems_of(admin: &Admin) -> Vec<Problem> {
    let problems = admin.readiness.problems().into_iter();
    problems.map(|(name, reason)| Problem { name, reason: limited(&reason) }).collect()
}

fn scopes(admin: &Admin, namespace: &str) -> Vec<Scope> {
    let mut reasons = admin.readiness.scopes();
    let is_shown = |scope: &&crate::store::Scope| match scope {
        crate::store::Scope::All => true,
        crate::store::Scope::Namespace(name) => namespace.is_empty() || **name == *namespace,
    };
    let scopes = admin.scopes.iter().filter(is_shown);
    scopes
        .map(|scope| {
            let name = format!("watch of {scope}");
            let reason = reasons.remove(&name).flatten().map(|reason| limited(&reason));
            Scope { name, listed: admin.store.is_listed(scope), reason }
        })
        .collect()
}

fn hits(admin: &Admin) -> Vec<Hits> {
    let hits = Limit::ALL.iter().map(|limit| Hits { limit: limit.as_str(), hits: admin.limits.count(*limit) });
    hits.filter(|hits| hits.hits > 0).collect()
}

/// Combines the streams of each subscription, which have the same pending runs.
fn subscriptions(streams: &[&StreamStatus]) -> Vec<SubscriptionStatus> {
    let mut found: HashMap<(&Arc<str>, &SubscriptionName, bool), SubscriptionStatus> = HashMap::new();
    for stream in streams {
        let subscription = &*stream.subscription;
        let key = (&subscription.namespace, &subscription.name, subscription.remember);
        let entry = found.entry(key).or_insert_with(|| SubscriptionStatus {
            namespace: subscription.namespace.clone(),
            name: subscription.name.to_string(),
            remember: subscription.remember,
            ..SubscriptionStatus::default()
        });
        entry.streams += 1;
        if entry.peers.len() < MAX_PEERS {
            entry.peers.extend(stream.peer.map(|peer| peer.to_string()));
        }
        entry.pending_runs = entry.pending_runs.max(stream.pending_runs);
        let oldest = stream.oldest_pending.as_ref().map(Duration::as_secs);
        entry.oldest_pending_seconds = entry.oldest_pending_seconds.max(oldest);
        entry.runs_without_context = entry.runs_without_context.max(stream.runs_without_context);
        entry.latest_only |= subscription.latest_only;
        for (reason, runs) in stream.filtered.by_reason() {
            if runs > 0 {
                let most = entry.filtered_runs.entry(reason.as_str()).or_default();
                *most = runs.max(*most);
            }
        }
    }
    let mut subscriptions: Vec<_> = found.into_values().collect();
    sort(&mut subscriptions);
    subscriptions
}

fn sort(subscriptions: &mut [SubscriptionStatus]) {
    subscriptions.sort_by(|a, b| (&a.namespace, &a.name, a.remember).cmp(&(&b.namespace, &b.name, b.remember)));
}

/// Sums up subscriptions that are sorted by namespace.
fn tenants(subscriptions: &[SubscriptionStatus]) -> Vec<Tenant> {
    let of_namespace = subscriptions.chunk_by(|a, b| a.namespace == b.namespace);
    of_namespace
        .map(|subscriptions| Tenant {
            namespace: subscriptions.first().map(|first| first.namespace.clone()).unwrap_or_default(),
            streams: subscriptions.iter().map(|it| it.streams).sum(),
            pending_runs: subscriptions.iter().map(|it| it.pending_runs).sum(),
            oldest_pending_seconds: subscriptions.iter().filter_map(|it| it.oldest_pending_seconds).max(),
        })
        .collect()
}

impl Admin {
    fn delivery(&self, delivery: &RecentDelivery) -> Delivery {
        Delivery {
            time: time(delivery.at),
            namespace: delivery.namespace.clone(),
            workflow: delivery.workflow.clone(),
            uid: delivery.uid.to_string(),
            subscription: delivery.subscription.to_string(),
            trace_id: delivery.trace_id.map(|id| id.to_string()),
            trace_url: delivery.trace_id.and_then(|id| Some(self.trace_url.as_ref()?.of(id))),
            seconds_from_finish: delivery.seconds_from_finish,
        }
    }

    fn problem(&self, problem: &RecentProblem) -> RunProblem {
        RunProblem {
            time: time(problem.at),
            namespace: problem.namespace.clone(),
            workflow: problem.workflow.clone(),
            uid: problem.uid.to_string(),
            subscription: problem.subscription.as_ref().map(ToString::to_string),
            reason: problem.reason,
            text: limited(&problem.text),
            trace_id: problem.trace_id.map(|id| id.to_string()),
            trace_url: problem.trace_id.and_then(|id| Some(self.trace_url.as_ref()?.of(id))),
        }
    }
}

fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

/// Limits the length of a text, and makes it one line.
pub(super) fn limited(text: &str) -> String {
    let line: String = text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() < text.len() { format!("{}…", line.trim_end()) } else { line }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}
