//! Kubeflow's own API, and the source that `--artifacts auto` takes.

use std::{fs, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    ARGO, Category, Options,
    cause::{Peer, cause},
    path,
    server::Flags,
};
use crate::{
    delivery::LookupError,
    k8s::Cluster,
    kfp::{self, Kfp, Probe},
    lookup::{Artifacts, sources::OLD_SERVER},
    model::{RunId, workflow::RUN_ID_LABEL},
    telemetry,
    tools::endpoints::Endpoint,
};

/// Timeout of one probe. The server's own is longer, because it retries.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Workflows of which some are chosen for probes with a token. Each costs Kubeflow two reviews.
const SAMPLE: usize = 20;
const MAX_PROBES: usize = 3;
const PEER: Peer = Peer {
    name: "Kubeflow's API",
    port: 8887,
    policy: "Kubeflow's manifests 1.10 and 1.11 admit the namespaces of profiles and kubeflow itself to ml-pipeline",
};
const ACCEPTED: &str = "Kubeflow's API accepts the token";

/// The result of the checks.
pub(super) struct Found {
    pub(super) category: Category,
    /// The API answers and knows tasks, so that new runs need no ML Metadata.
    pub(super) knows_tasks: bool,
}

/// Checks Kubeflow's API. `flags` are those of the server's Pod, if there is one.
pub(super) async fn check(cluster: Option<&Cluster>, options: &Options, flags: Option<&Flags>) -> Found {
    let mut category = Category::new("kubeflow-api");
    let sources = &options.sources;
    let answers = "Kubeflow's API answers";
    let endpoint = match sources.kfp_api(cluster).await {
        None => {
            if sources.artifacts == Artifacts::Auto && (cluster.is_some() || sources.metadata_store.is_some()) {
                let why = match sources.metadata_store {
                    Some(_) => "--metadata-store is given without --kfp-api",
                    None => "the cluster has no Service kubeflow/ml-pipeline",
                };
                category.ok(format!("models come from ML Metadata: {why}"));
            }
            return Found { category, knows_tasks: false };
        }
        Some(Ok(endpoint)) => endpoint,
        Some(Err(error)) if sources.artifacts == Artifacts::Kfp => {
            category.fail(answers, error.to_string(), "install Kubeflow Pipelines 3, or give its address");
            return Found { category, knows_tasks: false };
        }
        Some(Err(error)) => {
            let hint = "not checked: grant this right, or give its address; --artifacts mlmd checks ML Metadata only";
            category.warn(answers, error.to_string(), hint);
            return Found { category, knows_tasks: false };
        }
    };
    let description = format!("{answers} at {}", endpoint.describe());
    let limits = kfp::Options { call_timeout: TIMEOUT, lookup_timeout: TIMEOUT, ..kfp::Options::default() };
    let kfp = match sources.kfp_client(&endpoint.url, limits) {
        Ok(kfp) => kfp,
        Err(error) => {
            category.fail(description, telemetry::log::chain(&error), "correct --kfp-api and --kfp-ca");
            return Found { category, knows_tasks: false };
        }
    };
    let knows_tasks = match kfp.probe(None).await {
        Ok(probe) => {
            category.ok(description);
            category.ok("it knows tasks (ListTasks): Kubeflow Pipelines 3");
            token(&mut category, cluster, options, &kfp, probe).await;
            true
        }
        Err(LookupError::Failed { code: OLD_SERVER, message }) => {
            category.ok(description);
            old(&mut category, sources.artifacts, message);
            false
        }
        Err(error) => {
            // A server whose flags name the API needs it; without such a flag, it is found here only.
            let is_needed = sources.kfp_api.is_some()
                || sources.artifacts == Artifacts::Kfp
                || flags.is_some_and(|flags| flags.kfp_api.is_some());
            unreachable(&mut category, &endpoint, description, error, is_needed);
            false
        }
    };
    if knows_tasks {
        of_server(&mut category, flags);
        if sources.artifacts == Artifacts::Auto {
            category.ok("models come from Kubeflow's API, those of runs that it does not know from ML Metadata");
        }
    }
    Found { category, knows_tasks }
}

