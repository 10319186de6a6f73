//! A small ML Metadata server: the calls of `proto/metadata_store.proto`, answered as the implementation of version 1.17
//! answers them. `tests/sim` runs the same scenarios against both.

mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use self::store::Store;
use super::{
    connections,
    proto::{
        self, ListOperationOptions,
        metadata_store_service_server::{MetadataStoreService, MetadataStoreServiceServer},
    },
    runs::{Run, Task, Written},
};

/// A store, shared with the server that shows it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Metadata(Arc<Mutex<Store>>);

impl Metadata {
    pub(super) fn tfx_run(&self, pipeline: &str, workflow: &str) -> Run {
        self.store().tfx_run(pipeline, workflow)
    }

    pub(super) fn kfp_run(&self, pipeline: &str, run_id: &str, namespace: &str) -> Run {
        self.store().kfp_run(pipeline, run_id, namespace)
    }

    pub(super) fn task(&self, run: &Run, task: Task) -> Written {
        self.store().task(run, task)
    }

    pub(super) fn forget(&self, run: &Run) {
        self.store().forget(run);
    }

    /// Serves, and never ends; dropped, it takes all connections along.
    pub(super) async fn serve(self, listener: TcpListener) {
        let service = MetadataStoreServiceServer::new(self);
        let serve = |stream| {
            let service = TowerToHyperService::new(service.clone());
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service)
        };
        connections::accept(listener, serve).await;
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A page of the rows with these ids, in the order of the ids. Without options there is one page, with all of them. A
/// token is the last id of the page before.
fn page<T: Clone>(
    rows: &BTreeMap<i64, T>,
    ids: Option<&BTreeSet<i64>>,
    options: Option<ListOperationOptions>,
) -> Result<(Vec<T>, Option<String>), Status> {
    // What has no rows has no pages either, and odd options are not looked at.
    let Some(ids) = ids else { return Ok((Vec::new(), None)) };
    let (after, limit) = match options {
        None => (i64::MIN, usize::MAX),
        Some(options) => {
            let asked = options.max_result_size();
            let limit = usize::try_from(asked).ok().filter(|limit| *limit > 0).ok_or_else(|| {
                Status::invalid_argument(format!(
                    "max_result_size field value is required to be greater than 0 and less than or equal to 100. \
                     Set value:{asked}"
                ))
            })?;
            let after = match options.next_page_token() {
                "" => i64::MIN,
                token => token.parse().map_err(|_| Status::invalid_argument("Failed to parse next page token"))?,
            };
            // More than the hundred of the message are given all the same.
            (after, limit)
        }
    };
    let mut rest = ids.iter().filter(|id| **id > after).peekable();
    let ids: Vec<i64> = rest.by_ref().take(limit).copied().collect();
    let next = rest.peek().and(ids.last()).map(i64::to_string);
    Ok((ids.iter().filter_map(|id| rows.get(id)).cloned().collect(), next))
}

#[tonic::async_trait]
impl MetadataStoreService for Metadata {
    async fn get_artifact_type(
        &self,
        request: Request<proto::GetArtifactTypeRequest>,
    ) -> Result<Response<proto::GetArtifactTypeResponse>, Status> {
        let name = request.into_inner().type_name.unwrap_or_default();
        let Some(id) = self.store().artifact_type(&name) else {
            return Err(Status::not_found(format!("No type found for query, name: `{name}`, version: `nullopt`")));
        };
        let artifact_type = Some(proto::ArtifactType { id: Some(id), name: Some(name) });
        Ok(Response::new(proto::GetArtifactTypeResponse { artifact_type }))
    }

    async fn get_context_by_type_and_name(
        &self,
        request: Request<proto::GetContextByTypeAndNameRequest>,
    ) -> Result<Response<proto::GetContextByTypeAndNameResponse>, Status> {
        let request = request.into_inner();
        let context = self.store().context(request.type_name(), request.context_name()).cloned();
        Ok(Response::new(proto::GetContextByTypeAndNameResponse { context }))
    }

    async fn get_artifacts_by_context(
        &self,
        request: Request<proto::GetArtifactsByContextRequest>,
    ) -> Result<Response<proto::GetArtifactsByContextResponse>, Status> {
        let request = request.into_inner();
        let store = self.store();
        let ids = store.attributions.get(&request.context_id());
        let (artifacts, next_page_token) = page(&store.artifacts, ids, request.options)?;
        Ok(Response::new(proto::GetArtifactsByContextResponse { artifacts, next_page_token }))
    }

    async fn get_executions_by_context(
        &self,
        request: Request<proto::GetExecutionsByContextRequest>,
    ) -> Result<Response<proto::GetExecutionsByContextResponse>, Status> {
        let request = request.into_inner();
        let store = self.store();
        let ids = store.associations.get(&request.context_id());
        let (executions, next_page_token) = page(&store.executions, ids, request.options)?;
        Ok(Response::new(proto::GetExecutionsByContextResponse { executions, next_page_token }))
    }

    async fn get_events_by_artifact_i_ds(
        &self,
        request: Request<proto::GetEventsByArtifactIDsRequest>,
    ) -> Result<Response<proto::GetEventsByArtifactIDsResponse>, Status> {
        let ids: BTreeSet<i64> = request.into_inner().artifact_ids.into_iter().collect();
        let store = self.store();
        let events = store.events.iter().filter(|event| ids.contains(&event.artifact_id())).cloned().collect();
        Ok(Response::new(proto::GetEventsByArtifactIDsResponse { events }))
    }

    async fn get_contexts_by_execution(
        &self,
        request: Request<proto::GetContextsByExecutionRequest>,
    ) -> Result<Response<proto::GetContextsByExecutionResponse>, Status> {
        let id = request.into_inner().execution_id();
        let store = self.store();
        let of = store.associations.iter().filter(|(_, executions)| executions.contains(&id));
        let contexts: Vec<_> = of.filter_map(|(context, _)| store.contexts.get(context)).cloned().collect();
        if contexts.is_empty() {
            return Err(Status::not_found(format!("No contexts found for execution_id: {id}")));
        }
        Ok(Response::new(proto::GetContextsByExecutionResponse { contexts }))
    }

    async fn get_parent_contexts_by_context(
        &self,
        request: Request<proto::GetParentContextsByContextRequest>,
    ) -> Result<Response<proto::GetParentContextsByContextResponse>, Status> {
        let store = self.store();
        let parents = store.parents.get(&request.into_inner().context_id());
        let contexts = parents.into_iter().flatten().filter_map(|id| store.contexts.get(id)).cloned().collect();
        Ok(Response::new(proto::GetParentContextsByContextResponse { contexts }))
    }
}
