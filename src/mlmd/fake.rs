//! An ML Metadata server inside a test: the generated service over pipes in memory, so that paused time is the only
//! time there is. It holds what the test puts in, answers as the real one does, and fails as the test wants.

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

use super::proto::{
    self, artifact, event,
    metadata_store_service_server::{MetadataStoreService, MetadataStoreServiceServer},
};

/// What the server holds.
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

/// How a method misbehaves.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// It fails.
    Status(tonic::Code),
    /// It answers later.
    After(Duration),
    /// It never answers.
    Never,
    /// It answers when as many calls as the barrier wants are under way together.
    Together(Arc<Barrier>),
    /// It always names the same next page.
    SamePage,
    /// It always names yet another page.
    EndlessPages,
    /// What it sends lacks its ids.
    NoIds,
}

/// Cheap to clone; all clones are one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Fake(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    store: Mutex<Store>,
    faults: Mutex<HashMap<&'static str, Fault>>,
    calls: watch::Sender<Vec<&'static str>>,
    hang_up: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fake {
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.0.store)
    }

    pub(super) fn misbehave(&self, method: &'static str, fault: Fault) {
        lock(&self.0.faults).insert(method, fault);
    }

    pub(super) fn behave(&self) {
        lock(&self.0.faults).clear();
    }

    /// The methods called since the last time, in their order.
    pub(super) fn calls(&self) -> Vec<&'static str> {
        self.0.calls.send_replace(Vec::new())
    }

    /// Waits for a call of this method.
    pub(super) async fn until_called(&self, method: &str) {
        let mut calls = self.0.calls.subscribe();
        calls.wait_for(|calls| calls.contains(&method)).await.unwrap();
    }

    /// Ends every connection.
    pub(super) fn hang_up(&self) {
        self.0.hang_up.notify_waiters();
    }

    /// A channel to this server, which connects when it is used.
    pub(super) fn channel(&self) -> Channel {
        let (accept, incoming) = mpsc::unbounded_channel::<DuplexStream>();
        let incoming = UnboundedReceiverStream::new(incoming).map(Ok::<_, io::Error>);
        let service = MetadataStoreServiceServer::new(self.clone());
        tokio::spawn(Server::builder().serve_with_incoming(service, incoming));
        let fake = self.clone();
        Endpoint::from_static("http://fake").connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let (client, mut near) = tokio::io::duplex(64 * 1024);
            let (mut far, server) = tokio::io::duplex(64 * 1024);
            let accepted = accept.send(server).map_err(io::Error::other);
            let fake = fake.clone();
            tokio::spawn(async move {
                select(pin!(copy_bidirectional(&mut near, &mut far)), pin!(fake.0.hang_up.notified())).await;
            });
            async move { accepted.map(|()| TokioIo::new(client)) }
        }))
    }

    async fn answer<T>(
        &self,
        method: &'static str,
        answer: impl FnOnce(&Store, Option<&Fault>) -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        self.0.calls.send_modify(|calls| calls.push(method));
        let fault = lock(&self.0.faults).get(method).cloned();
        match &fault {
            Some(Fault::Status(code)) => return Err(Status::new(*code, format!("played {code:?}"))),
            Some(Fault::After(time)) => tokio::time::sleep(*time).await,
            Some(Fault::Never) => std::future::pending().await,
            Some(Fault::Together(barrier)) => {
                barrier.wait().await;
            }
            Some(Fault::SamePage | Fault::EndlessPages | Fault::NoIds) | None => {}
        }
        answer(&self.store(), fault.as_ref()).map(Response::new)
    }
}

/// One page out of `rows`; the token is where the next one begins.
fn page<T: Clone>(
    rows: Option<&Vec<T>>,
    options: Option<proto::ListOperationOptions>,
    fault: Option<&Fault>,
) -> Result<(Vec<T>, Option<String>), Status> {
    let rows = rows.map_or(&[][..], Vec::as_slice);
    let options = options.unwrap_or_default();
    let begin = match options.next_page_token() {
        "" => 0,
        token => token.parse::<usize>().map_err(|_| Status::invalid_argument("no token of mine"))?,
    };
    let end = (begin + options.max_result_size() as usize).min(rows.len());
    let next = match fault {
        Some(Fault::SamePage) => Some("1".to_owned()),
        Some(Fault::EndlessPages) => Some((begin + 1).to_string()),
        _ if end < rows.len() => Some(end.to_string()),
        _ => None,
    };
    Ok((rows.get(begin..end).unwrap_or_default().to_vec(), next))
}

