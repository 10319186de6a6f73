//! `explain`: why a run's event arrived, has not arrived yet, or never will.
//!
//! - [`decision`]: the rules, in the order of the server and with its own functions
//! - [`subscriptions`]: the subscriptions that a run may be for
//! - [`server`]: the server's own word
//! - [`sources`]: the answers of the sources of models
//! - [`story`]: the result, as documented in `docs/tools.md`
//!
//! The Workflow, the EventSources and the sources of models are read with the rights of the person who asks, so that
//! all of it works while the server is down.

pub mod decision;
pub mod server;
pub mod sources;
pub mod story;
pub mod subscriptions;
mod superseded;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt as _, stream};

use self::{
    decision::{Circumstances, Decision, Newer, ServerWord, Status},
    server::ServerReport,
    sources::{Failures, Sources, UNAVAILABLE},
    story::{RunStory, Story},
    subscriptions::{Entry, Known, Subscriptions},
    superseded::Lanes,
};
use super::{ARGO, DEFAULT_SELECTOR, list_widely, names::NamedSubscription};
use crate::{
    clock::WallClock,
    delivery::Explained,
    k8s::{Cluster, ClusterError, WorkflowQuery},
    model::{ArtifactTypes, RunModels, Workflow},
};

/// Runs that are looked up at once.
const CONCURRENT_RUNS: usize = 8;

/// Problems of EventSources that are noted one by one: other teams have some, too.
const MAX_PROBLEMS: usize = 20;

/// The options of an explanation.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The server's selector. `None`: what the server says, else its default.
    pub selector: Option<String>,
    /// The server has the flag `--skip-labelled`.
    pub skip_labelled: bool,
    /// Only the subscription of this name, with or without its scope.
    pub subscription: Option<NamedSubscription>,
    /// The clock.
    pub clock: WallClock,
}

/// Explains runs of a cluster at one point in time.
#[derive(Debug)]
pub struct Explainer {
    cluster: Cluster,
    sources: Sources,
    server: ServerReport,
    options: Options,
    entries: Vec<Entry>,
    notes: Vec<String>,
    failures: Failures,
    lanes: Lanes,
}

/// The runs that were asked for.
#[derive(Debug)]
pub struct Runs {
    /// The latest ones, newest first.
    pub runs: Vec<RunStory>,
    /// Number of older ones.
    pub left_out: usize,
}

/// The lookups of one run by the types of artifacts that count.
type Lookups = HashMap<Arc<ArtifactTypes>, Explained>;

impl Explainer {
    /// Reads the EventSources that have runs of this namespace, or of all. Those that cannot be read are noted.
    pub async fn new(
        cluster: Cluster,
        sources: Sources,
        server: ServerReport,
        namespace: Option<&str>,
        options: Options,
    ) -> Result<Self, ClusterError> {
        let (objects, mut notes) = event_sources(&cluster, namespace).await?;
        let (entries, problems) = subscriptions::entries(&objects);
        let more = problems.len().saturating_sub(MAX_PROBLEMS);
        notes.extend(problems.into_iter().take(MAX_PROBLEMS));
        if more > 0 {
            notes.push(format!(
                "{more} more EventSources have a configuration that the server refuses; `check` names them"
            ));
        }
        if let Some(namespace) = namespace.filter(|namespace| server.excludes(namespace)) {
            notes.push(format!("the server at {} does not serve the namespace {namespace}", server.place()));
        }
        Ok(Self {
            cluster,
            sources,
            server,
            options,
            entries,
            notes,
            failures: Failures::default(),
            lanes: Lanes::default(),
        })
    }

    /// Notes about what could not be read, or is wrong, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The report of the server about itself.
    pub fn server(&self) -> &ServerReport {
        &self.server
    }

