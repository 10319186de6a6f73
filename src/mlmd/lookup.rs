//! The sequence of calls of one lookup.
//!
//! ```text
//! 1  the run's context           of the likely flavor, then of the others
//! 2  its artifacts ‖ its executions
//! 3  the events of the artifacts that may be serving models ‖ the pipeline's name, if the Workflow has none
//! 4  TFX only: the nodes of executions that may be of the same node, then of those that produced an unnamed model
//! ```
//!
//! Each line is one round trip, or one for each page. Where the context was asked ahead ([`super::ahead`]), the first
//! two are one, and the first three if its executions were, too. A run without candidates ends after the second line,
//! most runs end after the third. For a failed run only the pipeline's name is looked up.
//!
//! A slow lookup may begin in one store and end in another one, which was created empty or from a backup in between. If
//! such a lookup finds nothing, it verifies the context once more.

use std::{collections::HashMap, time::Duration};

use futures::{
    StreamExt, TryStreamExt,
    future::{try_join, try_join_all},
    stream,
};
use moka::sync::Cache;
use tokio::time::Instant;
use tonic::Code;
use tracing::info;

use super::{
    ahead::{self, Ahead, Expected},
    early::EarlyEvents,
    error::{CallCode, CallError},
    reader::Reader,
    rules::{self, Candidates, ContextNames, Executions, Outputs, Places, RunContext, RunFlavor, Verdicts},
};
use crate::{
    clock::WallClock,
    delivery::{KnownAhead, LookupError},
    lookup::client::Client,
    model::{ArtifactTypes, PipelineName, RunModels, RunOutcome, Workflow, event::MAX_PAYLOAD},
};

/// Shortest time in which a store can be replaced by another one.
pub(super) const MIN_STORE_REPLACEMENT: Duration = Duration::from_millis(500);
/// Time after the end of a run in which KFP v1's metadata-writer may not have recorded its outputs yet, in seconds. It
/// watches the Pods of the whole cluster and handles one at a time.
pub(super) const WRITER_DELAY: i64 = 60;
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
    clock: WallClock,
    ahead: Ahead,
    /// Ids of artifact types by name, for servers that do not return the names of types with artifacts.
    type_ids: Cache<Box<str>, i64>,
}

/// The contexts of executions.
type Contexts = HashMap<i64, ContextNames>;

/// The artifacts of a context that may be serving models, and its executions.
struct Listed<'a> {
    candidates: Candidates<'a>,
    executions: Executions,
    /// The events of the expected executions, if they were requested at the same time.
    early_events: Option<EarlyEvents<'a>>,
}

impl<'a> Listed<'a> {
    async fn of(
        reader: &Reader<'_>,
        run: &Workflow,
        types: &'a ArtifactTypes,
        context: &RunContext,
        verdicts: &mut dyn Verdicts,
    ) -> Result<Self, CallError> {
        let mut candidates = Candidates::of(types);
        let mut executions = Executions::of(run, context);
        tokio::try_join!(
            reader.artifacts(context.id, |artifact| candidates.add(artifact, verdicts)),
            reader.executions(context.id, |execution| executions.add(execution)),
        )?;
        Ok(Self { candidates, executions, early_events: None })
    }
}

impl Lookup {
    pub(super) fn new(client: Client, clock: WallClock, ahead: Ahead) -> Self {
        let type_ids = Cache::builder().max_capacity(TYPE_IDS).time_to_live(TYPE_ID_TTL).build();
        Self { client, clock, ahead, type_ids }
    }

    /// Asks for what is expected of a run that has not ended.
    pub(super) async fn ahead(&self, run: &Workflow) -> Result<KnownAhead, LookupError> {
        let reader = Reader::new(&self.client, &run.namespace);
        let expected = match self.ahead.get(run.uid) {
            Some(expected) => expected,
            None => {
                let context = find_context(&reader, run, 1).await?;
                rules::check_namespace(&context, run)?;
                self.ahead.found(run.uid, context)
            }
        };
        if !ahead::are_recorded_early(&expected.context) {
            return Ok(KnownAhead::All);
        }
        Ok(self.ahead.listed(run.uid, &expected, reader.execution_ids(expected.context.id).await?))
    }

