//! The report of checks.

use std::cell::Cell;

use serde_json::json;

use super::*;

#[test]
fn the_report_has_the_form_of_linkerd() {
    let mut category = Category::new("kubernetes-api");
    category.ok("can query the API");
    category.warn("is new", "it is old", "upgrade");
    let report = Report::of(vec![category.clone(), Category::new("empty")]);
    let see = "see `model-update-eventsource runbook ModelUpdateWatchDown`";
    let expected = json!({
        "success": true,
        "categories": [{
            "categoryName": "kubernetes-api",
            "checks": [
                {"description": "can query the API", "result": "success"},
                {"description": "is new", "result": "warning", "hint": format!("upgrade; {see}"), "error": "it is old"},
            ],
        }],
    });
    assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    category.fail("works", "it does not", "");
    let report = Report::of(vec![category]);
    assert!(!report.success);
    let failed: Vec<_> = report.with(Outcome::Error).map(|(name, check)| (name, check.hint.clone())).collect();
    assert_eq!(failed, [("kubernetes-api", Some(see.to_owned()))]);
}

/// A limited number of requests is in flight at a time. After the deadline no request is waited for, and none is made.
#[tokio::test(start_paused = true)]
async fn requests_about_namespaces_have_a_bound_and_a_deadline() {
    let (in_flight, most, made) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let request = async |number: usize| {
        made.set(made.get() + 1);
        in_flight.set(in_flight.get() + 1);
        most.set(most.get().max(in_flight.get()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        in_flight.set(in_flight.get() - 1);
        number
    };
    let start = Instant::now();
    let answered = answers((0..80).map(request)).await;
    assert_eq!(answered, (0..80).map(Some).collect::<Vec<_>>());
    assert_eq!((most.get(), start.elapsed().as_secs()), (CONCURRENT, 10));
    made.set(0);
    let start = Instant::now();
    let answered = answers((0..5000).map(request)).await;
    assert_eq!(start.elapsed().as_secs(), 60);
    assert!(answered[..400].iter().all(Option::is_some) && answered[500..].iter().all(Option::is_none));
    assert!(answered.len() == 5000 && made.get() <= 500, "{}", made.get());
    let mut category = Category::new("event-sources");
    category.unanswered(4520, "their EventBuses exist");
    let [check] = &category.checks[..] else { panic!("{category:?}") };
    assert_eq!((check.result, check.error.as_deref()), (Outcome::Warning, Some("4520 without an answer within 60 s")));
}

/// A renamed runbook or heading would leave a hint without its document.
#[test]
fn every_hint_names_a_document_that_exists() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (category, document) in DOCUMENTS {
        if let Some(runbook) = document.trim_matches('`').strip_prefix("model-update-eventsource runbook ") {
            assert!(crate::tools::runbooks::find(runbook).is_ok(), "{category}: {document}");
            continue;
        }
        let (file, anchor) = document.split_once('#').unwrap();
        let page = std::fs::read_to_string(folder.join(file)).unwrap();
        let slug = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        let has = page.lines().any(|line| line.starts_with('#') && slug(line) == anchor);
        assert!(has, "{category}: {document}");
    }
    let sources = std::fs::read_dir(folder.join("src/tools/check")).unwrap();
    let text: String = sources.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    for name in text.split("let mut category = Category::new(\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(name == "test" || DOCUMENTS.iter().any(|(category, _)| *category == name), "{name}");
    }
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
        server_namespaces: Vec::new(),
        otlp: None,
    };
    let report = run(&options).await;
    assert!(!report.success);
    let names: Vec<_> = report.categories.iter().map(|category| category.category_name).collect();
    assert_eq!(names, ["kubernetes-api"]);
    let (_, failed) = report.with(Outcome::Error).next().unwrap();
    assert!(failed.error.as_deref().unwrap().contains("127.0.0.1:1"), "{failed:?}");
}
