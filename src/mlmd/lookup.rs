//! The sequence of calls of one lookup.
//!
//! ```text
//! 1  the run's context           of the likely flavor, then of the other one
//! 2  its artifacts ‖ its executions
//! 3  the events of the artifacts that may be serving models ‖ the pipeline's name, if the Workflow has none
//! 4  the node of each execution that produced a model without a name (TFX only)
//! ```
//!
//! Each line is one round trip, or one for each page. A run without candidates ends after the second line, most runs
//! end after the third.
//!
//! A slow lookup may begin in one store and end in another one, which was created empty or from a backup in between. If
//! such a lookup finds nothing, it verifies the context once more.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use moka::sync::Cache;
use tokio::time::Instant;
use tonic::Code;
use tracing::info;

use super::{
    client::Client,
    error::{CallCode, CallError},
    rules::{self, Candidates, Context, Executions, RunFlavor},
};
use crate::{
    delivery::LookupError,
    model::{ArtifactTypes, PipelineName, RunModels, Workflow},
};

/// Shortest time in which a store can be replaced by another one.
pub(super) const MIN_STORE_REPLACEMENT: Duration = Duration::from_millis(500);
/// Concurrent requests for nodes.
const CONCURRENT_NODES: usize = 8;
/// Time for which the id of a type is cached: a store that was created anew has other ids.
const TYPE_ID_TTL: Duration = Duration::from_secs(600);
/// Maximum number of cached type ids.
const TYPE_IDS: u64 = 1024;

/// Looks up the models of runs.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    client: Client,
    /// Ids of artifact types by name, for servers that do not return the names of types with artifacts.
    type_ids: Cache<Box<str>, i64>,
}

impl Lookup {
    pub(super) fn new(client: Client) -> Self {
        Self { client, type_ids: Cache::builder().max_capacity(TYPE_IDS).time_to_live(TYPE_ID_TTL).build() }
    }

    pub(super) async fn models(&self, run: &Workflow, types: &ArtifactTypes) -> Result<RunModels, LookupError> {
        let (flavor, context) = self.context(run).await?;
        let started = Instant::now();
        rules::check_namespace(&context, run)?;
        let found = self.models_in(run, types, flavor, &context).await?;
        if found.models.is_empty() && started.elapsed() >= MIN_STORE_REPLACEMENT {
            self.verify(flavor, &context).await?;
        }
        Ok(found)
    }

    async fn context(&self, run: &Workflow) -> Result<(RunFlavor, Context), LookupError> {
        for (flavor, name) in rules::run_contexts(run) {
            if let Some(context) = self.client.run_context(flavor, &name).await? {
                return Ok((flavor, context));
            }
        }
        Err(LookupError::NoContext)
    }

    /// Fails if the store no longer has this context.
    async fn verify(&self, flavor: RunFlavor, context: &Context) -> Result<(), LookupError> {
        let current = self.client.run_context(flavor, &context.name).await?.ok_or(LookupError::NoContext)?;
        if current.id != context.id {
            let message = "the store was replaced during the lookup".to_owned();
            return Err(CallError { code: CallCode::Grpc(Code::Aborted), message }.into());
        }
        Ok(())
    }

    async fn models_in(
        &self,
        run: &Workflow,
        types: &ArtifactTypes,
        flavor: RunFlavor,
        context: &Context,
    ) -> Result<RunModels, LookupError> {
        let mut candidates = Candidates::of(types);
        let mut executions = Executions::of(run);
        tokio::try_join!(
            self.client.artifacts(context.id, |artifact| candidates.add(artifact)),
            self.client.executions(context.id, |execution| executions.add(execution)),
        )?;
        if candidates.has_unnamed_types() {
            candidates.resolve_types(&self.type_names(types).await?);
        }
        if candidates.removed() > 0 {
            info!(
                namespace = &*run.namespace,
                workflow = &*run.name,
                artifacts = candidates.removed(),
                "ignoring deleted or abandoned models"
            );
        }
        let foreign_executions = executions.foreign_count();
        if executions.latest().is_none() && foreign_executions == 0 {
            // Every run executes something and records it with its context or soon after. So this is the record of a
            // run that has just begun, and no proof that the run produced nothing.
            return Err(LookupError::NoContext);
        }
        let ids = candidates.ids();
        let (false, Some(latest)) = (ids.is_empty(), executions.latest()) else {
            return Ok(RunModels { foreign_executions, ..RunModels::default() });
        };

        // The contexts of an execution name both the pipeline and the node. They are requested once.
        let mut contexts: BTreeMap<i64, Vec<Context>> = BTreeMap::new();
        let pipeline = async {
            Ok(match (&run.pipeline, flavor) {
                (PipelineName::Spec(_), _) => None,
                (_, RunFlavor::KfpV2) => rules::pipeline_name(flavor, &self.client.parents(context.id).await?),
                (_, RunFlavor::Tfx) => {
                    let of_latest = contexts.entry(latest).or_insert(self.client.contexts_of(latest).await?);
                    rules::pipeline_name(flavor, of_latest)
                }
            })
        };
        let (events, pipeline) = tokio::try_join!(self.client.events(&ids), pipeline)?;
        let mut models = rules::models(candidates, &events, &executions);

        let mut missing = rules::executions_naming_models(flavor, &models);
        missing.retain(|execution| !contexts.contains_key(execution));
        let requests = stream::iter(missing)
            .map(async |execution| Ok::<_, CallError>((execution, self.client.contexts_of(execution).await?)))
            .buffer_unordered(CONCURRENT_NODES);
        contexts.extend(requests.try_collect::<Vec<_>>().await?);
        for model in &mut models {
            if let Some(node) = contexts.get(&model.execution).and_then(|contexts| rules::node_name(contexts)) {
                model.artifact.node = node;
            }
        }
        let models = models.into_iter().map(|model| model.artifact).collect();
        Ok(RunModels { pipeline, models, foreign_executions })
    }

    /// Returns the names of these types by id, as far as the store has the types.
    async fn type_names<'a>(&self, types: &'a ArtifactTypes) -> Result<HashMap<i64, &'a str>, CallError> {
        let mut names = HashMap::new();
        for name in types.names() {
            let id = match self.type_ids.get(name) {
                Some(id) => Some(id),
                None => self.client.artifact_type(name).await?,
            };
            if let Some(id) = id {
                self.type_ids.insert(name.into(), id);
                names.insert(id, name);
            }
        }
        Ok(names)
    }
}