fn old(category: &mut Category, artifacts: Artifacts, message: String) {
    if artifacts == Artifacts::Kfp {
        let hint = "this Kubeflow keeps its runs in ML Metadata: use --artifacts auto or mlmd";
        category.fail("it knows tasks (ListTasks): Kubeflow Pipelines 3", message, hint);
    } else {
        category.ok("models come from ML Metadata: this version of Kubeflow Pipelines keeps its runs there");
    }
}

fn unreachable(category: &mut Category, endpoint: &Endpoint, description: String, error: LookupError, is_needed: bool) {
    let (code, message) = match error {
        LookupError::Failed { code, message } => (code, message),
        other => (other.code(), other.to_string()),
    };
    let message = endpoint.forward.as_ref().and_then(|forward| forward.last_error()).unwrap_or(message);
    let hint = cause(PEER, code, &message);
    let error = format!("{code}: {message}");
    if is_needed {
        category.fail(description, error, hint);
    } else {
        category.warn(description, error, hint);
    }
}

/// Checks that the server asks the API, which is the only source of new runs.
fn of_server(category: &mut Category, flags: Option<&Flags>) {
    let Some(flags) = flags else { return };
    let description = "the server asks Kubeflow's API";
    if flags.kfp_api.is_some() && flags.artifacts.as_deref() != Some("mlmd") {
        category.ok(description);
    } else {
        let error = "the server's Pod has no --kfp-api, or --artifacts mlmd: it asks ML Metadata only, in which Kubeflow Pipelines 3 \
                     records nothing";
        category.fail(
            description,
            error,
            "give the server --kfp-api and --kfp-token-file (kfpApi in the chart's values)",
        );
    }
}

/// Checks the token with some runs: Kubeflow looks for the run before it reviews a token.
async fn token(category: &mut Category, cluster: Option<&Cluster>, options: &Options, kfp: &Kfp, probe: Probe) {
    let file = options.sources.kfp_token_file.as_ref();
    if let Some(path) = file
        && let Err(error) = fs::read_to_string(path)
    {
        let hint = "correct --kfp-token-file, or the projected volume";
        return category.fail(ACCEPTED, format!("{}: {error}", path.display()), hint);
    }
    if probe == Probe::NoTask {
        return category.ok("it serves one user, and needs no token");
    }
    let runs = match cluster {
        Some(cluster) => runs(cluster, options).await,
        None => Vec::new(),
    };
    let mut accepted = Vec::new();
    for (namespace, run_id) in &runs {
        match kfp.probe(Some((namespace, run_id))).await {
            Ok(Probe::UnknownRun) => {}
            Ok(Probe::Tasks | Probe::NoTask) => accepted.push(&**namespace),
            Err(error) => return refused(category, namespace, &error, file.is_some()),
        }
    }
    if accepted.is_empty() {
        let hint =
            "not checked: repeat the check when a run exists that Kubeflow's API knows and this account may list";
        category.warn(ACCEPTED, "Kubeflow reviews tokens only for runs that it knows, and none was found", hint);
    } else {
        // The runs of a namespace are not side by side.
        accepted.sort_unstable();
        accepted.dedup();
        category.ok(format!("{ACCEPTED} for runs of {}", accepted.join(", ")));
    }
}

fn refused(category: &mut Category, namespace: &str, error: &LookupError, has_token: bool) {
    let description = format!("{ACCEPTED} for runs of {namespace}");
    let right = "the account itself, not a group of it, needs get on runs.pipelines.kubeflow.org";
    match error.code() {
        "unauthenticated" if !has_token => category.warn(
            description,
            error.to_string(),
            "not checked: this Kubeflow serves several users; give the server's token with --kfp-token-file, or run the check in the \
             server's Pod",
        ),
        "unauthenticated" => category.fail(
            description,
            error.to_string(),
            format!(
                "the token is expired, or has not the audience pipelines.kubeflow.org: use a projected token with it; {right}"
            ),
        ),
        "permission_denied" => category.fail(
            description,
            error.to_string(),
            format!("{right} in the namespace {namespace}: the chart grants it with kfpApi; where a mesh answers, see mesh.md"),
        ),
        code => category.warn(description, error.to_string(), cause(PEER, code, &error.to_string())),
    }
}