    /// Explains a run. `None` if there is no Workflow of this name.
    ///
    /// # Errors
    /// The Workflow cannot be read.
    pub async fn run(&self, namespace: &str, name: &str) -> Result<Option<Story>, ClusterError> {
        let Some(found) = self.cluster.workflow(namespace, name).await? else { return Ok(None) };
        let run = found.workflow;
        let selected = self.selected(&run).await?;
        let subscriptions = self.subscriptions(namespace, [&run]);
        let known = subscriptions.for_run(&run);
        let others = if known.iter().any(|known| known.subscription.latest_only) {
            self.listed(Some(namespace)).await?
        } else {
            Vec::new()
        };
        let mut lookups = Lookups::new();
        if decision::needs_lookup(&run) {
            for known in &known {
                self.look_up(&run, &known.subscription.artifact_types, &mut lookups).await;
            }
        }
        let mut decided = Vec::new();
        let unselected_by = (!selected.matches).then(|| self.selector());
        for known in known {
            let circumstances = self.circumstances(&run, &known, unselected_by);
            let mut decision = self.decide(&run, &known, &others, &mut lookups, &circumstances).await;
            let newer = self.superseded_by_mark(&run, &known, &decision, &others, &mut lookups, Some(&selected.object));
            if let Some(newer) = newer.await {
                decision = decision::superseded(&newer);
            }
            decided.push((known, decision));
        }
        let blocked = decided.iter().find_map(|(known, decision)| {
            if (decision.status, decision.reason) != (Status::Pending, UNAVAILABLE) {
                return None;
            }
            let source = lookups.get(&known.subscription.artifact_types)?.source;
            Some(format!("{source} cannot be read: {}", self.sources.missing_right(source)?))
        });
        Ok(Some(Story::new(&run, &decided, &lookups, self, blocked)))
    }

    /// Explains the last runs of a namespace, or of all.
    ///
    /// # Errors
    /// The Workflows cannot be listed.
    pub async fn runs(&self, namespace: Option<&str>, limit: usize) -> Result<Runs, ClusterError> {
        let mut by_namespace: BTreeMap<Arc<str>, Vec<Workflow>> = BTreeMap::new();
        for run in self.listed(namespace).await? {
            by_namespace.entry(run.namespace.clone()).or_default().push(run);
        }
        let subscriptions: HashMap<&str, Subscriptions> =
            by_namespace.iter().map(|(namespace, runs)| (&**namespace, self.subscriptions(namespace, runs))).collect();
        let mut runs: Vec<&Workflow> = by_namespace.values().flatten().collect();
        // Those that run come first, because they end last.
        let end = |run: &Workflow| if run.outcome().is_some() { run.finished } else { i64::MAX };
        runs.sort_by_key(|run| std::cmp::Reverse((end(run), run.created, run.uid)));
        let left_out = runs.len().saturating_sub(limit);
        runs.truncate(limit);
        let explained = stream::iter(runs).map(async |run: &Workflow| {
            let known = subscriptions[&*run.namespace].for_run(run);
            self.explain_briefly(run, known, &by_namespace[&run.namespace]).await
        });
        Ok(Runs { runs: explained.buffered(CONCURRENT_RUNS).collect().await, left_out })
    }

    async fn explain_briefly(&self, run: &Workflow, known: Vec<Known>, others: &[Workflow]) -> RunStory {
        let mut lookups = Lookups::new();
        let mut decided = Vec::new();
        for known in known {
            let circumstances = self.circumstances(run, &known, None);
            let mut decision = self.decide(run, &known, others, &mut lookups, &circumstances).await;
            let newer = self.superseded_by_mark(run, &known, &decision, others, &mut lookups, None);
            if let Some(newer) = newer.await {
                decision = decision::superseded(&newer);
            }
            decided.push((known, decision));
        }
        RunStory::new(run, &decided, &lookups)
    }

    /// Decides about a run and a subscription, with a lookup where the decision needs one.
    async fn decide(
        &self,
        run: &Workflow,
        known: &Known,
        others: &[Workflow],
        lookups: &mut Lookups,
        circumstances: &Circumstances<'_>,
    ) -> Decision {
        let subscription = &known.subscription;
        if let Some(decision) = decision::before_lookup(run, subscription, circumstances) {
            return decision;
        }
        let found = if decision::needs_lookup(run) {
            let Explained { source, found, .. } = self.look_up(run, &subscription.artifact_types, lookups).await;
            match found {
                Ok(found) => found.clone(),
                Err(error) => return decision::failed_lookup(run, *source, error, circumstances.now),
            }
        } else {
            RunModels::default()
        };
        let newer = self.newest_delivered(run, &found, subscription, others).await;
        decision::after_lookup(run, subscription, &found, newer.as_ref(), circumstances)
    }

