//! The configuration of a command's connection, from the flags that kubectl has.

use std::{path::PathBuf, time::Duration};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::ClusterError;

/// The choice of a cluster and of rights.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The kubeconfig file. `None`: `KUBECONFIG`, else `~/.kube/config`, else the Pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it. `None`: the current one.
    pub context: Option<String>,
    /// A user to impersonate.
    pub user: Option<String>,
    /// Groups to impersonate. Only with a user.
    pub groups: Vec<String>,
    /// The limit of one request.
    pub request_timeout: Duration,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            user: None,
            groups: Vec::new(),
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// A configuration, and where it is from.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) in_pod: bool,
    pub(super) hint: Option<&'static str>,
}

pub(super) async fn load(options: &ClusterOptions) -> Result<Loaded, ClusterError> {
    let (mut config, in_pod) = match from_kubeconfig(options).await {
        Ok(config) => (config, false),
        Err(error) if is_absent(&error) && options.kubeconfig.is_none() && options.context.is_none() => {
            let in_pod = Config::incluster().map_err(|_not_in_a_pod| {
                ClusterError::Config(
                    "no Kubernetes configuration: there is no kubeconfig (--kubeconfig, KUBECONFIG or ~/.kube/config), and \
                     this is no Pod with a service account"
                        .to_owned(),
                )
            })?;
            (in_pod, true)
        }
        Err(error) => {
            let place = match &options.kubeconfig {
                Some(path) => format!("{}", path.display()),
                None => "KUBECONFIG or ~/.kube/config".to_owned(),
            };
            let reason = crate::telemetry::log::chain(&error);
            return Err(ClusterError::Config(format!("the kubeconfig ({place}) is not usable: {reason}")));
        }
    };
    if options.user.is_some() {
        config.auth_info.impersonate.clone_from(&options.user);
        config.auth_info.impersonate_groups = (!options.groups.is_empty()).then(|| options.groups.clone());
        config.auth_info.impersonate_uid = None;
        config.auth_info.impersonate_user_extra = None;
    }
    let hint = config.proxy_url.take().map(|_| {
        "the proxy of the kubeconfig or of HTTPS_PROXY is not used; if the API server needs it, open a tunnel to it and \
         point a kubeconfig there"
    });
    Ok(Loaded { config, in_pod, hint })
}

async fn from_kubeconfig(options: &ClusterOptions) -> Result<Config, KubeconfigError> {
    let kubeconfig = match &options.kubeconfig {
        Some(path) => Kubeconfig::read_from(path)?,
        None => Kubeconfig::read()?,
    };
    let chosen = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &chosen).await
}

/// Returns whether there is no kubeconfig, rather than one that is not usable.
fn is_absent(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
