//! Argo Workflows: its CRD, and how long Workflows exist after their end.

use std::time::Duration;

use humantime::format_duration;
use serde_json::Value;

use super::{ARGO, Category, Options, Resources, path};
use crate::k8s::{Cluster, ClusterError};

/// Runs whose own time to live is read.
const SAMPLE: usize = 50;
/// Namespaces in which Argo's controller is usually installed.
const CONTROLLERS: [&str; 2] = ["kubeflow", "argo"];
const PERSISTENCE_AGENT: &str = "/apis/apps/v1/namespaces/kubeflow/deployments/ml-pipeline-persistenceagent";
const AGENT_TTL: &str = "TTL_SECONDS_AFTER_WORKFLOW_FINISH";

/// Checks Argo Workflows.
pub(super) async fn check(cluster: &Cluster, options: &Options, argo: &Resources) -> Category {
    let mut category = Category::new("argo-workflows");
    let description = "the cluster has Workflows (workflows.argoproj.io)";
    match argo {
        Ok(names) if names.iter().any(|name| name == "workflows") => category.ok(description),
        Ok(_) => {
            let hint = "install Kubeflow Pipelines, or Argo Workflows";
            category.fail(description, "the CustomResourceDefinition is missing", hint);
            return category;
        }
        Err(error) => {
            category.unknown(description, error);
            return category;
        }
    }
    let mut shortest: Option<(u64, String)> = None;
    let mut errors = Vec::new();
    for found in [defaults(cluster).await, agent(cluster).await, own(cluster, options).await] {
        match found {
            Ok(Some(found)) if shortest.as_ref().is_none_or(|(seconds, _)| found.0 < *seconds) => {
                shortest = Some(found)
            }
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
    }
    let outage = format_duration(options.outage);
    let description = format!("Workflows exist longer after their end than the longest outage ({outage})");
    match shortest {
        Some((seconds, place)) if seconds < options.outage.as_secs() => category.warn(
            description,
            format!("{place} deletes them after {}", format_duration(Duration::from_secs(seconds))),
            "an event is lost if its Workflow is deleted before the event could be sent: raise ttlStrategy, or state a \
             shorter outage with --longest-outage",
        ),
        _ => match errors.first() {
            Some(error) => category.unknown(description, error),
            None => category.ok(description),
        },
    }
    category
}

/// A time to live in seconds, and where it is set.
type Ttl = Option<(u64, String)>;

/// The default of Argo's controller.
async fn defaults(cluster: &Cluster) -> Result<Ttl, ClusterError> {
    let mut found: Ttl = None;
    for namespace in CONTROLLERS {
        let name = "workflow-controller-configmap";
        let Some(map) = cluster.get(&format!("/api/v1/namespaces/{namespace}/configmaps/{name}")).await? else {
            continue;
        };
        if let Some(seconds) = of_config_map(&map) {
            found = found.into_iter().chain([(seconds, format!("the ConfigMap {namespace}/{name}"))]).min();
        }
    }
    Ok(found)
}

fn of_config_map(map: &Value) -> Option<u64> {
    let parse = |text: &Value| serde_saphyr::from_str::<Value>(text.as_str()?).ok();
    let defaults = parse(&map["data"]["workflowDefaults"]);
    let defaults = defaults.or_else(|| Some(parse(&map["data"]["config"])?["workflowDefaults"].clone()))?;
    of_spec(&defaults["spec"])
}

/// The time after which a succeeded Workflow of this spec is deleted.
fn of_spec(spec: &Value) -> Option<u64> {
    let strategy = &spec["ttlStrategy"];
    strategy["secondsAfterSuccess"].as_u64().or(strategy["secondsAfterCompletion"].as_u64())
}

/// Kubeflow's persistence agent, which deletes Workflows after a day by default.
async fn agent(cluster: &Cluster) -> Result<Ttl, ClusterError> {
    let Some(deployment) = cluster.get(PERSISTENCE_AGENT).await? else { return Ok(None) };
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let mut variables =
        containers.iter().flat_map(|container| container["env"].as_array().cloned().unwrap_or_default());
    let seconds =
        variables.find(|variable| variable["name"] == AGENT_TTL).and_then(|it| it["value"].as_str()?.parse().ok());
    Ok(seconds.map(|seconds| (seconds, format!("Kubeflow's persistence agent ({AGENT_TTL})"))))
}

/// The shortest of some runs.
async fn own(cluster: &Cluster, options: &Options) -> Result<Ttl, ClusterError> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &SAMPLE.to_string()).append_pair("labelSelector", &options.selector);
    let list = format!("{}?{}", path(ARGO, options.namespace.as_deref(), "workflows"), query.finish());
    let found = cluster.get(&list).await?.unwrap_or_default();
    let runs = found["items"].as_array().cloned().unwrap_or_default();
    let ttl = |run: &Value| {
        let name = |key| run["metadata"][key].as_str().unwrap_or_default();
        Some((of_spec(&run["spec"])?, format!("the Workflow {}/{}", name("namespace"), name("name"))))
    };
    Ok(runs.iter().filter_map(ttl).min())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_time_to_live_is_read_in_every_form() {
        let defaults = "spec:\n  ttlStrategy:\n    secondsAfterCompletion: 600\n    secondsAfterSuccess: 60\n";
        let config = "workflowDefaults:\n  spec:\n    ttlStrategy:\n      secondsAfterCompletion: 600\n";
        assert_eq!(of_config_map(&json!({"data": {"workflowDefaults": defaults}})), Some(60));
        assert_eq!(of_config_map(&json!({"data": {"config": config}})), Some(600));
        for other in [json!({}), json!({"data": {"config": "[", "workflowDefaults": "spec: {}"}})] {
            assert_eq!(of_config_map(&other), None);
        }
    }
}
