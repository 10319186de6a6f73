//! Writing to ML Metadata through its API. Every call is expected to succeed; [`Writer::client`] is for the others.

use std::collections::HashMap;

use tonic::transport::Channel;

use crate::ml_metadata::{
    Artifact, ArtifactType, Association, Attribution, Context, ContextType, Event, Execution, ExecutionType,
    GetContextByTypeAndNameRequest, ParentContext, PutArtifactTypeRequest, PutArtifactsRequest,
    PutAttributionsAndAssociationsRequest, PutContextTypeRequest, PutContextsRequest, PutEventsRequest,
    PutExecutionRequest, PutExecutionTypeRequest, PutExecutionsRequest, PutParentContextsRequest, Value,
    event::{Path, Type, path::Step},
    metadata_store_service_client::MetadataStoreServiceClient,
    put_execution_request::{ArtifactAndEvent, Options},
    value,
};

/// Properties by name.
pub type Properties = HashMap<String, Value>;

/// A client of a store.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The service itself.
    pub client: MetadataStoreServiceClient<Channel>,
}

/// An artifact and its event with an execution.
#[derive(Clone, Debug)]
pub struct Pair {
    /// A new artifact, or the id of an existing one.
    pub artifact: Artifact,
    /// Input or output, and how it came about.
    pub direction: Type,
    /// The name of the execution's input or output.
    pub key: String,
    /// The position under this key.
    pub index: i64,
}

/// Ids of a written execution and its artifacts.
#[derive(Clone, Debug)]
pub struct Written {
    /// The execution's id.
    pub execution: i64,
    /// The artifacts' ids, in the order of the pairs.
    pub artifacts: Vec<i64>,
}

impl Writer {
    pub(super) fn new(channel: Channel) -> Self {
        Self { client: MetadataStoreServiceClient::new(channel) }
    }

    /// Returns the id of the artifact type of this name, and creates it if it is absent. It has no properties:
    /// `custom_properties` need no declaration.
    pub async fn artifact_type(&self, name: &str) -> i64 {
        let artifact_type = ArtifactType { name: Some(name.to_owned()), ..ArtifactType::default() };
        let request = PutArtifactTypeRequest { artifact_type: Some(artifact_type) };
        let answer = self.client.clone().put_artifact_type(request).await.expect("PutArtifactType");
        answer.into_inner().type_id()
    }

    /// As [`Writer::artifact_type`].
    pub async fn execution_type(&self, name: &str) -> i64 {
        let execution_type = ExecutionType { name: Some(name.to_owned()), ..ExecutionType::default() };
        let request = PutExecutionTypeRequest { execution_type: Some(execution_type) };
        let answer = self.client.clone().put_execution_type(request).await.expect("PutExecutionType");
        answer.into_inner().type_id()
    }

    /// As [`Writer::artifact_type`].
    pub async fn context_type(&self, name: &str) -> i64 {
        let context_type = ContextType { name: Some(name.to_owned()), ..ContextType::default() };
        let request = PutContextTypeRequest { context_type: Some(context_type) };
        let answer = self.client.clone().put_context_type(request).await.expect("PutContextType");
        answer.into_inner().type_id()
    }

    /// Returns the id of the context of this type and name.
    pub async fn find_context(&self, type_name: &str, name: &str) -> Option<i64> {
        let request = GetContextByTypeAndNameRequest {
            type_name: Some(type_name.to_owned()),
            context_name: Some(name.to_owned()),
        };
        let answer = self.client.clone().get_context_by_type_and_name(request).await;
        answer.expect("GetContextByTypeAndName").into_inner().context.map(|context| context.id())
    }

    /// Returns the id of the context of this type and name, and creates it with these properties if it is absent.
    pub async fn context(&self, type_name: &str, name: &str, custom_properties: Properties) -> i64 {
        if let Some(id) = self.find_context(type_name, name).await {
            return id;
        }
        let type_id = Some(self.context_type(type_name).await);
        let context = Context { type_id, name: Some(name.to_owned()), custom_properties, ..Context::default() };
        let request = PutContextsRequest { contexts: vec![context] };
        self.client.clone().put_contexts(request).await.expect("PutContexts").into_inner().context_ids[0]
    }

    /// Makes one context the parent of another.
    pub async fn parent(&self, child: i64, parent: i64) {
        let link = ParentContext { child_id: Some(child), parent_id: Some(parent) };
        let request = PutParentContextsRequest { parent_contexts: vec![link] };
        self.client.clone().put_parent_contexts(request).await.expect("PutParentContexts");
    }

