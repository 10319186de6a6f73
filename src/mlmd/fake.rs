//! An in-memory ML Metadata server for tests: the generated service over in-memory pipes, so that time can be paused.
//! It answers from a store that the test fills, as the real server does, or with injected faults.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::select;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{DuplexStream, copy_bidirectional},
    sync::{Barrier, Notify, mpsc, watch},
};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

use super::{
    CONNECTION_WINDOW,
    endpoint::configured,
    method::Method,
    proto::{
        self, artifact, event,
        metadata_store_service_server::{MetadataStoreService, MetadataStoreServiceServer},
    },
};

/// The server's data.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) contexts: Vec<proto::Context>,
    /// By context.
    pub(super) artifacts: BTreeMap<i64, Vec<proto::Artifact>>,
    /// By context.
    pub(super) executions: BTreeMap<i64, Vec<proto::Execution>>,
    pub(super) events: Vec<proto::Event>,
    /// By child.
    pub(super) parents: BTreeMap<i64, Vec<i64>>,
    pub(super) artifact_types: BTreeMap<String, i64>,
}

/// A fault of a method.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Fails with this code.
    Status(tonic::Code),
    /// Responds after this time.
    Delay(Duration),
    /// Never responds.
    Hang,
    /// Responds when the barrier's number of calls are in flight.
    Barrier(Arc<Barrier>),
    /// Always returns the same token of the next page.
    RepeatedPage,
    /// Always returns a new token of a next page.
    EndlessPages,
    /// Responds without ids.
    NoIds,
}

/// The server. Clones share their state.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeServer(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    store: Mutex<Store>,
    faults: Mutex<HashMap<Method, Fault>>,
    calls: watch::Sender<Vec<Method>>,
    /// Calls without a response that the client still waits for.
    unanswered: watch::Sender<Vec<Method>>,
    disconnect: Notify,
}

/// A call that has no response yet. Dropped with the call, which the client may give up.
struct Unanswered<'a> {
    calls: &'a watch::Sender<Vec<Method>>,
    method: Method,
}

impl<'a> Unanswered<'a> {
    fn new(calls: &'a watch::Sender<Vec<Method>>, method: Method) -> Self {
        calls.send_modify(|calls| calls.push(method));
        Self { calls, method }
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.calls.send_modify(|calls| {
            let index = calls.iter().position(|call| *call == self.method);
            if let Some(index) = index {
                calls.swap_remove(index);
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeServer {
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.0.store)
    }

    /// Replaces the fault of a method.
    pub(super) fn inject(&self, method: Method, fault: Fault) {
        lock(&self.0.faults).insert(method, fault);
    }

    pub(super) fn clear_faults(&self) {
        lock(&self.0.faults).clear();
    }

    /// Returns the methods called since the last time, in order.
    pub(super) fn calls(&self) -> Vec<Method> {
        self.0.calls.send_replace(Vec::new())
    }

    /// Waits for a call of this method.
    pub(super) async fn until_called(&self, method: Method) {
        let mut calls = self.0.calls.subscribe();
        calls.wait_for(|calls| calls.contains(&method)).await.unwrap();
    }

    /// Waits until no client waits for a response to this method.
    pub(super) async fn until_given_up(&self, method: Method) {
        let mut unanswered = self.0.unanswered.subscribe();
        unanswered.wait_for(|calls| !calls.contains(&method)).await.unwrap();
    }

    /// Closes every connection.
    pub(super) fn disconnect(&self) {
        self.0.disconnect.notify_waiters();
    }

    /// Returns an endpoint with the settings of a real one.
    pub(super) fn endpoint() -> Endpoint {
        configured(Endpoint::from_static("http://fake:8080"), CONNECTION_WINDOW)
    }

    /// Returns a channel to this server, which connects on use.
    pub(super) fn channel(&self) -> Channel {
        let (accept, incoming) = mpsc::unbounded_channel::<DuplexStream>();
        let incoming = UnboundedReceiverStream::new(incoming).map(Ok::<_, io::Error>);
        let service = MetadataStoreServiceServer::new(self.clone());
        tokio::spawn(Server::builder().serve_with_incoming(service, incoming));
        let fake = self.clone();
        Self::endpoint().connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let (client, mut near) = tokio::io::duplex(64 * 1024);
            let (mut far, server) = tokio::io::duplex(64 * 1024);
            let accepted = accept.send(server).map_err(io::Error::other);
            let fake = fake.clone();
            tokio::spawn(async move {
                select(pin!(copy_bidirectional(&mut near, &mut far)), pin!(fake.0.disconnect.notified())).await;
            });
            async move { accepted.map(|()| TokioIo::new(client)) }
        }))
    }

    async fn respond<T>(
        &self,
        method: Method,
        response: impl FnOnce(&Store, Option<&Fault>) -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        self.0.calls.send_modify(|calls| calls.push(method));
        let _unanswered = Unanswered::new(&self.0.unanswered, method);
        let fault = lock(&self.0.faults).get(&method).cloned();
        match &fault {
            Some(Fault::Status(code)) => return Err(Status::new(*code, format!("injected {code:?}"))),
            Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Barrier(barrier)) => {
                barrier.wait().await;
            }
            Some(Fault::RepeatedPage | Fault::EndlessPages | Fault::NoIds) | None => {}
        }
        response(&self.store(), fault.as_ref()).map(Response::new)
    }
}

