//! Argo Events: its CRDs and its version.

use serde_json::Value;

use super::{Category, Options, Resources, path};
use crate::k8s::Cluster;

/// Versions that stop reconnecting after three failures.
const BROKEN: [(u64, u64, u64); 2] = [(1, 9, 4), (1, 9, 9)];
const CONTROLLER: &str = "/apis/apps/v1/namespaces/argo-events/deployments/controller-manager";

/// Checks Argo Events.
pub(super) async fn check(cluster: &Cluster, options: &Options, argo: &Resources) -> Category {
    let mut category = Category::new("argo-events");
    for (resource, kind) in [("eventsources", "EventSources"), ("sensors", "Sensors"), ("eventbus", "EventBuses")] {
        let description = format!("the cluster has {kind} ({resource}.argoproj.io)");
        match argo {
            Ok(names) if names.iter().any(|name| name == resource) => category.ok(description),
            Ok(_) => category.warn(
                description,
                "the CustomResourceDefinition is missing",
                "install Argo Events 1.9.10 or newer; other clients of the gRPC service do not need it",
            ),
            Err(error) => category.unknown(description, error),
        }
    }
    images(&mut category, cluster, options).await;
    category
}

async fn images(category: &mut Category, cluster: &Cluster, options: &Options) {
    let description = "Argo Events reconnects after failures (no version from 1.9.4 to 1.9.9)";
    // Argo Events puts this label on the Deployment of each EventSource.
    let query = [("labelSelector", "eventsource-name")];
    let list = path("/apis/apps/v1", options.namespace.as_deref(), "deployments");
    let mut deployments = match cluster.list(&list, &query).await {
        Ok(deployments) => deployments,
        Err(error) => return category.unknown(description, &error),
    };
    // The version of new EventSources. Its namespace may not be readable.
    if let Ok(Some(controller)) = cluster.get(CONTROLLER).await {
        deployments.push(controller);
    }
    let broken: Vec<String> = deployments.iter().filter_map(broken).collect();
    if !broken.is_empty() {
        let error =
            format!("{} of these: {}", broken.len(), broken.iter().take(5).cloned().collect::<Vec<_>>().join(", "));
        category.warn(description, error, "upgrade Argo Events to 1.9.10 or newer (argo-events issue 3599)");
    } else if !deployments.is_empty() {
        category.ok(description);
    }
}

/// The Deployment and its version, if it is one that stops reconnecting.
fn broken(deployment: &Value) -> Option<String> {
    let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str()?;
    let version = version(image).filter(|version| BROKEN[0] <= *version && *version <= BROKEN[1])?;
    let name = |key| deployment["metadata"][key].as_str().unwrap_or_default();
    let (major, minor, patch) = version;
    Some(format!("Deployment {}/{} has {major}.{minor}.{patch}", name("namespace"), name("name")))
}

/// The version in an image's tag.
pub(super) fn version(image: &str) -> Option<(u64, u64, u64)> {
    let name = image.split('@').next()?.rsplit('/').next()?;
    let tag = name.split_once(':')?.1.trim_start_matches('v');
    let mut numbers = tag.split(['.', '-', '+']).map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_that_stop_reconnecting_are_found() {
        for (image, expected) in [
            ("quay.io/argoproj/argo-events:v1.9.3", false),
            ("quay.io/argoproj/argo-events:v1.9.4", true),
            ("registry:5000/argo-events:v1.9.9-patched@sha256:00", true),
            ("quay.io/argoproj/argo-events:v1.9.10", false),
            ("quay.io/argoproj/argo-events:latest", false),
            ("registry:5000/argo-events", false),
        ] {
            let containers = json!({"containers": [{"image": image}]});
            let deployment = json!({"metadata": {"name": "x"}, "spec": {"template": {"spec": containers}}});
            assert_eq!(broken(&deployment).is_some(), expected, "{image}");
        }
    }
}
