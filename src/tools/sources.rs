//! The sources of models as a command reaches them: which are asked, and at which addresses.

use std::path::PathBuf;

use super::endpoints::{self, Endpoint, EndpointError};
use crate::{
    k8s::Cluster,
    kfp::{self, Kfp},
    lookup::Artifacts,
    mlmd::{self, Mlmd},
    telemetry,
};

/// The flags for the sources of models.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// The sources that are asked.
    pub artifacts: Artifacts,
    /// The URL of ML Metadata. `None`: Kubeflow's.
    pub metadata_store: Option<String>,
    /// Certificate authorities for it.
    pub metadata_store_ca: Option<PathBuf>,
    /// The URL of Kubeflow's API. `None`: that in the cluster, if it is asked.
    pub kfp_api: Option<String>,
    /// Certificate authorities for it.
    pub kfp_ca: Option<PathBuf>,
    /// The file with the token for it.
    pub kfp_token_file: Option<PathBuf>,
}

/// An address, or the reason why there is none.
pub type Found = Result<Endpoint, EndpointError>;

impl SourceOptions {
    /// Returns the address of Kubeflow's API: the given one, else that in the cluster. `None`: it is not asked. That is so
    /// without it in the cluster, and with an address of ML Metadata alone: a server with these flags asks no other source.
    pub async fn kfp_api(&self, cluster: Option<&Cluster>) -> Option<Found> {
        match (self.artifacts, &self.kfp_api, cluster) {
            (Artifacts::Mlmd, ..) => None,
            (_, Some(url), _) => Some(Ok(Endpoint::at(url.clone()))),
            (Artifacts::Auto, None, _) if self.metadata_store.is_some() => None,
            (_, None, None) => None,
            (Artifacts::Auto, None, Some(cluster)) => endpoints::kfp_api(cluster).await.transpose(),
            (Artifacts::Kfp, None, Some(cluster)) => {
                let found = endpoints::kfp_api(cluster).await;
                Some(found.and_then(|found| found.ok_or_else(endpoints::no_kfp_api)))
            }
        }
    }

    /// Returns the address of ML Metadata: the given one, else that in the cluster. `None`: it is not asked.
    pub async fn mlmd(&self, cluster: Option<&Cluster>) -> Option<Found> {
        match (self.artifacts, &self.metadata_store, cluster) {
            (Artifacts::Kfp, ..) => None,
            (_, Some(url), _) => Some(Ok(Endpoint::at(url.clone()))),
            (_, None, Some(cluster)) => Some(endpoints::metadata_store(cluster).await),
            (_, None, None) => None,
        }
    }

    /// Creates the client of Kubeflow's API at this URL, with these limits.
    ///
    /// # Errors
    /// The URL or the certificate authorities are not usable.
    pub fn kfp_client(&self, url: &str, limits: kfp::Options) -> Result<Kfp, kfp::Error> {
        let options = kfp::Options { ca: self.kfp_ca.clone(), token: self.kfp_token_file.clone(), ..limits };
        // No metric counts them: the command ends soon.
        Kfp::new(url, &options, kfp::LookupMetrics::new(&mut telemetry::registry()))
    }

    /// Creates the client of ML Metadata at this URL, with these limits.
    ///
    /// # Errors
    /// The URL or the certificate authorities are not usable.
    pub fn mlmd_client(&self, url: &str, limits: mlmd::Options) -> Result<Mlmd, mlmd::Error> {
        let options = mlmd::Options { ca: self.metadata_store_ca.clone(), ..limits };
        Mlmd::new(url, &options, mlmd::LookupMetrics::new(&mut telemetry::registry()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn given_addresses_decide_which_sources_are_asked() {
        let url = |found: Option<Found>| found.map(|found| found.expect("an address").url);
        let given = |text: &str| Some(text.to_owned());
        for (artifacts, kfp_api, metadata_store, kfp, mlmd) in [
            (Artifacts::Auto, given("k:1"), given("m:1"), given("k:1"), given("m:1")),
            (Artifacts::Auto, None, given("m:1"), None, given("m:1")),
            (Artifacts::Mlmd, given("k:1"), given("m:1"), None, given("m:1")),
            (Artifacts::Kfp, given("k:1"), given("m:1"), given("k:1"), None),
            (Artifacts::Auto, given("k:1"), None, given("k:1"), None),
        ] {
            let options = SourceOptions { artifacts, kfp_api, metadata_store, ..SourceOptions::default() };
            let found = (url(options.kfp_api(None).await), url(options.mlmd(None).await));
            assert_eq!(found, (kfp, mlmd), "{options:?}");
        }
    }
}
