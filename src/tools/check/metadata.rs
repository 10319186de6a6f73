//! ML Metadata.

use std::time::Duration;

use super::{
    Category, Options,
    cause::{Peer, cause},
};
use crate::{
    delivery::LookupError,
    k8s::Cluster,
    mlmd, telemetry,
    tools::{endpoints::EndpointError, sources::SourceOptions},
};

/// Timeout of one probe. The server's own is longer, because it retries.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The versions of ML Metadata with which the server is tested, and those of Kubeflow in between.
const KNOWN: [(u64, u64); 2] = [(1, 2), (1, 17)];
/// The hint where new runs are elsewhere.
const EARLIER_RUNS: &str =
    "only runs from before the upgrade of Kubeflow need ML Metadata; --artifacts kfp does without";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/kubeflow/deployments/metadata-grpc-deployment";

const PEER: Peer =
    Peer { name: "ML Metadata", port: 8080, policy: "the chart's metadataStoreNetworkPolicy admits the server" };

/// Checks that ML Metadata answers. Where Kubeflow's API has new runs, it is only needed for earlier ones.
pub(super) async fn check(cluster: Option<&Cluster>, options: &Options, is_for_earlier_runs: bool) -> Category {
    let mut category = Category::new("ml-metadata");
    let Some(endpoint) = options.sources.mlmd(cluster).await else { return category };
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        // Nothing is missing: Kubeflow Pipelines 3 has no ML Metadata.
        Err(EndpointError::NoPod { .. }) if is_for_earlier_runs => return category,
        Err(error) => {
            let hint = if is_for_earlier_runs {
                EARLIER_RUNS
            } else {
                "without ML Metadata no run has models; install Kubeflow Pipelines, or give its address"
            };
            category.warn("ML Metadata answers", error.to_string(), hint);
            return category;
        }
    };
    let description = format!("ML Metadata answers at {}", endpoint.describe());
    match ask(&endpoint.url, &options.sources).await {
        Ok(()) => category.ok(description),
        Err(Problem::Config(error)) => {
            category.fail(description, error, "correct --metadata-store and --metadata-store-ca");
        }
        Err(Problem::Call { code, message }) => {
            let reason = endpoint.forward.as_ref().and_then(|forward| forward.last_error());
            let message = reason.unwrap_or(message);
            let (error, hint) = (format!("{code}: {message}"), cause(PEER, code, &message));
            if is_for_earlier_runs {
                category.warn(description, error, format!("{EARLIER_RUNS}; {hint}"));
            } else {
                category.fail(description, error, hint);
            }
        }
    }
    if options.sources.metadata_store.is_none()
        && let Some(cluster) = cluster
        && let Ok(Some(deployment)) = cluster.get(DEPLOYMENT).await
    {
        let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
        version(&mut category, image);
    }
    category
}

enum Problem {
    Config(String),
    Call { code: &'static str, message: String },
}

async fn ask(url: &str, sources: &SourceOptions) -> Result<(), Problem> {
    let config = |error: mlmd::Error| Problem::Config(telemetry::log::chain(&error));
    let limits = mlmd::Options { call_timeout: TIMEOUT, lookup_timeout: TIMEOUT, ..mlmd::Options::default() };
    let store = sources.mlmd_client(url, limits).map_err(config)?;
    store.probe().await.map_err(|error| match error {
        LookupError::Failed { code, message } => Problem::Call { code, message },
        other => Problem::Call { code: other.code(), message: other.to_string() },
    })
}

fn version(category: &mut Category, image: &str) {
    let Some((major, minor)) = super::argo_events::version(image).map(|(major, minor, _)| (major, minor)) else {
        return;
    };
    let description = format!("is running a known version of ML Metadata ({major}.{minor})");
    if KNOWN[0] <= (major, minor) && (major, minor) <= KNOWN[1] {
        category.ok(description);
    } else {
        category.warn(
            description,
            "the server is not tested with this version",
            "use 1.2 to 1.17, or report how it works",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Outcome, *};

    #[test]
    fn versions_are_known_or_not() {
        for (image, expected) in [
            ("gcr.io/tfx-oss-public/ml_metadata_store_server:1.14.0", Some(Outcome::Success)),
            ("registry:5000/store:1.2.0", Some(Outcome::Success)),
            ("store:1.99.0", Some(Outcome::Warning)),
            ("store:latest", None),
        ] {
            let mut category = Category::new("test");
            version(&mut category, image);
            assert_eq!(category.checks.first().map(|check| check.result), expected, "{image}");
        }
    }
}
