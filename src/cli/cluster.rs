//! The flags with which commands choose a cluster, rights and namespaces: those of kubectl.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::values;
use crate::k8s::{Cluster, ClusterOptions};

const HEADING: &str = "Cluster";

/// The cluster, and the rights with which it is used.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = HEADING)]
pub struct ClusterArgs {
    /// Kubeconfig file [default: KUBECONFIG, else ~/.kube/config, else the Pod's service account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// User to impersonate, for example system:serviceaccount:team-a:default
    #[arg(long = "as", value_name = "USER")]
    impersonate: Option<String>,

    /// Group to impersonate; may be repeated
    #[arg(long = "as-group", value_name = "GROUP", requires = "impersonate")]
    impersonate_groups: Vec<String>,

    /// Time limit of one request to the API server
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration, default_value = "30s")]
    request_timeout: humantime::Duration,
}

/// One namespace.
#[derive(Clone, Debug, Args)]
pub struct NamespaceArgs {
    /// Namespace of the runs [default: that of the context]
    #[arg(short, long, value_name = "NAMESPACE", value_parser = values::one_namespace)]
    namespace: Option<String>,
}

/// One namespace, or all.
#[derive(Clone, Debug, Args)]
pub struct NamespacesArgs {
    #[command(flatten)]
    one: NamespaceArgs,

    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

impl ClusterArgs {
    /// Prepares the connection. Sends nothing.
    pub async fn connect(&self) -> anyhow::Result<Cluster> {
        Cluster::connect(&self.options()).await.context("cannot use the cluster")
    }

    /// The choice of a cluster and of rights.
    pub fn options(&self) -> ClusterOptions {
        ClusterOptions {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            user: self.impersonate.clone(),
            groups: self.impersonate_groups.clone(),
            request_timeout: *self.request_timeout,
        }
    }

    /// As [`ClusterArgs::connect`], unless no cluster is needed.
    pub async fn connect_if(&self, needed: bool) -> anyhow::Result<Option<Cluster>> {
        if needed { self.connect().await.map(Some) } else { Ok(None) }
    }
}

impl NamespaceArgs {
    /// The namespace that was given.
    pub fn given(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The namespace, by default that of the context.
    pub fn in_cluster(&self, cluster: &Cluster) -> String {
        self.given().unwrap_or(cluster.default_namespace()).to_owned()
    }
}

impl NamespacesArgs {
    /// The namespace, by default that of the context. `None`: all.
    pub fn in_cluster(&self, cluster: &Cluster) -> Option<String> {
        (!self.all_namespaces).then(|| self.one.in_cluster(cluster))
    }
}
