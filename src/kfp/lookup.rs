//! The sequence of calls of one lookup.
//!
//! ```text
//! 1  ListTasks   the run's tasks with their artifacts, all pages
//! 2  GetRun      only where the Workflow lacks the pipeline's name, and there is a model
//! ```
//!
//! Pages are separate transactions, but nothing is written after a run has succeeded.

use std::sync::Arc;

use tonic::Code;
use tracing::warn;

use super::{
    LookupMetrics,
    client::{Client, GET_RUN, LIST_TASKS},
    convert, proto,
    rules::{Selection, Tasks, Verdicts},
    spec::SpecReader,
};
use crate::{
    clock::WallClock,
    delivery::LookupError,
    lookup::{
        allowance::Allowance,
        error::{CallCode, CallError, excerpt},
        pages::{PageSizes, Pages},
        wire::fields,
    },
    model::{Artifact, ArtifactTypes, PipelineName, RunId, RunModels, RunOutcome, Workflow, event::MAX_PAYLOAD},
};

/// Tasks of a page. The server cuts larger numbers to 200.
const PAGE_SIZES: PageSizes = [200, 10, 1];
/// Maximum size of a run with its specification and its tasks, in bytes.
const MAX_RUN: usize = 32 * 1024 * 1024;
/// Attempts of a listing whose page tokens the server refuses.
const LISTINGS: usize = 3;

/// The answer of a server that knows tasks, about one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The run has tasks.
    Tasks,
    /// There is no task of the run. A server for one user says so about runs that it does not know.
    NoTask,
    /// There is no such run (NOT_FOUND): a server for several users, which looks for the run before it reviews the
    /// token.
    UnknownRun,
}

/// Looks up the models of runs.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    client: Client,
    clock: WallClock,
    metrics: LookupMetrics,
}

impl Lookup {
    pub(super) fn new(client: Client, clock: WallClock, metrics: LookupMetrics) -> Self {
        Self { client, clock, metrics }
    }

    pub(super) async fn models(
        &self,
        run: &Workflow,
        types: &ArtifactTypes,
        verdicts: &mut dyn Verdicts,
    ) -> Result<RunModels, LookupError> {
        let Some(run_id) = run.run_id.as_ref().filter(|id| !id.is_empty()) else {
            return Err(LookupError::NoContext);
        };
        if run.outcome() == Some(RunOutcome::Failed) {
            let pipeline = self.pipeline_of_failed(run, run_id, verdicts).await?;
            return Ok(RunModels { pipeline, ..RunModels::default() });
        }
        let current = self.client.current();
        let mut listings = 0;
        // The allowance lives as long as what is kept.
        let (selection, _allowance) = loop {
            listings += 1;
            let allowance = Allowance::new(&current.memory, &current.hits, &run.namespace);
            let mut tasks = Tasks::of(run, types);
            verdicts.begin();
            match self.list(&run.namespace, run_id, &allowance, |row| add(&mut tasks, row, verdicts)).await {
                Err(CallError { code: CallCode::Grpc(Code::FailedPrecondition), .. }) if listings < LISTINGS => {}
                Err(error) => return Err(unknown_or(error)),
                Ok(()) => break (tasks.select(self.clock.now(), verdicts)?, allowance),
            }
        };
        let Selection { models, older_tasks, foreign_models } = selection;
        if foreign_models > 0 {
            self.metrics.foreign.inc_by(foreign_models as u64);
            warn!(
                namespace = &*run.namespace,
                workflow = &*run.name,
                models = foreign_models,
                "ignoring models of other namespaces in the record of a run"
            );
        }
        let name = |model: &Artifact| model.name.as_deref().map_or(model.node.len() + model.key.len(), str::len);
        let texts = models.iter().map(|model| model.uri.len() + name(model));
        if texts.sum::<usize>() > MAX_PAYLOAD {
            // They are all part of the payload.
            return Err(LookupError::TooLarge);
        }
        let pipeline = match *run.pipeline {
            PipelineName::Unknown if !models.is_empty() => self.pipeline(run, run_id).await?,
            _ => None,
        };
        Ok(RunModels { pipeline, models, foreign_executions: older_tasks })
    }

    /// Returns the name of a failed run's pipeline, which is all that its event contains. A run does not say whose it
    /// is, and its id is a label that its tenant sets. So an artifact has to say it; where there is none, the name of a
    /// Pod, which begins with the Workflow's.
    async fn pipeline_of_failed(
        &self,
        run: &Workflow,
        run_id: &RunId,
        verdicts: &mut dyn Verdicts,
    ) -> Result<Option<Arc<str>>, LookupError> {
        let current = self.client.current();
        let allowance = Allowance::new(&current.memory, &current.hits, &run.namespace);
        let (mut is_known, mut is_own, mut foreign) = (false, false, None);
        let listed = self.list(&run.namespace, run_id, &allowance, |row| {
            verdicts.task(&convert::task(row)?);
            is_known = true;
            convert::namespaces(row, |namespace| match namespace {
                "" => is_own = true,
                namespace if *namespace == *run.namespace => is_own = true,
                namespace => foreign = Some(excerpt(namespace)),
            })?;
            convert::pods(row, |pod| {
                is_own |= pod.strip_prefix(&*run.name).is_some_and(|rest| rest.starts_with('-'));
            })?;
            Ok(0)
        });
        listed.await.map_err(unknown_or)?;
        match (is_known, is_own, foreign) {
            (false, ..) => Err(LookupError::NoContext),
            (true, _, Some(namespace)) => Err(LookupError::ForeignContext { namespace }),
            (true, true, None) if *run.pipeline == PipelineName::Unknown => self.pipeline(run, run_id).await,
            _ => Ok(None),
        }
    }