#[tonic::async_trait]
impl MetadataStoreService for Fake {
    async fn get_artifact_type(
        &self,
        request: Request<proto::GetArtifactTypeRequest>,
    ) -> Result<Response<proto::GetArtifactTypeResponse>, Status> {
        let name = request.into_inner().type_name.unwrap_or_default();
        self.answer("GetArtifactType", |store, _| {
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
        self.answer("GetContextByTypeAndName", |store, fault| {
            let mut same = store.contexts.iter().filter(|c| c.r#type == request.type_name);
            let mut context = same.find(|context| context.name == request.context_name).cloned();
            if let (Some(context), Some(Fault::NoIds)) = (&mut context, fault) {
                context.id = None;
            }
            Ok(proto::GetContextByTypeAndNameResponse { context })
        })
        .await
    }

    async fn get_artifacts_by_context(
        &self,
        request: Request<proto::GetArtifactsByContextRequest>,
    ) -> Result<Response<proto::GetArtifactsByContextResponse>, Status> {
        let request = request.into_inner();
        self.answer("GetArtifactsByContext", |store, fault| {
            let (mut artifacts, next_page_token) =
                page(store.artifacts.get(&request.context_id()), request.options, fault)?;
            if let Some(Fault::NoIds) = fault {
                artifacts.iter_mut().for_each(|artifact| artifact.id = None);
            }
            Ok(proto::GetArtifactsByContextResponse { artifacts, next_page_token })
        })
        .await
    }

    async fn get_executions_by_context(
        &self,
        request: Request<proto::GetExecutionsByContextRequest>,
    ) -> Result<Response<proto::GetExecutionsByContextResponse>, Status> {
        let request = request.into_inner();
        self.answer("GetExecutionsByContext", |store, fault| {
            let (mut executions, next_page_token) =
                page(store.executions.get(&request.context_id()), request.options, fault)?;
            if let Some(Fault::NoIds) = fault {
                executions.iter_mut().for_each(|execution| execution.id = None);
            }
            Ok(proto::GetExecutionsByContextResponse { executions, next_page_token })
        })
        .await
    }

    async fn get_events_by_artifact_i_ds(
        &self,
        request: Request<proto::GetEventsByArtifactIDsRequest>,
    ) -> Result<Response<proto::GetEventsByArtifactIDsResponse>, Status> {
        let ids = request.into_inner().artifact_ids;
        self.answer("GetEventsByArtifactIDs", |store, fault| {
            let wanted = |event: &&proto::Event| ids.contains(&event.artifact_id());
            let mut events: Vec<_> = store.events.iter().filter(wanted).cloned().collect();
            if let Some(Fault::NoIds) = fault {
                events.iter_mut().for_each(|event| event.execution_id = None);
            }
            Ok(proto::GetEventsByArtifactIDsResponse { events })
        })
        .await
    }

    async fn get_contexts_by_execution(
        &self,
        request: Request<proto::GetContextsByExecutionRequest>,
    ) -> Result<Response<proto::GetContextsByExecutionResponse>, Status> {
        let id = request.into_inner().execution_id;
        self.answer("GetContextsByExecution", |store, fault| {
            let of = |context: &&proto::Context| {
                let executions = store.executions.get(&context.id());
                executions.is_some_and(|all| all.iter().any(|execution| execution.id == id))
            };
            let mut contexts: Vec<_> = store.contexts.iter().filter(of).cloned().collect();
            if let Some(Fault::NoIds) = fault {
                contexts.iter_mut().for_each(|context| context.id = None);
            }
            Ok(proto::GetContextsByExecutionResponse { contexts })
        })
        .await
    }

    async fn get_parent_contexts_by_context(
        &self,
        request: Request<proto::GetParentContextsByContextRequest>,
    ) -> Result<Response<proto::GetParentContextsByContextResponse>, Status> {
        let child = request.into_inner().context_id();
        self.answer("GetParentContextsByContext", |store, fault| {
            let parents = store.parents.get(&child).map_or(&[][..], Vec::as_slice);
            let mut contexts: Vec<_> = store.contexts.iter().filter(|c| parents.contains(&c.id())).cloned().collect();
            if let Some(Fault::NoIds) = fault {
                contexts.iter_mut().for_each(|context| context.id = None);
            }
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
    /// Adds a context and gives its id.
    pub(super) fn context(&mut self, type_name: &str, name: &str) -> i64 {
        let id = self.contexts.len() as i64 + 1;
        self.contexts.push(proto::Context {
            id: Some(id),
            name: Some(name.to_owned()),
            r#type: Some(type_name.to_owned()),
            ..Default::default()
        });
        id
    }

    /// Adds an execution to these contexts.
    pub(super) fn execution(&mut self, id: i64, created: i64, contexts: &[i64]) {
        for context in contexts {
            self.executions.entry(*context).or_default().push(proto::Execution {
                id: Some(id),
                r#type: Some("tfx.components.pusher.component.Pusher".to_owned()),
                create_time_since_epoch: Some(created),
                ..Default::default()
            });
        }
    }

    /// Adds a blessed and named model of the type `PushedModel` that this execution put out, attributed to these
    /// contexts, and lets the test change it.
    pub(super) fn model(&mut self, id: i64, by: i64, contexts: &[i64], change: impl FnOnce(&mut proto::Artifact)) {
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
        self.event(id, by, event::Type::Output);
    }

    pub(super) fn event(&mut self, artifact: i64, execution: i64, kind: event::Type) {
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
