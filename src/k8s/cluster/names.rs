//! Names of objects and of a kubeconfig, for shell completions.

use std::{collections::BTreeSet, ops::ControlFlow};

use kube::config::Kubeconfig;
use serde::Deserialize;

use super::{Cluster, ClusterError, ClusterOptions, MAX_LIST_BYTES, paged, workflows::MANY};

/// The names in a kubeconfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeconfigNames {
    /// The contexts.
    pub contexts: BTreeSet<String>,
    /// The namespaces of the contexts.
    pub namespaces: BTreeSet<String>,
}

impl ClusterOptions {
    /// Returns the names in the kubeconfig; none if it is not readable.
    pub fn kubeconfig_names(&self) -> KubeconfigNames {
        let read = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let contexts = read.map(|kubeconfig| kubeconfig.contexts).unwrap_or_default();
        let namespaces = contexts.iter().filter_map(|named| named.context.as_ref()?.namespace.clone()).collect();
        KubeconfigNames { namespaces, contexts: contexts.into_iter().map(|named| named.name).collect() }
    }
}

/// A page of a list of metadata.
#[derive(Deserialize)]
struct Page {
    metadata: PageMetadata,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    token: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    metadata: ItemMetadata,
}

#[derive(Deserialize)]
struct ItemMetadata {
    name: String,
}

impl Cluster {
    /// Calls `found` with the names of a list's objects, page by page, until it breaks.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn each_name(
        &self,
        path: &str,
        mut found: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), ClusterError> {
        let mut token = String::new();
        loop {
            let text = self.read(&paged(path, &[], &token), MANY, MAX_LIST_BYTES).await?;
            let page: Page = serde_json::from_slice(&text).map_err(|error| ClusterError::Malformed {
                path: path.to_owned(),
                message: format!("not a list: {error}"),
            })?;
            let ended = page.items.iter().try_for_each(|item| found(&item.metadata.name)).is_break();
            token = page.metadata.token.unwrap_or_default();
            if ended || token.is_empty() {
                return Ok(());
            }
        }
    }
}