    /// Looks up the models of a run. Its context may be the `expected` one, about whose artifacts there are no
    /// verdicts.
    pub(super) async fn models(
        &self,
        run: &Workflow,
        types: &ArtifactTypes,
        expected: Option<&Expected>,
        verdicts: &mut dyn Verdicts,
    ) -> Result<RunModels, LookupError> {
        let reader = Reader::new(&self.client, &run.namespace);
        let mut started = Instant::now();
        let mut early = None;
        let expected =
            expected.filter(|_| run.succeeded()).and_then(|expected| Some((expected, expected.context.place(run)?)));
        let context = match expected {
            Some((expected, place)) => {
                let confirmed = async {
                    // The flavors that precede the expected one would be preferred to it.
                    match find_context(&reader, run, place + 1).await {
                        Ok(context) if context == expected.context => Ok(context),
                        other => Err(other),
                    }
                };
                let listed = async { Ok(Listed::of(&reader, run, types, &expected.context, &mut ()).await) };
                // Any other answer ends the listings. Boxed, because it is large, and most lookups expect no context.
                let listings = EarlyEvents::beside(&reader, &expected.executions, try_join(confirmed, listed));
                let (joined, early_events) = Box::pin(listings).await;
                self.ahead.used(joined.is_ok());
                match joined {
                    Ok((context, listed)) => {
                        early = Some(Listed { early_events, ..listed? });
                        context
                    }
                    Err(other) => {
                        drop(early_events);
                        reader.reset();
                        started = Instant::now();
                        other?
                    }
                }
            }
            None => {
                let context = find_context(&reader, run, 1).await?;
                started = Instant::now();
                context
            }
        };
        verdicts.context(&context);
        rules::check_namespace(&context, run)?;
        if run.outcome() == Some(RunOutcome::Failed) {
            return Ok(RunModels {
                pipeline: pipeline_of_failed(&reader, run, &context).await?,
                ..RunModels::default()
            });
        }
        let listed = match early {
            Some(listed) => listed,
            None => Listed::of(&reader, run, types, &context, verdicts).await?,
        };
        let found = self.models_in(&reader, run, types, &context, listed, verdicts).await?;
        if found.models.is_empty() {
            if started.elapsed() >= MIN_STORE_REPLACEMENT {
                verify(&reader, &context).await?;
            }
            if context.flavor == RunFlavor::KfpV1 && self.clock.now() < run.finished.saturating_add(WRITER_DELAY) {
                return Err(LookupError::NoContext);
            }
        }
        Ok(found)
    }

    /// Asks for a context that no run has.
    pub(super) async fn probe(&self) -> Result<(), LookupError> {
        let namespace = "".into();
        let reader = Reader::new(&self.client, &namespace);
        reader.run_context(RunFlavor::Tfx, "model-update-eventsource-check").await?;
        Ok(())
    }

    async fn models_in(
        &self,
        reader: &Reader<'_>,
        run: &Workflow,
        types: &ArtifactTypes,
        context: &RunContext,
        listed: Listed<'_>,
        verdicts: &mut dyn Verdicts,
    ) -> Result<RunModels, LookupError> {
        let Listed { mut candidates, executions, mut early_events } = listed;
        if candidates.has_unnamed_types() {
            if early_events.take().is_some() {
                // Nothing would poll this answer during the calls below, of which there may be as many as the tenant
                // configures types. It would keep bytes of its budget and of the connection's window, past its timeout.
                self.ahead.events_used(false);
            }
            candidates.resolve_types(&self.type_names(reader, types).await?, verdicts);
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
        let (false, Some(latest)) = (candidates.is_empty(), executions.latest()) else {
            candidates.exclude_all(verdicts);
            return Ok(RunModels { foreign_executions, ..RunModels::default() });
        };

        // The contexts of an execution name both the pipeline and the node. They are requested once.
        let mut contexts = Contexts::new();
        let mut outputs = Outputs::of(&executions);
        let ids = candidates.ids();
        reader.keep(ids.len() * size_of::<i64>())?;
        let pipeline = async {
            if matches!(*run.pipeline, PipelineName::Spec(_)) {
                return Ok(None);
            }
            pipeline_name(reader, run, context, Some(latest), &mut contexts).await
        };
        let events = async {
            if let Some(early) = early_events {
                let early = early.outputs_of(&ids, &executions).await;
                self.ahead.events_used(early.is_some());
                if let Some(early) = early {
                    return early.add_to(&ids, |event| reader.keep(outputs.add(event, verdicts)));
                }
            }
            reader.events(&ids, |event| outputs.add(event, verdicts)).await
        };
        let ((), pipeline) = tokio::try_join!(events, pipeline)?;

        if context.flavor == RunFlavor::Tfx {
            request_contexts(reader, rules::ambiguous_executions(&executions, &outputs), &mut contexts).await?;
        }
        let places = Places::of(&executions, &nodes(&contexts));
        let mut models = rules::select(candidates, &outputs, &executions, &places, verdicts);
        rules::drop_shared_names(&mut models);
        request_contexts(reader, rules::executions_naming_models(context.flavor, &models), &mut contexts).await?;
        for model in &mut models {
            if let Some(node) = contexts.get(&model.execution).and_then(ContextNames::node) {
                model.artifact.node = node;
            }
        }
        rules::distinguish(&mut models, &places);
        let models: Vec<_> = models.into_iter().map(|model| model.artifact).collect();
        let texts = models.iter().map(|model| model.uri.len() + model.name.as_deref().map_or(0, str::len));
        if texts.sum::<usize>() > MAX_PAYLOAD {
            // They are all part of the payload.
            return Err(
                CallError::too_large(format!("the models' names and locations exceed {MAX_PAYLOAD} bytes")).into()
            );
        }
        Ok(RunModels { pipeline, models, foreign_executions })
    }

    /// Returns the names of these types by id, as far as the store has the types.
    async fn type_names<'a>(
        &self,
        reader: &Reader<'_>,
        types: &'a ArtifactTypes,
    ) -> Result<HashMap<i64, &'a str>, CallError> {
        let mut names = HashMap::new();
        for name in types.names() {
            let id = match self.type_ids.get(name) {
                Some(id) => Some(id),
                None => reader.artifact_type(name).await?,
            };
            if let Some(id) = id {
                self.type_ids.insert(name.into(), id);
                names.insert(id, name);
            }
        }
        Ok(names)
    }
}

