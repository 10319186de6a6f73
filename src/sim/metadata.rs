//! A small ML Metadata server: the calls of `proto/metadata_store.proto`. `tests/sim` holds it to version 1.17. It
//! differs in that every listing has a single page.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde_json::Value as Json;
use tonic::{Request, Response, Status};

pub(super) use self::proto::metadata_store_service_server::MetadataStoreServiceServer;
use self::proto::{
    event::{Path, path::Step, path::step},
    metadata_store_service_server::MetadataStoreService,
    value::Value as AnyValue,
    *,
};
use super::builders::{Model, Run, RunContext, Task, Written};

mod proto {
    #![allow(missing_docs, unreachable_pub, dead_code, clippy::all, reason = "generated")]
    tonic::include_proto!("ml_metadata");
}

/// The server's rows.
#[derive(Default)]
pub(super) struct Metadata(Mutex<Store>);

/// Ids grow from 1 in the order of creation.
#[derive(Default)]
struct Store {
    last_id: i64,
    types: BTreeMap<String, i64>,
    contexts: BTreeMap<i64, Context>,
    /// The parent of a context.
    parents: BTreeMap<i64, i64>,
    artifacts: BTreeMap<i64, Artifact>,
    tasks: Vec<StoredTask>,
}

struct StoredTask {
    contexts: Vec<i64>,
    execution: Execution,
    events: Vec<Event>,
}

impl Metadata {
    /// Writes the contexts of a run. Returns the id of its own.
    pub(super) fn put_run(&self, run: &Run) -> i64 {
        self.store().put_run(run)[0]
    }

    pub(super) fn put_task(&self, run: &Run, task: Task) -> Written {
        self.store().put_task(run, task)
    }

