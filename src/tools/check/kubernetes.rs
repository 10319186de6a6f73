//! The API server.

use serde_json::Value;

use super::{Category, Options};
use crate::k8s::Cluster;

/// The oldest minor version with the admission policies of the chart.
const POLICIES: u64 = 30;
/// The oldest minor version of the chart.
const OLDEST: u64 = 27;

/// Checks the API server. Returns the connection, if it answers.
pub(super) async fn check(options: &Options) -> (Category, Option<Cluster>) {
    let mut category = Category::new("kubernetes-api");
    let cluster = match Cluster::connect(&options.cluster).await {
        Ok(cluster) => cluster,
        Err(error) => {
            let hint = "choose a kubeconfig by --kubeconfig or KUBECONFIG, and a context by --context";
            category.fail("can initialize the client", error.to_string(), hint);
            return (category, None);
        }
    };
    category.ok("can initialize the client");
    match cluster.get("/version").await {
        Ok(version) => {
            category.ok(format!("can query the Kubernetes API at {}", cluster.server()));
            version_of(&mut category, &version.unwrap_or_default());
            (category, Some(cluster))
        }
        Err(error) => {
            let hint = "the server retries by itself; look for the reason between this machine and the API server";
            category.fail("can query the Kubernetes API", error.to_string(), hint);
            (category, None)
        }
    }
}

fn version_of(category: &mut Category, version: &Value) {
    let text = version["gitVersion"].as_str().unwrap_or("unknown");
    // Distributions add a plus sign: "30+".
    let digits = version["minor"].as_str().unwrap_or_default().trim_end_matches(|c: char| !c.is_ascii_digit());
    let description = format!("is running a supported version of Kubernetes ({text})");
    match digits.parse::<u64>() {
        Ok(minor) if version["major"] == "1" && minor < OLDEST => {
            category.fail(description, format!("older than 1.{OLDEST}"), "upgrade the cluster");
        }
        Ok(minor) if version["major"] == "1" && minor < POLICIES => {
            let error = format!("older than 1.{POLICIES}, which has no ValidatingAdmissionPolicy");
            category.warn(description, error, "install with admissionPolicy.enabled=false, or upgrade the cluster");
        }
        Ok(_) => category.ok(description),
        Err(_) => category.warn(description, "the API server names no version", ""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::Outcome, *};

    #[test]
    fn versions_are_told_apart() {
        for (minor, expected) in [
            ("26", Outcome::Error),
            ("29", Outcome::Warning),
            ("30+", Outcome::Success),
            ("36", Outcome::Success),
            ("", Outcome::Warning),
        ] {
            let mut category = Category::new("test");
            version_of(&mut category, &json!({"major": "1", "minor": minor, "gitVersion": "v1"}));
            assert_eq!(category.checks[0].result, expected, "{minor}");
        }
    }
}