    fn circumstances<'a>(&'a self, run: &Workflow, known: &Known, unselected_by: Option<&'a str>) -> Circumstances<'a> {
        let server = match known.source {
            subscriptions::Source::Assumed => match self.server.word(run, &known.subscription) {
                ServerWord::Unknown => ServerWord::Unknown,
                _ => ServerWord::NoStream,
            },
            _ => self.server.word(run, &known.subscription),
        };
        Circumstances {
            now: self.options.clock.now(),
            skip_labelled: self.options.skip_labelled,
            unselected_by,
            server,
        }
    }

    fn subscriptions<'a>(&self, namespace: &str, runs: impl IntoIterator<Item = &'a Workflow>) -> Subscriptions {
        let marks = runs.into_iter().flat_map(|run| &run.marks);
        let marks: HashSet<String> = marks.map(|mark| mark.subscription.to_string()).collect();
        let only = self.options.subscription.as_ref();
        Subscriptions::of(namespace, &self.entries, &self.server.streams(), &marks, only)
    }

    async fn look_up<'a>(&self, run: &Workflow, types: &Arc<ArtifactTypes>, lookups: &'a mut Lookups) -> &'a Explained {
        if !lookups.contains_key(types) {
            let explained = self.ask_sources(run, types).await;
            lookups.insert(types.clone(), explained);
        }
        &lookups[types]
    }

    async fn ask_sources(&self, run: &Workflow, types: &ArtifactTypes) -> Explained {
        self.sources.explain(run, types, &self.failures).await
    }

    fn selector(&self) -> &str {
        self.options.selector.as_deref().or(self.server.selector()).unwrap_or(DEFAULT_SELECTOR)
    }

    async fn listed(&self, namespace: Option<&str>) -> Result<Vec<Workflow>, ClusterError> {
        let query = WorkflowQuery { namespace, selector: self.selector() };
        Ok(self.cluster.workflows(query).await?.into_iter().map(|found| found.workflow).collect())
    }

    /// Returns whether the selector matches a Workflow, and the times of its marks.
    async fn selected(&self, run: &Workflow) -> Result<Selected, ClusterError> {
        let path = format!("{ARGO}/namespaces/{}/workflows", run.namespace);
        let field = format!("metadata.name={}", run.name);
        let query = [("fieldSelector", field.as_str()), ("labelSelector", self.selector())];
        match self.cluster.list(&path, &query).await {
            Ok(objects) => {
                Ok(Selected { matches: !objects.is_empty(), object: objects.into_iter().next().unwrap_or_default() })
            }
            // The right to get a Workflow does not contain that to list them.
            Err(error) if error.is_forbidden() => {
                let matches = self.selector() != DEFAULT_SELECTOR || run.run_id.is_some();
                Ok(Selected { matches, object: serde_json::Value::Null })
            }
            Err(error) => Err(error),
        }
    }
}

/// A Workflow in relation to the selector.
#[derive(Debug)]
struct Selected {
    matches: bool,
    /// The whole object, if it could be read.
    object: serde_json::Value,
}

/// Returns the EventSources of all namespaces, else those of this one, and what could not be read.
async fn event_sources(
    cluster: &Cluster,
    namespace: Option<&str>,
) -> Result<(Vec<serde_json::Value>, Vec<String>), ClusterError> {
    match list_widely(cluster, "eventsources", namespace).await {
        Ok((objects, None)) => Ok((objects, Vec::new())),
        Ok((objects, Some(_))) => {
            let namespace = namespace.unwrap_or_default();
            let elsewhere =
                format!("only the EventSources in the namespace {namespace} can be read, not those in others");
            Ok((objects, vec![elsewhere]))
        }
        Err(ClusterError::NotFound { .. }) => {
            Ok((Vec::new(), vec!["the cluster has no EventSources: Argo Events is not installed".to_owned()]))
        }
        Err(error) if error.is_unreadable() => {
            Ok((Vec::new(), vec![format!("EventSources cannot be read, so filters are not known: {error}")]))
        }
        Err(error) => Err(error),
    }
}