/// Returns one page of `rows`; the token is the index of the next page's first row.
fn page<T: Clone>(
    rows: Option<&Vec<T>>,
    options: Option<proto::ListOperationOptions>,
    fault: Option<&Fault>,
) -> Result<(Vec<T>, Option<String>), Status> {
    let rows = rows.map_or(&[][..], Vec::as_slice);
    let options = options.unwrap_or_default();
    let start = match options.next_page_token() {
        "" => 0,
        token => token.parse::<usize>().map_err(|_| Status::invalid_argument("unknown token"))?,
    };
    let end = (start + options.max_result_size() as usize).min(rows.len());
    let next = match fault {
        Some(Fault::RepeatedPage) => Some("1".to_owned()),
        Some(Fault::EndlessPages) => Some((start + 1).to_string()),
        _ if end < rows.len() => Some(end.to_string()),
        _ => None,
    };
    Ok((rows.get(start..end).unwrap_or_default().to_vec(), next))
}

/// Removes an id from each row, if the method has that fault.
fn remove_ids<T>(rows: &mut [T], fault: Option<&Fault>, id: fn(&mut T) -> &mut Option<i64>) {
    if let Some(Fault::NoIds) = fault {
        rows.iter_mut().for_each(|row| *id(row) = None);
    }
}

#[tonic::async_trait]
impl MetadataStoreService for FakeServer {
    async fn get_artifact_type(
        &self,
        request: Request<proto::GetArtifactTypeRequest>,
    ) -> Result<Response<proto::GetArtifactTypeResponse>, Status> {
        let name = request.into_inner().type_name.unwrap_or_default();
        self.respond(Method::GetArtifactType, |store, _| {
            let id = store.artifact_types.get(&name).ok_or_else(|| Status::not_found("No type found for query"))?;
            let artifact_type = Some(proto::ArtifactType { id: Some(*id), name: Some(name) });
            Ok(proto::GetArtifactTypeResponse { artifact_type })
        })
        .await
    }

    async fn get_context_by_type_and_name(
        &self,
        request: Request<proto::GetContextByTypeAndNameRequest>,
    ) -> Result<Response<proto::GetContextByTypeAndNameResponse>, Status> {
        let request = request.into_inner();
        self.respond(Method::GetContextByTypeAndName, |store, fault| {
            let mut of_type = store.contexts.iter().filter(|c| c.r#type == request.type_name);
            let mut context = of_type.find(|context| context.name == request.context_name).cloned();
            remove_ids(context.as_mut_slice(), fault, |context| &mut context.id);
            Ok(proto::GetContextByTypeAndNameResponse { context })
        })
        .await
    }

    async fn get_artifacts_by_context(
        &self,
        request: Request<proto::GetArtifactsByContextRequest>,
    ) -> Result<Response<proto::GetArtifactsByContextResponse>, Status> {
        let request = request.into_inner();
        self.respond(Method::GetArtifactsByContext, |store, fault| {
            let rows = store.artifacts.get(&request.context_id());
            let (mut artifacts, next_page_token) = page(rows, request.options, fault)?;
            remove_ids(&mut artifacts, fault, |artifact| &mut artifact.id);
            Ok(proto::GetArtifactsByContextResponse { artifacts, next_page_token })
        })
        .await
    }

    async fn get_executions_by_context(
        &self,
        request: Request<proto::GetExecutionsByContextRequest>,
    ) -> Result<Response<proto::GetExecutionsByContextResponse>, Status> {
        let request = request.into_inner();
        self.respond(Method::GetExecutionsByContext, |store, fault| {
            let rows = store.executions.get(&request.context_id());
            let (mut executions, next_page_token) = page(rows, request.options, fault)?;
            remove_ids(&mut executions, fault, |execution| &mut execution.id);
            Ok(proto::GetExecutionsByContextResponse { executions, next_page_token })
        })
        .await
    }

    async fn get_events_by_artifact_i_ds(
        &self,
        request: Request<proto::GetEventsByArtifactIDsRequest>,
    ) -> Result<Response<proto::GetEventsByArtifactIDsResponse>, Status> {
        let ids = request.into_inner().artifact_ids;
        self.respond(Method::GetEventsByArtifactIDs, |store, fault| {
            let requested = |event: &&proto::Event| ids.contains(&event.artifact_id());
            let mut events: Vec<_> = store.events.iter().filter(requested).cloned().collect();
            remove_ids(&mut events, fault, |event| &mut event.execution_id);
            Ok(proto::GetEventsByArtifactIDsResponse { events })
        })
        .await
    }

    async fn get_events_by_execution_i_ds(
        &self,
        request: Request<proto::GetEventsByExecutionIDsRequest>,
    ) -> Result<Response<proto::GetEventsByExecutionIDsResponse>, Status> {
        let ids = request.into_inner().execution_ids;
        self.respond(Method::GetEventsByExecutionIDs, |store, fault| {
            let requested = |event: &&proto::Event| ids.contains(&event.execution_id());
            let mut events: Vec<_> = store.events.iter().filter(requested).cloned().collect();
            remove_ids(&mut events, fault, |event| &mut event.execution_id);
            Ok(proto::GetEventsByExecutionIDsResponse { events })
        })
        .await
    }

    async fn get_contexts_by_execution(
        &self,
        request: Request<proto::GetContextsByExecutionRequest>,
    ) -> Result<Response<proto::GetContextsByExecutionResponse>, Status> {
        let id = request.into_inner().execution_id;
        self.respond(Method::GetContextsByExecution, |store, fault| {
            let associated = |context: &&proto::Context| {
                let executions = store.executions.get(&context.id());
                executions.is_some_and(|all| all.iter().any(|execution| execution.id == id))
            };
            let mut contexts: Vec<_> = store.contexts.iter().filter(associated).cloned().collect();
            remove_ids(&mut contexts, fault, |context| &mut context.id);
            Ok(proto::GetContextsByExecutionResponse { contexts })
        })
        .await
    }

    async fn get_parent_contexts_by_context(
        &self,
        request: Request<proto::GetParentContextsByContextRequest>,
    ) -> Result<Response<proto::GetParentContextsByContextResponse>, Status> {
        let child = request.into_inner().context_id();
        self.respond(Method::GetParentContextsByContext, |store, fault| {
            let parents = store.parents.get(&child).map_or(&[][..], Vec::as_slice);
            let mut contexts: Vec<_> = store.contexts.iter().filter(|c| parents.contains(&c.id())).cloned().collect();
            remove_ids(&mut contexts, fault, |context| &mut context.id);
            Ok(proto::GetParentContextsByContextResponse { contexts })
        })
        .await
    }
}

pub(super) fn int(value: i64) -> proto::Value {
    proto::Value { value: Some(proto::value::Value::IntValue(value)) }
}

pub(super) fn text(text: &str) -> proto::Value {
    proto::Value { value: Some(proto::value::Value::StringValue(text.to_owned())) }
}

impl Store {
    /// Adds a context and returns its id.
    pub(super) fn add_context(&mut self, type_name: &str, name: &str) -> i64 {
        let id = self.contexts.len() as i64 + 1;
        self.contexts.push(proto::Context {
            id: Some(id),
            name: Some(name.to_owned()),
            r#type: Some(type_name.to_owned()),
            ..Default::default()
        });
        id
    }

