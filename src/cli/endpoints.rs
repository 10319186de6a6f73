//! The flags with which commands find the server and ML Metadata.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::values;
use crate::{
    k8s::Cluster,
    tools::endpoints::{self, Endpoint, EndpointError, ServerPort},
};

/// The heading of these flags in `--help`.
const HEADING: &str = "Connections";

/// The address of ML Metadata.
#[derive(Clone, Debug, Args)]
pub struct MetadataStoreArgs {
    /// URL of ML Metadata's gRPC service, or its HOST:PORT [default: Kubeflow's Service in a Pod, else a port-forward]
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_METADATA_STORE", value_name = "HOST:PORT|URL",
        value_parser = values::metadata_store)]
    metadata_store: Option<String>,

    /// File of certificate authorities (PEM) for an https URL of ML Metadata [default: those of the system]
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_METADATA_STORE_CA", value_name = "FILE")]
    pub metadata_store_ca: Option<PathBuf>,
}

/// The address of the server's gRPC port.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// Address of the server; https://HOST:PORT if it has TLS [default: a ready Pod, through a port-forward]
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_SERVER", value_name = "HOST:PORT",
        value_parser = values::server)]
    server: Option<String>,
}

/// The address of the server's admin port, and the place of its Pods.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// Address of the server's admin port [default: a ready Pod, through a port-forward]
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_ADMIN", value_name = "HOST:PORT",
        value_parser = values::admin)]
    admin: Option<String>,

    /// Namespace of the server's Pods [default: kfp-operator-system and kubeflow; Pods elsewhere may be those of a team]
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_SERVER_NAMESPACE", value_name = "NAMESPACE",
        value_delimiter = ',', value_parser = values::one_namespace)]
    server_namespace: Vec<String>,
}

/// The token for a server with access control.
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// File with a token of an account that may subscribe, for a server with --auth token
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// Returns the token that the file has now.
    pub fn read(&self) -> anyhow::Result<Option<String>> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path).with_context(|| format!("cannot read --token-file {}", path.display()))
        };
        Ok(self.token_file.as_ref().map(read).transpose()?.map(|text| text.trim().to_owned()))
    }
}

impl MetadataStoreArgs {
    /// The address that was given.
    pub fn given(&self) -> Option<&str> {
        self.metadata_store.as_deref()
    }

    /// Returns the address that was given, else that of Kubeflow's own store.
    pub async fn resolve(&self, cluster: &Cluster) -> Result<Endpoint, EndpointError> {
        match &self.metadata_store {
            Some(url) => Ok(Endpoint::at(url.clone())),
            None => endpoints::metadata_store(cluster).await,
        }
    }
}

impl ServerArgs {
    /// The address that was given.
    pub fn given(&self) -> Option<&str> {
        self.server.as_deref()
    }
}

impl AdminArgs {
    /// The address that was given.
    pub fn given(&self) -> Option<&str> {
        self.admin.as_deref()
    }

    /// Returns the address that was given, else that of a ready Pod.
    pub async fn resolve(&self, cluster: &Cluster) -> Result<Endpoint, EndpointError> {
        match &self.admin {
            Some(url) => Ok(Endpoint::at(url.clone())),
            None => endpoints::server(cluster, ServerPort::Admin, &self.server_namespace).await,
        }
    }

    /// The namespaces of the server's Pods that were given.
    pub fn server_namespaces(&self) -> &[String] {
        &self.server_namespace
    }
}
