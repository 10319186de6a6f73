//! ML Metadata's own API, to write with and to look at what was written. Every call is expected to succeed; for the
//! others there is [`Writer::client`].

use std::collections::HashMap;

use tonic::transport::Channel;

/// Generated from `tests/peers/proto`.
#[allow(clippy::all, missing_docs, reason = "generated")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/peers/ml_metadata.rs"));
}

use proto::{
    Artifact, ArtifactType, Context, ContextType, Event, Execution, ExecutionType, GetContextByTypeAndNameRequest,
    ParentContext, PutArtifactTypeRequest, PutArtifactsRequest, PutAttributionsAndAssociationsRequest,
    PutContextTypeRequest, PutContextsRequest, PutEventsRequest, PutExecutionRequest, PutExecutionTypeRequest,
    PutExecutionsRequest, PutParentContextsRequest, Value,
    event::{Path, Type, path::Step},
    metadata_store_service_client::MetadataStoreServiceClient,
    put_execution_request::{ArtifactAndEvent, Options},
};

/// Properties by name.
pub type Properties = HashMap<String, Value>;

/// A client of one store.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The service itself.
    pub client: MetadataStoreServiceClient<Channel>,
}

/// An artifact beside an execution.
#[derive(Clone, Debug)]
pub struct Pair {
    /// A new one, or an existing one (then its id suffices).
    pub artifact: Artifact,
    /// Whether it went in or came out.
    pub direction: Type,
    /// The name of the execution's input or output.
    pub key: String,
    /// The position under this key.
    pub index: i64,
}

/// What `PutExecution` has written.
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

    /// The id of the artifact type of this name, which is made where it is not there. Properties of a type are not
    /// needed: `custom_properties` are free.
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

    /// The id of the context of this type and name, if there is one.
    pub async fn find_context(&self, type_name: &str, name: &str) -> Option<i64> {
        let request = GetContextByTypeAndNameRequest {
            type_name: Some(type_name.to_owned()),
            context_name: Some(name.to_owned()),
        };
        let answer = self.client.clone().get_context_by_type_and_name(request).await;
        answer.expect("GetContextByTypeAndName").into_inner().context.map(|context| context.id())
    }

    /// The context of this type and name, which is made with these properties where it is not there.
    pub async fn context(&self, type_name: &str, name: &str, custom_properties: Properties) -> i64 {
        if let Some(id) = self.find_context(type_name, name).await {
            return id;
        }
        let type_id = Some(self.context_type(type_name).await);
        let context = Context { type_id, name: Some(name.to_owned()), custom_properties, ..Context::default() };
        let request = PutContextsRequest { contexts: vec![context] };
        self.client.clone().put_contexts(request).await.expect("PutContexts").into_inner().context_ids[0]
    }

    /// Puts one context under another.
    pub async fn parent(&self, child: i64, parent: i64) {
        let link = ParentContext { child_id: Some(child), parent_id: Some(parent) };
        let request = PutParentContextsRequest { parent_contexts: vec![link] };
        self.client.clone().put_parent_contexts(request).await.expect("PutParentContexts");
    }

    /// An artifact that no execution has to do with, yet.
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
        self.attribute(&written, contexts).await;
        written
    }

    /// New contexts; their ids.
    pub async fn contexts(&self, contexts: Vec<Context>) -> Vec<i64> {
        let answer = self.client.clone().put_contexts(PutContextsRequest { contexts }).await;
        answer.expect("PutContexts").into_inner().context_ids
    }

    /// New executions; their ids.
    pub async fn executions(&self, executions: Vec<Execution>) -> Vec<i64> {
        let answer = self.client.clone().put_executions(PutExecutionsRequest { executions }).await;
        answer.expect("PutExecutions").into_inner().execution_ids
    }

    /// New artifacts; their ids.
    pub async fn artifacts(&self, artifacts: Vec<Artifact>) -> Vec<i64> {
        let answer = self.client.clone().put_artifacts(PutArtifactsRequest { artifacts }).await;
        answer.expect("PutArtifacts").into_inner().artifact_ids
    }

    /// Each execution has put out its artifact, under this key.
    pub async fn output_events(&self, key: &str, ids: impl Iterator<Item = (&i64, &i64)>) {
        let events = ids.map(|(&execution, &artifact)| Event {
            execution_id: Some(execution),
            artifact_id: Some(artifact),
            ..event(Type::Output, key, 0)
        });
        let request = PutEventsRequest { events: events.collect() };
        self.client.clone().put_events(request).await.expect("PutEvents");
    }

    /// Says of each execution and artifact that they belong to this context.
    pub async fn attribute_all(&self, ids: impl Iterator<Item = (i64, i64, i64)>) {
        let mut request = PutAttributionsAndAssociationsRequest::default();
        for (context, execution, artifact) in ids {
            let (context_id, execution_id, artifact_id) = (Some(context), Some(execution), Some(artifact));
            request.associations.push(proto::Association { execution_id, context_id });
            request.attributions.push(proto::Attribution { artifact_id, context_id });
        }
        let answer = self.client.clone().put_attributions_and_associations(request).await;
        answer.expect("PutAttributionsAndAssociations");
    }

    /// Says of an execution and its artifacts that they belong to these contexts.
    pub async fn attribute(&self, written: &Written, contexts: &[i64]) {
        let mut request = PutAttributionsAndAssociationsRequest::default();
        for &context in contexts {
            let association = proto::Association { execution_id: Some(written.execution), context_id: Some(context) };
            request.associations.push(association);
            for &artifact in &written.artifacts {
                let attribution = proto::Attribution { artifact_id: Some(artifact), context_id: Some(context) };
                request.attributions.push(attribution);
            }
        }
        let answer = self.client.clone().put_attributions_and_associations(request).await;
        answer.expect("PutAttributionsAndAssociations");
    }
}

impl Pair {
    fn into_proto(self) -> ArtifactAndEvent {
        let mut event = event(self.direction, &self.key, self.index);
        // An existing artifact is named by the event; to send the artifact too would overwrite its properties.
        if let Some(id) = self.artifact.id {
            event.artifact_id = Some(id);
            return ArtifactAndEvent { artifact: None, event: Some(event) };
        }
        ArtifactAndEvent { artifact: Some(self.artifact), event: Some(event) }
    }
}

/// An event of an artifact that stands under this key, at this position.
fn event(direction: Type, key: &str, index: i64) -> Event {
    use proto::event::path::step::Value::{Index, Key};
    let steps = vec![Step { value: Some(Key(key.to_owned())) }, Step { value: Some(Index(index)) }];
    let mut event = Event { path: Some(Path { steps }), ..Event::default() };
    event.set_type(direction);
    event
}

/// A property that is text.
pub fn text(value: &str) -> Value {
    Value { value: Some(proto::value::Value::StringValue(value.to_owned())) }
}

/// A property that is a whole number.
pub fn int(value: i64) -> Value {
    Value { value: Some(proto::value::Value::IntValue(value)) }
}
