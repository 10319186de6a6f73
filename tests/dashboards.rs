//! Dashboards, alerts and the metrics' documentation, on the real server before a real Prometheus.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;
use test_support::{
    ChildProcess, Model, NewWorkflow, Peers, RunningServer, SOON, ServerProcess, Task, eventually, free_port,
    plain_http,
};

const PIPELINE: &str = "penguin-pipeline";

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn dashboards() -> Vec<(&'static str, Value)> {
    ["dashboards/operations.json", "dashboards/traces.json"]
        .map(|path| (path, serde_json::from_str(&file(path)).unwrap()))
        .into()
}

/// Title and query of everything that asks Prometheus.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let prometheus = panels.filter(|panel| panel["datasource"]["type"] == "prometheus");
    prometheus
        .flat_map(|panel| {
            let title = panel["title"].as_str().unwrap().to_owned();
            let targets = panel["targets"].as_array().unwrap().iter();
            targets.map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
        })
        .collect()
}

/// As Grafana fills a query in, with everything chosen.
fn filled_in(query: &str) -> String {
    query.replace("$__rate_interval", "1m").replace("$job", ".+").replace("$instance", ".+").replace("$namespace", ".*")
}

/// A Prometheus of the test's own that scrapes this server every second, and keeps exemplars.
struct Prometheus {
    _process: ChildProcess,
    url: String,
}

impl Prometheus {
    async fn scraping(peers: &Peers, serving: &RunningServer) -> Self {
        let mut process = ChildProcess::new("prometheus", peers.program("prometheus"));
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: model-update-eventsource\n  static_configs:\n  - targets: ['{}']\n",
            serving.admin
        );
        let path = process.folder().join("prometheus.yml");
        fs::write(&path, config).unwrap();
        let port = free_port();
        process.set_args([
            format!("--config.file={}", path.display()),
            format!("--storage.tsdb.path={}", process.folder().join("data").display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
            "--enable-feature=exemplar-storage".to_owned(),
        ]);
        process.start();
        let url = format!("http://127.0.0.1:{port}");
        eventually(SOON, "Prometheus", async || plain_http::get(&format!("{url}/-/ready")).await).await;
        Self { _process: process, url }
    }

    async fn get(&self, path: &str, query: &str) -> Result<Value, String> {
        let encoded: String = query.bytes().map(|octet| format!("%{octet:02X}")).collect();
        let answer = plain_http::get(&format!("{}{path}?query={encoded}", self.url))
            .await
            .map_err(|error| format!("{error:?}"))?;
        serde_json::from_str(&answer).map_err(|error| error.to_string())
    }

    /// The values that a query has now, those that are no number left out.
    async fn values(&self, query: &str) -> Result<Vec<f64>, String> {
        let answer = self.get("/api/v1/query", query).await?;
        let results = answer["data"]["result"].as_array().ok_or_else(|| answer.to_string())?;
        let numbers = results.iter().filter_map(|result| result["value"][1].as_str()?.parse::<f64>().ok());
        Ok(numbers.filter(|number| !number.is_nan()).collect())
    }
}