    /// Writes an artifact, without an execution, and returns its id.
    pub async fn artifact(&self, artifact: Artifact) -> i64 {
        let request = PutArtifactsRequest { artifacts: vec![artifact] };
        self.client.clone().put_artifacts(request).await.expect("PutArtifacts").into_inner().artifact_ids[0]
    }

    /// Writes an execution with its artifacts and events into existing contexts, in one transaction.
    pub async fn execution(&self, execution: Execution, pairs: Vec<Pair>, contexts: &[i64]) -> Written {
        let request = PutExecutionRequest {
            execution: Some(execution),
            artifact_event_pairs: pairs.into_iter().map(Pair::into_proto).collect(),
            contexts: Vec::new(),
            options: Some(Options { reuse_context_if_already_exist: Some(true) }),
        };
        let answer = self.client.clone().put_execution(request).await.expect("PutExecution").into_inner();
        let written = Written { execution: answer.execution_id(), artifacts: answer.artifact_ids };
        self.add_to_contexts(contexts.iter().map(|&context| (context, &written))).await;
        written
    }

    /// Creates contexts and returns their ids.
    pub(super) async fn contexts(&self, contexts: Vec<Context>) -> Vec<i64> {
        let answer = self.client.clone().put_contexts(PutContextsRequest { contexts }).await;
        answer.expect("PutContexts").into_inner().context_ids
    }

    /// Creates executions and returns their ids.
    pub(super) async fn executions(&self, executions: Vec<Execution>) -> Vec<i64> {
        let answer = self.client.clone().put_executions(PutExecutionsRequest { executions }).await;
        answer.expect("PutExecutions").into_inner().execution_ids
    }

    /// Creates artifacts and returns their ids.
    pub(super) async fn artifacts(&self, artifacts: Vec<Artifact>) -> Vec<i64> {
        let answer = self.client.clone().put_artifacts(PutArtifactsRequest { artifacts }).await;
        answer.expect("PutArtifacts").into_inner().artifact_ids
    }

    /// Writes an output event with this key for each execution and its artifacts.
    pub(super) async fn output_events(&self, key: &str, written: &[Written]) {
        let events = written.iter().flat_map(|written| {
            written.artifacts.iter().map(|&artifact| Event {
                execution_id: Some(written.execution),
                artifact_id: Some(artifact),
                ..event(Type::Output, key, 0)
            })
        });
        let request = PutEventsRequest { events: events.collect() };
        self.client.clone().put_events(request).await.expect("PutEvents");
    }

    /// Adds each execution and its artifacts to a context.
    pub(super) async fn add_to_contexts(&self, written: impl Iterator<Item = (i64, &Written)>) {
        let mut request = PutAttributionsAndAssociationsRequest::default();
        for (context, written) in written {
            let context_id = Some(context);
            request.associations.push(Association { execution_id: Some(written.execution), context_id });
            let attribution = |&artifact: &i64| Attribution { artifact_id: Some(artifact), context_id };
            request.attributions.extend(written.artifacts.iter().map(attribution));
        }
        let answer = self.client.clone().put_attributions_and_associations(request).await;
        answer.expect("PutAttributionsAndAssociations");
    }
}

impl Pair {
    fn into_proto(self) -> ArtifactAndEvent {
        let mut event = event(self.direction, &self.key, self.index);
        // The event names an existing artifact; the artifact beside it would overwrite its properties.
        if let Some(id) = self.artifact.id {
            event.artifact_id = Some(id);
            return ArtifactAndEvent { artifact: None, event: Some(event) };
        }
        ArtifactAndEvent { artifact: Some(self.artifact), event: Some(event) }
    }
}

/// An event with this key and position.
fn event(direction: Type, key: &str, index: i64) -> Event {
    use crate::ml_metadata::event::path::step::Value::{Index, Key};
    let steps = vec![Step { value: Some(Key(key.to_owned())) }, Step { value: Some(Index(index)) }];
    let mut event = Event { path: Some(Path { steps }), ..Event::default() };
    event.set_type(direction);
    event
}

/// A text property.
pub fn text(value: &str) -> Value {
    Value { value: Some(value::Value::StringValue(value.to_owned())) }
}

/// An integer property.
pub fn int(value: i64) -> Value {
    Value { value: Some(value::Value::IntValue(value)) }
}
