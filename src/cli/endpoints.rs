//! The flags with which commands find the server and ML Metadata.

use std::path::PathBuf;

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
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_METADATA_STORE", value_name = "URL",
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

/// The address of the server's admin port.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// Address of the server's admin port [default: a ready Pod, through a port-forward]
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_ADMIN", value_name = "HOST:PORT",
        value_parser = values::server)]
    admin: Option<String>,
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

    /// Returns the address that was given, else that of a ready Pod.
    pub async fn resolve(&self, cluster: &Cluster) -> Result<Endpoint, EndpointError> {
        match &self.server {
            Some(url) => Ok(Endpoint::at(url.clone())),
            None => endpoints::server(cluster, ServerPort::Grpc).await,
        }
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
            None => endpoints::server(cluster, ServerPort::Admin).await,
        }
    }
}