/// Returns some runs, of different namespaces if possible.
async fn runs(cluster: &Cluster, options: &Options) -> Vec<(Arc<str>, RunId)> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &SAMPLE.to_string()).append_pair("labelSelector", &options.selector);
    let list = format!("{}?{}", path(ARGO, options.namespace.as_deref(), "workflows"), query.finish());
    // A missing right is reported with the Workflows.
    let found = cluster.get(&list).await.ok().flatten().unwrap_or_default();
    chosen(found["items"].as_array().map_or(&[][..], Vec::as_slice))
}

fn chosen(workflows: &[Value]) -> Vec<(Arc<str>, RunId)> {
    let of = |workflow: &Value| {
        let metadata = &workflow["metadata"];
        let run_id = metadata["labels"][RUN_ID_LABEL].as_str().filter(|id| !id.is_empty())?;
        Some((metadata["namespace"].as_str()?.into(), RunId::new(run_id)))
    };
    let mut runs: Vec<(Arc<str>, RunId)> = workflows.iter().filter_map(of).collect();
    let mut namespaces = Vec::new();
    // The first of each namespace precede the others.
    runs.sort_by_cached_key(|(namespace, _)| {
        let is_known = namespaces.contains(namespace);
        namespaces.push(namespace.clone());
        is_known
    });
    runs.truncate(MAX_PROBES);
    runs
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::Outcome, *};

    fn outcome(check: impl FnOnce(&mut Category)) -> (Outcome, String) {
        let mut category = Category::new("test");
        check(&mut category);
        let [check] = &category.checks[..] else { panic!("{category:?}") };
        (check.result, format!("{} {}", check.error.as_deref().unwrap_or(""), check.hint.as_deref().unwrap_or("")))
    }

    #[test]
    fn a_refused_token_has_a_hint_with_the_right() {
        let failed = |code| LookupError::Failed { code, message: "the answer of the server".to_owned() };
        for (code, has_token, expected, words) in [
            ("unauthenticated", false, Outcome::Warning, "--kfp-token-file"),
            ("unauthenticated", true, Outcome::Error, "audience pipelines.kubeflow.org"),
            ("permission_denied", true, Outcome::Error, "get on runs.pipelines.kubeflow.org in the namespace team"),
            ("timeout", true, Outcome::Warning, "NetworkPolicy"),
        ] {
            let (found, text) = outcome(|category| refused(category, "team", &failed(code), has_token));
            assert!(found == expected && text.contains(words), "{code}: {found:?} {text}");
        }
    }

    #[test]
    fn a_server_that_does_not_ask_the_only_source_is_an_error() {
        let flags = |kfp_api: Option<&str>, artifacts: Option<&str>| Flags {
            kfp_api: kfp_api.map(str::to_owned),
            artifacts: artifacts.map(str::to_owned),
            ..Flags::default()
        };
        for (flags, expected) in [
            (flags(Some("k:1"), None), Outcome::Success),
            (flags(Some("k:1"), Some("kfp")), Outcome::Success),
            (flags(Some("k:1"), Some("mlmd")), Outcome::Error),
            (flags(None, None), Outcome::Error),
        ] {
            assert_eq!(outcome(|category| of_server(category, Some(&flags))).0, expected, "{flags:?}");
        }
        assert_eq!(outcome(|category| old(category, Artifacts::Auto, String::new())).0, Outcome::Success);
        assert_eq!(outcome(|category| old(category, Artifacts::Kfp, String::new())).0, Outcome::Error);
    }

    #[test]
    fn runs_of_different_namespaces_are_chosen() {
        let workflow = |namespace: &str, run_id: &str| json!({"metadata": {"namespace": namespace, "labels": {RUN_ID_LABEL: run_id}}});
        let found =
            [("a", "1"), ("a", "2"), ("a", ""), ("a", "3"), ("b", "4")].map(|(namespace, id)| workflow(namespace, id));
        let runs: Vec<String> = chosen(&found).iter().map(|(namespace, id)| format!("{namespace}/{id}")).collect();
        assert_eq!(runs, ["a/1", "b/4", "a/2"]);
    }
}
