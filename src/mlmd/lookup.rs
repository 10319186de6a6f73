//! One lookup: which questions are asked, and in which order.
//!
//! ```text
//! 1  the run's context           by its likely form, then by the other
//! 2  its artifacts ‖ its executions
//! 3  the events of the artifacts that may be serving models ‖ the pipeline's name, if the Workflow has none
//! 4  the node of each execution that put out a model without a name (TFX only)
//! ```
//!
//! Each line is one round trip, or one a page. A run that put out no candidate ends after the second, most after the
//! third.
//!
//! A lookup that took long may have begun in one store and ended in another, which was set up empty or from a backup
//! meanwhile: that it found nothing proves nothing then. So it asks for the context once more.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use moka::future::Cache;
use tokio::time::Instant;
use tonic::Code;
use tracing::info;

use super::{
    client::Client,
    error,
    rules::{self, Candidates, Context, Executions, Form},
};
use crate::{
    delivery::LookupError,
    model::{ArtifactTypes, PipelineName, RunModels, Workflow},
};

/// No store is exchanged for another one within this time.
pub(super) const EXCHANGED: Duration = Duration::from_millis(500);
/// How many questions for nodes are open at a time.
const NODES_AT_ONCE: usize = 8;
/// How long the id of a type is believed: a store that was set up anew has other ones.
const TYPE_TTL: Duration = Duration::from_secs(600);
/// How many ids of types are remembered.
const TYPES: u64 = 1024;

/// Asks ML Metadata for a run's models.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    client: Client,
    /// The ids of types of artifacts, for servers that do not name the type of an artifact.
    type_ids: Cache<Box<str>, i64>,
}

impl Lookup {
    pub(super) fn new(client: Client) -> Self {
        Self { client, type_ids: Cache::builder().max_capacity(TYPES).time_to_live(TYPE_TTL).build() }
    }

    pub(super) async fn models(&self, run: &Workflow, types: &ArtifactTypes) -> Result<RunModels, LookupError> {
        let (form, context) = self.context(run).await?;
        let begun = Instant::now();
        rules::check_namespace(&context, run)?;
        let found = self.models_in(run, types, form, &context).await?;
        if found.models.is_empty() && begun.elapsed() >= EXCHANGED {
            match self.client.run_context(form, &context.name).await? {
                Some(now) if now.id == context.id => {}
                Some(_) => return Err(error::failed(Code::Aborted, "the store was exchanged during the lookup")),
                None => return Err(LookupError::NoContext),
            }
        }
        Ok(found)
    }

    async fn models_in(
        &self,
        run: &Workflow,
        types: &ArtifactTypes,
        form: Form,
        context: &Context,
    ) -> Result<RunModels, LookupError> {
        let mut candidates = Candidates::of(types);
        let mut executions = Executions::of(run);
        tokio::try_join!(
            self.client.artifacts(context.id, |artifact| candidates.add(artifact)),
            self.client.executions(context.id, |execution| executions.add(execution)),
        )?;
        if candidates.unresolved() {
            candidates.resolve(&self.type_ids(types).await?);
        }
        if candidates.gone() > 0 {
            info!(
                namespace = &*run.namespace,
                workflow = &*run.name,
                artifacts = candidates.gone(),
                "left out what is deleted, marked for deletion, or abandoned"
            );
        }
        let foreign_executions = executions.foreign();
        if executions.last().is_none() && foreign_executions == 0 {
            // Every run has executed something, and writes that down with its context or soon after: this is the record
            // of a run at its beginning, and no proof that it put nothing out.
            return Err(LookupError::NoContext);
        }
        let ids = candidates.ids();
        let (false, Some(last)) = (ids.is_empty(), executions.last()) else {
            return Ok(RunModels { foreign_executions, ..RunModels::default() });
        };

        // The contexts of an execution say the pipeline's name and the execution's node; nothing is asked twice.
        let mut contexts: BTreeMap<i64, Vec<Context>> = BTreeMap::new();
        let pipeline = async {
            Ok(match (&run.pipeline, form) {
                (PipelineName::Spec(_), _) => None,
                (_, Form::KfpV2) => rules::pipeline(form, &self.client.parents(context.id).await?),
                (_, Form::Tfx) => {
                    let of_last = contexts.entry(last).or_insert(self.client.contexts_of(last).await?);
                    rules::pipeline(form, of_last)
                }
            })
        };
        let (events, pipeline) = tokio::try_join!(self.client.events(&ids), pipeline)?;
        let mut models = rules::models(candidates, &events, &executions);

        let mut wanted = rules::nodes_wanted(form, &models);
        wanted.retain(|execution| !contexts.contains_key(execution));
        let asked = stream::iter(wanted)
            .map(async |execution| Ok::<_, LookupError>((execution, self.client.contexts_of(execution).await?)))
            .buffer_unordered(NODES_AT_ONCE);
        contexts.extend(asked.try_collect::<Vec<_>>().await?);
        for model in &mut models {
            if let Some(node) = contexts.get(&model.execution).and_then(|contexts| rules::node(contexts)) {
                model.artifact.node = node;
            }
        }
        let models = models.into_iter().map(|model| model.artifact).collect();
        Ok(RunModels { pipeline, models, foreign_executions })
    }

    async fn context(&self, run: &Workflow) -> Result<(Form, Context), LookupError> {
        for (form, name) in rules::forms(run) {
            if let Some(context) = self.client.run_context(form, &name).await? {
                return Ok((form, context));
            }
        }
        Err(LookupError::NoContext)
    }

    async fn type_ids<'a>(&self, types: &'a ArtifactTypes) -> Result<HashMap<i64, &'a str>, LookupError> {
        let mut names = HashMap::new();
        for name in types.names() {
            let id = match self.type_ids.get(name).await {
                Some(id) => Some(id),
                None => self.client.artifact_type(name).await?,
            };
            if let Some(id) = id {
                self.type_ids.insert(name.into(), id).await;
                names.insert(id, name);
            }
        }
        Ok(names)
    }
}