    /// Asks for the tasks of a run, without reading more than one. The server knows tasks if it says anything about it.
    pub(super) async fn probe(&self, namespace: &Arc<str>, run_id: &str) -> Result<Probe, LookupError> {
        let request =
            proto::ListTasksRequest { run_id: run_id.to_owned(), page_size: 1, ..proto::ListTasksRequest::default() };
        let answer = self.client.call(namespace, LIST_TASKS, request, |message| {
            let mut is_empty = true;
            fields(message, |number, field| {
                if number == 1 {
                    is_empty = convert::task(field.bytes()?)?.run_id != run_id;
                }
                Ok(())
            })?;
            Ok(if is_empty { Probe::NoTask } else { Probe::Tasks })
        });
        match answer.await {
            Err(CallError { code: CallCode::Grpc(Code::NotFound), .. }) => Ok(Probe::UnknownRun),
            answer => answer.map_err(Into::into),
        }
    }

    /// Passes every task of the run. `add` returns the bytes that it keeps.
    async fn list(
        &self,
        namespace: &Arc<str>,
        run_id: &RunId,
        allowance: &Allowance<'_>,
        mut add: impl FnMut(&[u8]) -> Result<usize, CallError>,
    ) -> Result<(), CallError> {
        let run_id = run_id.to_string();
        let current = self.client.current();
        let mut pages = Pages::of(LIST_TASKS, namespace, &current.page_sizes, PAGE_SIZES);
        while let Some(page) = pages.next() {
            let request = proto::ListTasksRequest {
                run_id: run_id.clone(),
                page_size: page.rows,
                page_token: page.token.unwrap_or_default(),
                ..proto::ListTasksRequest::default()
            };
            let answer = self.client.call(namespace, LIST_TASKS, request, |message| {
                allowance.read(message.len())?;
                convert::page(message, &run_id, |row| allowance.keep(add(row)?))
            });
            match answer.await {
                Err(CallError { code: CallCode::TooLarge, .. }) if allowance.is_within_limits() && pages.shrink() => {}
                answer => pages.turn(answer?)?,
            }
        }
        Ok(())
    }

    /// Returns the name in the specification of the run's pipeline. A run of a shared pipeline version may have none.
    async fn pipeline(&self, run: &Workflow, run_id: &RunId) -> Result<Option<Arc<str>>, LookupError> {
        let mut reader = SpecReader::default();
        let request = proto::GetRunRequest {
            run_id: run_id.to_string(),
            view: Some(proto::get_run_request::ViewMode::Full.into()),
        };
        let call = self.client.call_streamed(&run.namespace, GET_RUN, request, MAX_RUN, |piece| reader.read(piece));
        call.await.map_err(unknown_or)?;
        let (found, name) = reader.finish();
        if found.as_deref() != Some(&*run_id.to_string()) {
            return Err(CallError::malformed("the response is another run").into());
        }
        Ok(name.map(Into::into))
    }
}

/// Adds a task with its outputs.
pub(super) fn add(tasks: &mut Tasks<'_>, row: &[u8], verdicts: &mut dyn Verdicts) -> Result<usize, CallError> {
    let task = convert::task(row)?;
    let (mut kept, matters) = tasks.add(&task, verdicts);
    if verdicts.wants_all() {
        convert::every_link(row, |relation, link, artifact| {
            tasks.judge(&task, relation, link, &convert::artifact(artifact)?, verdicts);
            Ok(())
        })?;
    }
    if !matters {
        return Ok(kept);
    }
    // The place of an artifact is that among all artifacts of its key.
    let mut order = Vec::new();
    convert::outputs(row, |link, artifact| {
        let (created, id) = convert::artifact_order(artifact)?;
        order.push((link.key, link.iteration, created, id));
        Ok(())
    })?;
    order.sort_unstable();
    convert::outputs(row, |link, artifact| {
        let artifact = convert::artifact(artifact)?;
        let first = order.partition_point(|other| (other.0, other.1) < (link.key, link.iteration));
        let own = (link.key, link.iteration, artifact.created, artifact.id);
        let index = order.partition_point(|other| *other < own) - first;
        kept += tasks.add_output(&task, link, index as i64, &artifact);
        Ok(())
    })?;
    Ok(kept)
}

/// NOT_FOUND means that the server does not know the run.
fn unknown_or(error: CallError) -> LookupError {
    match error.code {
        CallCode::Grpc(Code::NotFound) => LookupError::NoContext,
        _ => error.into(),
    }
}