/// Returns the run's context. The first flavors, this number, are asked for at the same time.
async fn find_context(reader: &Reader<'_>, run: &Workflow, together: usize) -> Result<RunContext, LookupError> {
    let contexts = rules::run_contexts(run);
    let (first, others) = contexts.split_at(together);
    let first = try_join_all(first.iter().map(|(flavor, name)| reader.run_context(*flavor, name))).await?;
    if let Some(context) = first.into_iter().flatten().next() {
        return Ok(context);
    }
    for (flavor, name) in others {
        if let Some(context) = reader.run_context(*flavor, name).await? {
            return Ok(context);
        }
    }
    Err(LookupError::NoContext)
}

/// Fails if the store no longer has this context.
async fn verify(reader: &Reader<'_>, context: &RunContext) -> Result<(), LookupError> {
    let current = reader.run_context(context.flavor, &context.name).await?.ok_or(LookupError::NoContext)?;
    if current.id != context.id {
        let message = "the store was replaced during the lookup".to_owned();
        return Err(CallError { code: CallCode::Grpc(Code::Aborted), message }.into());
    }
    Ok(())
}

/// Returns the pipeline's name. `latest` is the run's latest execution.
async fn pipeline_name(
    reader: &Reader<'_>,
    run: &Workflow,
    context: &RunContext,
    latest: Option<i64>,
    contexts: &mut Contexts,
) -> Result<Option<std::sync::Arc<str>>, CallError> {
    let names = match (context.flavor, latest) {
        (RunFlavor::KfpV2, _) => reader.parents(context.id).await?,
        (RunFlavor::Tfx, Some(latest)) => {
            request_contexts(reader, vec![latest], contexts).await?;
            contexts[&latest].clone()
        }
        (RunFlavor::Tfx, None) | (RunFlavor::KfpV1, _) => return Ok(None),
    };
    Ok(names.pipeline(context.flavor, &run.namespace))
}

/// Returns the name of a failed run's pipeline, which is all that its event contains.
async fn pipeline_of_failed(
    reader: &Reader<'_>,
    run: &Workflow,
    context: &RunContext,
) -> Result<Option<std::sync::Arc<str>>, CallError> {
    let mut executions = Executions::of(run, context);
    if context.flavor == RunFlavor::Tfx {
        reader.executions(context.id, |execution| executions.add(execution)).await?;
    }
    pipeline_name(reader, run, context, executions.latest(), &mut Contexts::new()).await
}

/// Requests the contexts of these executions that are missing.
async fn request_contexts(reader: &Reader<'_>, executions: Vec<i64>, contexts: &mut Contexts) -> Result<(), CallError> {
    let missing: Vec<i64> = executions.into_iter().filter(|execution| !contexts.contains_key(execution)).collect();
    let requests = stream::iter(missing)
        .map(async |execution| Ok::<_, CallError>((execution, reader.contexts_of(execution).await?)))
        .buffer_unordered(CONCURRENT_NODES);
    contexts.extend(requests.try_collect::<Vec<_>>().await?);
    Ok(())
}

fn nodes(contexts: &Contexts) -> HashMap<i64, Box<str>> {
    contexts.iter().filter_map(|(execution, names)| Some((*execution, names.node()?))).collect()
}