    pub(super) fn forget(&self, run: &Run) {
        self.store().forget(run);
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    fn context(&self, type_name: &str, name: &str) -> Option<&Context> {
        self.contexts.values().find(|context| context.r#type() == type_name && context.name() == name)
    }

    /// Returns the ids of the run's context and of its pipeline's.
    fn put_run(&mut self, run: &Run) -> Vec<i64> {
        let ids: Vec<i64> = run.contexts().into_iter().map(|context| self.put_context(context)).collect();
        if run.has_parent() {
            self.parents.insert(ids[0], ids[1]);
        }
        ids
    }

    /// Writes a task. Artifacts that it only read are attributed to the run, too, as the real clients do.
    fn put_task(&mut self, run: &Run, task: Task) -> Written {
        let mut contexts = self.put_run(run);
        contexts.extend(run.node_context(&task).map(|context| self.put_context(context)));
        let (type_name, properties) = run.execution(&task);
        let execution = Execution {
            id: Some(self.next_id()),
            type_id: Some(self.type_id(&type_name)),
            r#type: Some(type_name),
            last_known_state: Some(task.state),
            custom_properties: values(&properties),
            create_time_since_epoch: Some(Timestamp::now().as_millisecond()),
            ..Execution::default()
        };
        let mut events = Vec::new();
        for event in task.events {
            let key = event.model.key.clone();
            let properties = run.artifact_properties(&event.model);
            let steps = [step::Value::Key(key), step::Value::Index(event.index)];
            events.push(Event {
                artifact_id: Some(self.put_artifact(event.model, &properties)),
                execution_id: execution.id,
                path: Some(Path { steps: steps.map(|value| Step { value: Some(value) }).into() }),
                r#type: Some(event.event_type),
            });
        }
        let artifacts = events.iter().map(Event::artifact_id).collect();
        let written = Written { execution: execution.id(), artifacts };
        self.tasks.push(StoredTask { contexts, execution, events });
        written
    }

    /// Removes a run, and the artifacts that no other run has.
    fn forget(&mut self, run: &Run) {
        let [RunContext { context_type, name, .. }, _] = run.contexts();
        let Some(id) = self.context(context_type, &name).map(Context::id) else { return };
        self.contexts.remove(&id);
        self.parents.remove(&id);
        self.tasks.retain(|task| !task.contexts.contains(&id));
        let used: BTreeSet<i64> = self.tasks.iter().flat_map(|task| &task.events).map(Event::artifact_id).collect();
        self.artifacts.retain(|id, _| used.contains(id));
    }

    /// Returns the id of a context, which is created if it does not exist.
    fn put_context(&mut self, new: RunContext) -> i64 {
        if let Some(context) = self.context(new.context_type, &new.name) {
            return context.id();
        }
        let id = self.next_id();
        let context = Context {
            id: Some(id),
            type_id: Some(self.type_id(new.context_type)),
            r#type: Some(new.context_type.to_owned()),
            name: Some(new.name),
            custom_properties: values(&new.properties),
            create_time_since_epoch: Some(Timestamp::now().as_millisecond()),
            ..Context::default()
        };
        self.contexts.insert(id, context);
        id
    }

    fn put_artifact(&mut self, model: Model, properties: &Json) -> i64 {
        if let Some(id) = model.existing {
            return id;
        }
        let id = self.next_id();
        let artifact = Artifact {
            id: Some(id),
            type_id: Some(self.type_id(&model.artifact_type)),
            r#type: Some(model.artifact_type),
            uri: Some(model.uri),
            name: model.name,
            custom_properties: values(properties),
            state: Some(artifact::State::Live.into()),
            ..Artifact::default()
        };
        self.artifacts.insert(id, artifact);
        id
    }

    fn type_id(&mut self, name: &str) -> i64 {
        let next = self.next_id();
        *self.types.entry(name.to_owned()).or_insert(next)
    }

    fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    fn tasks_of(&self, context: i64) -> impl Iterator<Item = &StoredTask> {
        self.tasks.iter().filter(move |task| task.contexts.contains(&context))
    }
}

fn values(properties: &Json) -> HashMap<String, Value> {
    let value = |value: &Json| match value.as_i64() {
        Some(number) => AnyValue::IntValue(number),
        None => AnyValue::StringValue(value.as_str().unwrap_or_default().to_owned()),
    };
    let properties = properties.as_object().into_iter().flatten();
    properties.map(|(key, property)| (key.clone(), Value { value: Some(value(property)) })).collect()
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl MetadataStoreService for Metadata {
    async fn get_artifact_type(&self, request: Request<GetArtifactTypeRequest>) -> Answer<GetArtifactTypeResponse> {
        let name = request.into_inner().type_name.unwrap_or_default();
        let Some(id) = self.store().types.get(&name).copied() else {
            return Err(Status::not_found(format!("No type found for query, name: `{name}`, version: `nullopt`")));
        };
        let artifact_type = Some(ArtifactType { id: Some(id), name: Some(name) });
        Ok(Response::new(GetArtifactTypeResponse { artifact_type }))
    }

    async fn get_context_by_type_and_name(
        &self,
        request: Request<GetContextByTypeAndNameRequest>,
    ) -> Answer<GetContextByTypeAndNameResponse> {
        let request = request.into_inner();
        let context = self.store().context(request.type_name(), request.context_name()).cloned();
        Ok(Response::new(GetContextByTypeAndNameResponse { context }))
    }

    async fn get_artifacts_by_context(
        &self,
        request: Request<GetArtifactsByContextRequest>,
    ) -> Answer<GetArtifactsByContextResponse> {
        let store = self.store();
        let events = store.tasks_of(request.into_inner().context_id()).flat_map(|task| &task.events);
        let ids: BTreeSet<i64> = events.map(Event::artifact_id).collect();
        let artifacts = ids.iter().filter_map(|id| store.artifacts.get(id)).cloned().collect();
        Ok(Response::new(GetArtifactsByContextResponse { artifacts, next_page_token: None }))
    }

    async fn get_executions_by_context(
        &self,
        request: Request<GetExecutionsByContextRequest>,
    ) -> Answer<GetExecutionsByContextResponse> {
        let store = self.store();
        let executions = store.tasks_of(request.into_inner().context_id()).map(|task| task.execution.clone()).collect();
        Ok(Response::new(GetExecutionsByContextResponse { executions, next_page_token: None }))
    }

    async fn get_events_by_artifact_i_ds(
        &self,
        request: Request<GetEventsByArtifactIDsRequest>,
    ) -> Answer<GetEventsByArtifactIDsResponse> {
        let ids = request.into_inner().artifact_ids;
        let store = self.store();
        let events = store.tasks.iter().flat_map(|task| &task.events);
        let events = events.filter(|event| ids.contains(&event.artifact_id())).cloned().collect();
        Ok(Response::new(GetEventsByArtifactIDsResponse { events }))
    }

    async fn get_events_by_execution_i_ds(
        &self,
        request: Request<GetEventsByExecutionIDsRequest>,
    ) -> Answer<GetEventsByExecutionIDsResponse> {
        let ids = request.into_inner().execution_ids;
        let store = self.store();
        let tasks = store.tasks.iter().filter(|task| ids.contains(&task.execution.id()));
        let events = tasks.flat_map(|task| &task.events).cloned().collect();
        Ok(Response::new(GetEventsByExecutionIDsResponse { events }))
    }

    async fn get_contexts_by_execution(
        &self,
        request: Request<GetContextsByExecutionRequest>,
    ) -> Answer<GetContextsByExecutionResponse> {
        let id = request.into_inner().execution_id();
        let store = self.store();
        let Some(task) = store.tasks.iter().find(|task| task.execution.id() == id) else {
            return Err(Status::not_found(format!("No contexts found for execution_id: {id}")));
        };
        let contexts = task.contexts.iter().filter_map(|id| store.contexts.get(id)).cloned().collect();
        Ok(Response::new(GetContextsByExecutionResponse { contexts }))
    }

    async fn get_parent_contexts_by_context(
        &self,
        request: Request<GetParentContextsByContextRequest>,
    ) -> Answer<GetParentContextsByContextResponse> {
        let store = self.store();
        let parent = store.parents.get(&request.into_inner().context_id());
        let contexts = parent.and_then(|id| store.contexts.get(id)).cloned().into_iter().collect();
        Ok(Response::new(GetParentContextsByContextResponse { contexts }))
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Channel;

    use super::{super::Sim, proto::metadata_store_service_client::MetadataStoreServiceClient, *};

    #[tokio::test]
    async fn forgetting_a_run_keeps_what_other_runs_have() {
        let sim = Sim::start().await.unwrap();
        let mut client = MetadataStoreServiceClient::connect(sim.metadata_url()).await.unwrap();
        let (first, second) = (Run::kfp_v2("penguin", "1", "team"), Run::kfp_v2("penguin", "2", "team"));
        let written = sim.put_task(&first, Task::pusher("gs://models/1").output(Model::pushed("gs://models/2")));
        sim.put_task(&second, Task::new("Evaluator").input(Model::existing(written.artifacts[1], "model")));
        let contexts = [sim.put_run(&first), sim.put_run(&second)];
        sim.forget_run(&first);
        assert_eq!(counts(&mut client, contexts[0]).await, (0, 0));
        assert_eq!(counts(&mut client, contexts[1]).await, (1, 1));
    }

    /// The numbers of artifacts and executions of a context.
    async fn counts(client: &mut MetadataStoreServiceClient<Channel>, context: i64) -> (usize, usize) {
        let request = GetArtifactsByContextRequest { context_id: Some(context), options: None };
        let artifacts = client.get_artifacts_by_context(request).await.unwrap().into_inner().artifacts;
        let request = GetExecutionsByContextRequest { context_id: Some(context), options: None };
        let executions = client.get_executions_by_context(request).await.unwrap().into_inner().executions;
        (artifacts.len(), executions.len())
    }
}
