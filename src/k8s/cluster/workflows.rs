//! Workflows as the server sees them: metadata only, read by its own decoder.

use std::ops::ControlFlow;

use serde_json::Value;

use super::{Cluster, ClusterError, MAX_BYTES, paged};
use crate::{
    k8s::{
        object::{Decoder, Object},
        watch::split::{ListMetadata, ListSplitter, Oversized},
        workflows_path,
    },
    model::{SubscriptionsInUse, Workflow, subscription::has_dns_label_syntax},
    telemetry::LimitHits,
};

/// The media types of the metadata of one object and of a list, without the rest.
const ONE: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
pub(super) const MANY: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// The longest name of an object.
const MAX_NAME: usize = 253;

/// A Workflow and the version at which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionedWorkflow {
    /// The record that the server would have.
    pub workflow: Workflow,
    /// The `resourceVersion`, for the precondition of a patch.
    pub resource_version: String,
}

/// The Workflows to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkflowQuery<'a> {
    /// The namespace. `None`: all.
    pub namespace: Option<&'a str>,
    /// The label selector; empty for all Workflows.
    pub selector: &'a str,
}

impl Cluster {
    /// Returns one Workflow; `None` if there is none of this name.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn workflow(&self, namespace: &str, name: &str) -> Result<Option<VersionedWorkflow>, ClusterError> {
        let Some((path, text)) = self.metadata_of(namespace, name).await? else { return Ok(None) };
        let object = serde_json::from_slice(&text).map_err(|error| malformed(&path, &error))?;
        versioned(&decoder(), object).map(Some).map_err(|error| malformed(&path, &error))
    }

    /// Returns one Workflow as an object that contains its metadata only; `None` if there is none of this name.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn workflow_metadata(&self, namespace: &str, name: &str) -> Result<Option<Value>, ClusterError> {
        let Some((path, text)) = self.metadata_of(namespace, name).await? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| malformed(&path, &error))
    }

    /// Returns the path of a Workflow, and its metadata as JSON.
    async fn metadata_of(&self, namespace: &str, name: &str) -> Result<Option<(String, Vec<u8>)>, ClusterError> {
        // The API server takes another text for a path: that of another object, for example.
        if !is_object_name(name) {
            return Ok(None);
        }
        let path = format!("{}/{name}", workflows_path(Some(namespace)));
        match self.read(&path, ONE, MAX_BYTES).await {
            Ok(text) => Ok(Some((path, text))),
            Err(ClusterError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the Workflows of a query, in the order of the API server: by namespace and name. Those that the server
    /// would ignore as malformed are left out.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn workflows(&self, query: WorkflowQuery<'_>) -> Result<Vec<VersionedWorkflow>, ClusterError> {
        let mut workflows = Vec::new();
        self.workflow_pages(query, |page| {
            workflows.extend(page);
            ControlFlow::Continue(())
        })
        .await?;
        Ok(workflows)
    }

    /// Calls `found` with the Workflows of a query, page by page, until it breaks.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn workflow_pages(
        &self,
        query: WorkflowQuery<'_>,
        mut found: impl FnMut(Vec<VersionedWorkflow>) -> ControlFlow<()>,
    ) -> Result<(), ClusterError> {
        let path = workflows_path(query.namespace);
        let selector: &[_] = if query.selector.is_empty() { &[] } else { &[("labelSelector", query.selector)] };
        let decoder = decoder();
        let mut token = String::new();
        let mut bytes = 0;
        loop {
            let mut workflows = Vec::new();
            let page = paged(&path, selector, &token);
            let read = self.page(&page, &decoder, &mut workflows, &mut bytes);
            let ListMetadata { token: next, .. } = self.timed(read).await??;
            let ended = found(workflows).is_break();
            match next.filter(|next| !next.is_empty()) {
                Some(next) if !ended => token = next,
                _ => return Ok(()),
            }
        }
    }

    /// Decodes a page as it arrives: the metadata of one Workflow may have a megabyte.
    async fn page(
        &self,
        path: &str,
        decoder: &Decoder,
        workflows: &mut Vec<VersionedWorkflow>,
        bytes: &mut usize,
    ) -> Result<ListMetadata, ClusterError> {
        let mut answer = self.send(path, MANY).await?;
        let mut splitter = ListSplitter::default();
        while let Some(chunk) = answer.next().await.map_err(|error| self.request_error(path, error))? {
            *bytes += chunk.len();
            if *bytes > MAX_BYTES {
                return Err(ClusterError::TooLarge { path: path.to_owned() });
            }
            let mut rest = &chunk[..];
            while let Some(item) = splitter.next(&mut rest).map_err(|error| malformed(path, &error))? {
                let object = match item {
                    Ok(json) => serde_json::from_slice(json).ok(),
                    Err(Oversized) => None,
                };
                workflows.extend(object.and_then(|object| versioned(decoder, object).ok()));
            }
        }
        splitter.finish().map_err(|error| malformed(path, &error))
    }
}

/// Returns whether an object may have this name: a DNS subdomain (RFC 1123).
fn is_object_name(name: &str) -> bool {
    name.len() <= MAX_NAME && name.split('.').all(has_dns_label_syntax)
}

fn decoder() -> Decoder {
    Decoder::new(SubscriptionsInUse::default(), LimitHits::default())
}

fn versioned(decoder: &Decoder, object: Object) -> Result<VersionedWorkflow, crate::k8s::object::Malformed> {
    let resource_version = object.version().unwrap_or_default().to_owned();
    Ok(VersionedWorkflow { workflow: decoder.record(object)?, resource_version })
}

fn malformed(path: &str, error: &dyn std::error::Error) -> ClusterError {
    ClusterError::Malformed { path: path.to_owned(), message: crate::telemetry::log::chain(error) }
}
