//! Writing to ML Metadata through its API. Every call is expected to succeed; [`Writer::client`] is for other calls.

use model_update_eventsource::sim::{RunContext, Written};
use tonic::transport::Channel;

use super::runs;
use crate::ml_metadata::{
    Artifact, ArtifactType, Association, Attribution, Context, ContextType, Event, Execution, ExecutionType,
    GetContextByTypeAndNameRequest, ParentContext, PutArtifactTypeRequest, PutArtifactsRequest,
    PutAttributionsAndAssociationsRequest, PutContextTypeRequest, PutContextsRequest, PutEventsRequest,
    PutExecutionRequest, PutExecutionTypeRequest, PutExecutionsRequest, PutParentContextsRequest,
    metadata_store_service_client::MetadataStoreServiceClient,
    put_execution_request::{ArtifactAndEvent, Options},
};

/// A client of a store.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The service itself.
    pub client: MetadataStoreServiceClient<Channel>,
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

    /// Returns the id of a context, and creates it if it is absent.
    pub(super) async fn put_context(&self, context: RunContext) -> i64 {
        if let Some(id) = self.find_context(context.context_type, &context.name).await {
            return id;
        }
        let type_id = self.context_type(context.context_type).await;
        self.put_contexts(vec![runs::context(context, type_id)]).await[0]
    }

    /// Makes one context the parent of another.
    pub(super) async fn put_parent(&self, child: i64, parent: i64) {
        let link = ParentContext { child_id: Some(child), parent_id: Some(parent) };
        let request = PutParentContextsRequest { parent_contexts: vec![link] };
        self.client.clone().put_parent_contexts(request).await.expect("PutParentContexts");
    }

    /// Creates contexts and returns their ids.
    pub(super) async fn put_contexts(&self, contexts: Vec<Context>) -> Vec<i64> {
        let answer = self.client.clone().put_contexts(PutContextsRequest { contexts }).await;
        answer.expect("PutContexts").into_inner().context_ids
    }

    /// Creates executions and returns their ids.
    pub(super) async fn put_executions(&self, executions: Vec<Execution>) -> Vec<i64> {
        let answer = self.client.clone().put_executions(PutExecutionsRequest { executions }).await;
        answer.expect("PutExecutions").into_inner().execution_ids
    }

    /// Writes artifacts without executions, and returns their ids.
    pub async fn put_artifacts(&self, artifacts: Vec<Artifact>) -> Vec<i64> {
        let answer = self.client.clone().put_artifacts(PutArtifactsRequest { artifacts }).await;
        answer.expect("PutArtifacts").into_inner().artifact_ids
    }

    /// Creates events between executions and artifacts.
    pub(super) async fn put_events(&self, events: Vec<Event>) {
        self.client.clone().put_events(PutEventsRequest { events }).await.expect("PutEvents");
    }

    /// Writes an execution with its artifacts and events in one transaction, and adds it to existing contexts.
    pub async fn put_execution(
        &self,
        execution: Execution,
        artifact_event_pairs: Vec<ArtifactAndEvent>,
        contexts: &[i64],
    ) -> Written {
        let request = PutExecutionRequest {
            execution: Some(execution),
            artifact_event_pairs,
            contexts: Vec::new(),
            options: Some(Options { reuse_context_if_already_exist: Some(true) }),
        };
        let answer = self.client.clone().put_execution(request).await.expect("PutExecution").into_inner();
        let written = Written { execution: answer.execution_id(), artifacts: answer.artifact_ids };
        self.add_to_contexts(contexts.iter().map(|&context| (context, &written))).await;
        written
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
