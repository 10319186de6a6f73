//! The report of checks.

use serde_json::json;

use super::*;

#[test]
fn the_report_has_the_form_of_linkerd() {
    let mut category = Category::new("kubernetes-api");
    category.ok("can query the API");
    category.warn("is new", "it is old", "upgrade");
    let report = Report::of(vec![category.clone(), Category::new("empty")]);
    let expected = json!({
        "success": true,
        "categories": [{
            "categoryName": "kubernetes-api",
            "checks": [
                {"description": "can query the API", "result": "success"},
                {"description": "is new", "result": "warning", "hint": "upgrade", "error": "it is old"},
            ],
        }],
    });
    assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    category.fail("works", "it does not", "");
    let report = Report::of(vec![category]);
    assert!(!report.success);
    let failed: Vec<_> = report.with(Outcome::Error).map(|(name, check)| (name, check.hint.clone())).collect();
    assert_eq!(failed, [("kubernetes-api", None)]);
}

/// Nothing is checked through a cluster that cannot be reached, and nothing hangs.
#[tokio::test]
async fn an_unreachable_cluster_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("config");
    let cluster = json!({"name": "c", "cluster": {"server": "http://127.0.0.1:1"}});
    let context = json!({"name": "c", "context": {"cluster": "c", "user": "u"}});
    let config =
        json!({"clusters": [cluster], "contexts": [context], "users": [{"name": "u"}], "current-context": "c"});
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let options = Options {
        cluster: ClusterOptions { kubeconfig: Some(kubeconfig), ..ClusterOptions::default() },
        pre: false,
        namespace: None,
        namespaces: Vec::new(),
        install_namespace: "kubeflow".to_owned(),
        auth: Mode::None,
        kubernetes_events: false,
        services: Vec::new(),
        outage: Duration::from_secs(86400),
        tls: None,
        selector: "pipeline/runid".to_owned(),
        sources: SourceOptions::default(),
        admin: None,
        otlp: None,
    };
    let report = run(&options).await;
    assert!(!report.success);
    let names: Vec<_> = report.categories.iter().map(|category| category.category_name).collect();
    assert_eq!(names, ["kubernetes-api"]);
    let (_, failed) = report.with(Outcome::Error).next().unwrap();
    assert!(failed.error.as_deref().unwrap().contains("127.0.0.1:1"), "{failed:?}");
}
