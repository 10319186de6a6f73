//! ML Metadata.

use std::time::Duration;

use super::{Category, Options};
use crate::{
    delivery::LookupError,
    k8s::Cluster,
    mlmd::{self, LookupMetrics, Mlmd},
    telemetry,
    tools::endpoints::{self, Endpoint},
};

/// The limit of the question: the server's own is longer, as it repeats it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The versions of ML Metadata with which the server is tested, and those of Kubeflow in between.
const KNOWN: [(u64, u64); 2] = [(1, 2), (1, 17)];
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/kubeflow/deployments/metadata-grpc-deployment";

/// Checks that ML Metadata answers.
pub(super) async fn check(cluster: Option<&Cluster>, options: &Options) -> Category {
    let mut category = Category::new("ml-metadata");
    let endpoint = match (&options.metadata_store, cluster) {
        (Some(url), _) => Ok(Endpoint::at(url.clone())),
        (None, Some(cluster)) => endpoints::metadata_store(cluster).await,
        (None, None) => return category,
    };
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(error) => {
            let hint = "without ML Metadata no run has models; install Kubeflow Pipelines, or give its address";
            category.warn("ML Metadata answers", error.to_string(), hint);
            return category;
        }
    };
    let description = format!("ML Metadata answers at {}", endpoint.describe());
    match ask(&endpoint.url, options).await {
        Ok(()) => category.ok(description),
        Err(Problem::Config(error)) => {
            category.fail(description, error, "correct --metadata-store and --metadata-store-ca");
        }
        Err(Problem::Call { code, message }) => {
            let reason = endpoint.forward.as_ref().and_then(|forward| forward.last_error());
            let message = reason.unwrap_or(message);
            category.fail(description, format!("{code}: {message}"), cause(code, &message));
        }
    }
    if options.metadata_store.is_none()
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

async fn ask(url: &str, options: &Options) -> Result<(), Problem> {
    let config = |error: mlmd::Error| Problem::Config(telemetry::log::chain(&error));
    let limits = mlmd::Options {
        ca: options.metadata_store_ca.clone(),
        call_timeout: TIMEOUT,
        lookup_timeout: TIMEOUT,
        ..mlmd::Options::default()
    };
    let store = Mlmd::new(url, &limits, LookupMetrics::new(&mut telemetry::registry())).map_err(config)?;
    store.probe().await.map_err(|error| match error {
        LookupError::Failed { code, message } => Problem::Call { code, message },
        other => Problem::Call { code: other.code(), message: other.to_string() },
    })
}

/// The likely cause of a failure, by the way it fails.
fn cause(code: &str, message: &str) -> &'static str {
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["refused"]) {
        "nothing listens there: ML Metadata is not running, or the port is wrong (8080 in Kubeflow)"
    } else if says(&["lookup address", "dns", "name or service"]) {
        "the name is not known here: check the Service's name and namespace; names of Services resolve in Pods only"
    } else if code == "timeout" || code == "deadline_exceeded" || says(&["timed out", "deadline"]) {
        "packets are dropped: most likely a NetworkPolicy of Kubeflow's namespace does not admit this one; the chart's \
         metadataStoreNetworkPolicy admits the server"
    } else if says(&["not grpc"]) {
        "an HTTP server answers, not ML Metadata: the address may be that of its web page, or of a proxy or mesh that refuses the \
         call"
    } else if code == "unimplemented" {
        "another gRPC server answers: the address is not that of ML Metadata's grpc service"
    } else if code == "permission_denied" || code == "unauthenticated" {
        "a mesh refuses the call: admit the server's service account in an AuthorizationPolicy (see mesh.md in the documentation)"
    } else if says(&["reset", "broken pipe", "closed", "http2", "h2", "frame", "tls", "certificate", "transport"]) {
        "the other side ended the connection: most likely a mesh that requires mutual TLS, a server with another protocol, or \
         https where http is meant (see mesh.md in the documentation)"
    } else {
        "see the log of ML Metadata"
    }
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
    fn the_way_of_a_failure_names_its_cause() {
        for (code, message, words) in [
            ("unavailable", "tcp connect error: Connection refused (os error 111)", "nothing listens"),
            ("unavailable", "dns error: failed to lookup address information", "not known here"),
            ("timeout", "no response within 10s", "NetworkPolicy"),
            ("malformed", "the response is not gRPC (content type: text/html)", "an HTTP server answers"),
            ("unimplemented", "", "another gRPC server"),
            ("permission_denied", "RBAC: access denied", "AuthorizationPolicy"),
            ("unavailable", "connection reset by peer", "mutual TLS"),
            ("internal", "out of memory", "see the log"),
        ] {
            assert!(cause(code, message).contains(words), "{code} {message}: {}", cause(code, message));
        }
    }

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