    /// Adds a Pusher's execution to these contexts.
    pub(super) fn add_execution(&mut self, id: i64, created_ms: i64, contexts: &[i64]) {
        self.add_execution_with(id, created_ms, contexts, |_| {});
    }

    /// Adds an execution like [`Store::add_execution`], with changes.
    pub(super) fn add_execution_with(
        &mut self,
        id: i64,
        created_ms: i64,
        contexts: &[i64],
        change: impl FnOnce(&mut proto::Execution),
    ) {
        let mut execution = proto::Execution {
            id: Some(id),
            r#type: Some("tfx.components.pusher.component.Pusher".to_owned()),
            create_time_since_epoch: Some(created_ms),
            ..Default::default()
        };
        change(&mut execution);
        for context in contexts {
            self.executions.entry(*context).or_default().push(execution.clone());
        }
    }

    /// Adds a blessed and named `PushedModel`, attributed to these contexts, that this execution produced.
    pub(super) fn add_model(&mut self, id: i64, execution: i64, contexts: &[i64]) {
        self.add_model_with(id, execution, contexts, |_| {});
    }

    /// Adds a model like [`Store::add_model`], with changes.
    pub(super) fn add_model_with(
        &mut self,
        id: i64,
        execution: i64,
        contexts: &[i64],
        change: impl FnOnce(&mut proto::Artifact),
    ) {
        let mut artifact = proto::Artifact {
            id: Some(id),
            r#type: Some("PushedModel".to_owned()),
            uri: Some(format!("gs://models/{id}")),
            state: Some(artifact::State::Live as i32),
            custom_properties: [("pushed".to_owned(), int(1)), ("name".to_owned(), text(&format!("model {id}")))]
                .into(),
            ..Default::default()
        };
        change(&mut artifact);
        for context in contexts {
            self.artifacts.entry(*context).or_default().push(artifact.clone());
        }
        self.add_event(id, execution, event::Type::Output);
    }

    pub(super) fn add_event(&mut self, artifact: i64, execution: i64, kind: event::Type) {
        let step = |value| event::path::Step { value: Some(value) };
        let key = event::path::step::Value::Key("pushed_model".to_owned());
        let steps = vec![step(key), step(event::path::step::Value::Index(0))];
        self.events.push(proto::Event {
            artifact_id: Some(artifact),
            execution_id: Some(execution),
            path: Some(event::Path { steps }),
            r#type: Some(kind as i32),
        });
    }
}
