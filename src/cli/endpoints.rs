//! The flags with which commands find the server and the sources of models.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::values;
use crate::{
    k8s::Cluster,
    lookup::Artifacts,
    tools::{
        endpoints::{self, Endpoint, EndpointError, ServerPort},
        sources::SourceOptions,
    },
};

/// The heading of these flags in `--help`.
const HEADING: &str = "Connections";

/// The sources of models, with the names and the meaning that the flags of `serve` have.
#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// Sources of models
    ///
    /// With --metadata-store and without --kfp-api, `auto` is ML Metadata only, as in `serve`. With neither it is what the cluster has.
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_ARTIFACTS", value_name = "SOURCE", value_enum, default_value_t)]
    artifacts: Artifacts,

    /// URL of Kubeflow's own gRPC API, or its HOST:PORT [default: Kubeflow's Service in a Pod, else a port-forward]
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_KFP_API", value_name = "HOST:PORT|URL", value_parser = values::kfp_api)]
    kfp_api: Option<String>,

    /// File of certificate authorities (PEM) for an https URL of --kfp-api [default: those of the system]
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_KFP_CA", value_name = "FILE", requires = "kfp_api")]
    kfp_ca: Option<PathBuf>,

    /// File with a token of the audience pipelines.kubeflow.org, where Kubeflow serves several users
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_KFP_TOKEN_FILE", value_name = "FILE")]
    kfp_token_file: Option<PathBuf>,

    /// URL of ML Metadata's gRPC service, or its HOST:PORT [default: Kubeflow's Service in a Pod, else a port-forward]
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_METADATA_STORE", value_name = "HOST:PORT|URL",
        value_parser = values::metadata_store)]
    metadata_store: Option<String>,

    /// File of certificate authorities (PEM) for an https URL of ML Metadata [default: those of the system]
    #[arg(long, help_heading = HEADING, env = "MODEL_UPDATE_METADATA_STORE_CA", value_name = "FILE")]
    metadata_store_ca: Option<PathBuf>,
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

impl From<SourceArgs> for SourceOptions {
    fn from(args: SourceArgs) -> Self {
        let SourceArgs { artifacts, kfp_api, kfp_ca, kfp_token_file, metadata_store, metadata_store_ca } = args;
        Self { artifacts, metadata_store, metadata_store_ca, kfp_api, kfp_ca, kfp_token_file }
    }
}

impl SourceArgs {
    /// Checks that the token can be read: a person waits for no file.
    pub fn check_token(&self) -> anyhow::Result<()> {
        let Some(path) = &self.kfp_token_file else { return Ok(()) };
        fs::read(path).map(drop).with_context(|| format!("cannot read --kfp-token-file {}", path.display()))
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