/// A server, one run of each outcome, and a Prometheus that has seen it all.
async fn world() -> (Peers, RunningServer, Prometheus, Vec<Box<dyn std::any::Any>>) {
    let peers = Peers::with(&["prometheus"]).await;
    let cluster = peers.cluster().await;
    let store = peers.metadata_store().await;
    let namespace = cluster.namespace("team").await;
    let workflows = cluster.workflows(&namespace).await;
    let serving =
        ServerProcess::start(&cluster.admin_kubeconfig_file(), &store.url(), &["--confirm-after=4s"]).listening().await;
    serving.ready().await;
    let prometheus = Prometheus::scraping(&peers, &serving).await;
    // The first scrape comes before anything is counted: what has no past has no rate.
    eventually(SOON, "a scrape", async || prometheus.values("up == 1").await.map(|values| values.len() == 1)).await;

    let config = format!("kfpNamespace: {namespace}");
    let mut refused = peers.grpc_go_client(serving.listen, "kfpNamespace: Not A Namespace").start();
    refused.next(SOON).await;
    let writer = store.writer().await;
    let mut first = peers.grpc_go_client(serving.listen, &config).start();
    for name in ["again", "unblessed"] {
        let run = writer.tfx_run(PIPELINE, name).await;
        let model = if name == "again" { Model::pushed("gs://root/1") } else { Model::unblessed("gs://root/2") };
        run.task(Task::new("Pusher").output(model)).await;
        workflows.create(NewWorkflow::tfx_v1(name, PIPELINE).phase("Succeeded")).await;
    }
    // Nobody knows this one.
    workflows.create(NewWorkflow::tfx_v1("unknown", PIPELINE).phase("Succeeded")).await;
    first.payload(SOON).await;
    drop(first);
    let mut second = peers.grpc_go_client(serving.listen, &config).start();
    second.payload(SOON).await;
    let marks = async || workflows.annotations("again", "published.pipelines.kubeflow.org/").await.len() == 1;
    eventually(SOON, "the mark", marks).await;
    (peers, serving, prometheus, vec![Box::new(store), Box::new(second)])
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn every_query_of_every_panel_has_data_and_histograms_lead_to_traces() {
    let (_peers, serving, prometheus, _kept) = world().await;
    for (path, dashboard) in dashboards() {
        for (title, query) in queries(&dashboard) {
            eventually(SOON, &format!("{path}: {title}: {query}"), async || {
                prometheus.values(&filled_in(&query)).await.map(|values| !values.is_empty())
            })
            .await;
        }
    }
    for query in [
        "sum(modelupdate_events_sent_total) == 2",
        "sum(modelupdate_events_redelivered_total) == 1",
        "sum(modelupdate_events_confirmed_total) == 1",
        "sum(modelupdate_runs_skipped_total{reason=\"no_model\"}) == 1",
        "sum(modelupdate_lookup_retries_total{reason=\"no_context\"}) > 0",
        "sum(modelupdate_subscriptions_refused_total{reason=\"InvalidArgument\"}) == 1",
        "sum(modelupdate_runs_pending) == 1",
    ] {
        eventually(SOON, query, async || prometheus.values(query).await.map(|values| !values.is_empty())).await;
    }
    let exemplars = "/api/v1/query_exemplars";
    eventually(SOON, "exemplars", async || {
        let answer = prometheus.get(exemplars, "modelupdate_event_confirmation_duration_seconds_bucket").await?;
        let id = answer["data"][0]["exemplars"][0]["labels"]["trace_id"].as_str().map(str::len);
        if id == Some(32) { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;

    // What there is, is documented, and what is documented, is there.
    let documented: BTreeSet<String> = file("docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| format!("modelupdate_{}", name.trim_end_matches("_total").trim_end_matches("_info")))
        .collect();
    let page = serving.get("/metrics").await.unwrap();
    let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let shown: BTreeSet<String> = kinds
        .filter(|name| name.starts_with("modelupdate_"))
        .map(|name| name.trim_end_matches("_total").trim_end_matches("_info").to_owned())
        .collect();
    let documented: BTreeSet<String> =
        documented.into_iter().filter(|name| name != "modelupdate_modelupdate_…").collect();
    assert_eq!(shown, documented);
}

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    for (path, dashboard) in dashboards() {
        assert_eq!(dashboard["editable"], false, "{path}");
        for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
            let title = panel["title"].as_str().unwrap();
            assert!(!title.is_empty() && !panel["description"].as_str().unwrap().is_empty(), "{path}: {title}");
            assert!(!panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().is_empty(), "{path}: {title}");
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{path}: {title}");
        }
        for (title, query) in queries(&dashboard) {
            assert!(query.contains("job=~\"$job\"") && query.contains("instance=~\"$instance\""), "{path}: {title}");
        }
    }
}

#[test]
fn each_alert_has_a_runbook() {
    let rules = file("alerts/model-update-eventsource.yaml");
    for page in rules.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")) {
        assert!(file(page).contains("## Mitigation"), "{page}");
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn alerts_fire_when_they_should() {
    let peers = Peers::with(&["prometheus"]).await;
    let promtool = peers.program("prometheus").with_file_name("promtool");
    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts");
    let tested = Command::new(promtool)
        .args(["test", "rules", "model-update-eventsource.test.yaml"])
        .current_dir(alerts)
        .output()
        .unwrap();
    assert!(
        tested.status.success(),
        "{}{}",
        String::from_utf8_lossy(&tested.stdout),
        String::from_utf8_lossy(&tested.stderr)
    );
}
