//! Dashboards, alerts and the documentation of metrics, with a real server and a real Prometheus.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use model_update_eventsource::telemetry::Limit;
use serde_json::Value;
use test_support::{
    ChildProcess, GrpcGoClient, Model, NewWorkflow, PIPELINE, Peers, RunningServer, SOON, Task, TestEnv, eventually,
    free_port, manifests, plain_http,
};

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn dashboards() -> Vec<(&'static str, Value)> {
    ["dashboards/operations.json", "dashboards/traces.json"]
        .map(|path| (path, serde_json::from_str(&file(path)).unwrap()))
        .into()
}

/// Returns the panels of a dashboard, also those in collapsed rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let (rows, others): (Vec<_>, Vec<_>) = panels.partition(|panel| panel["type"] == "row");
    others.into_iter().chain(rows.into_iter().flat_map(|row| row["panels"].as_array().unwrap())).collect()
}

/// Returns title and query of each Prometheus query in a dashboard.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let annotations = dashboard["annotations"]["list"].as_array().unwrap().iter();
    let annotations =
        annotations.map(|each| (each["name"].as_str().unwrap().to_owned(), each["expr"].as_str().unwrap().to_owned()));
    let prometheus = panels(dashboard).into_iter().filter(|panel| panel["datasource"]["type"] == "prometheus");
    prometheus
        .flat_map(|panel| {
            let title = panel["title"].as_str().unwrap().to_owned();
            let targets = panel["targets"].as_array().unwrap().iter();
            targets.map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
        })
        .chain(annotations)
        .collect()
}

/// Replaces the variables of a query as Grafana does when all values are selected.
fn interpolated(query: &str) -> String {
    let values =
        [("$__rate_interval", "1m"), ("$cluster", ".*"), ("$job", ".+"), ("$instance", ".+"), ("$namespace", ".*")];
    values.into_iter().fold(query.to_owned(), |query, (variable, value)| query.replace(variable, value))
}

/// Metrics of Argo Events, which the server does not serve.
fn is_of_argo(query: &str) -> bool {
    query.contains("argo_events_")
}

/// A Prometheus that scrapes a server every second and stores exemplars.
struct Prometheus {
    _process: ChildProcess,
    url: String,
}

impl Prometheus {
    async fn scraping(peers: &Peers, server: &RunningServer) -> Self {
        let mut process = ChildProcess::new("prometheus", peers.program("prometheus"));
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: model-update-eventsource\n  static_configs:\n  - targets: ['{}']\n",
            server.admin
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
        eventually(SOON, "Prometheus is ready", async || plain_http::get(&format!("{url}/-/ready")).await).await;
        Self { _process: process, url }
    }

    async fn get(&self, path: &str, query: &str) -> Result<Value, String> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = plain_http::get(&format!("{}{path}?query={encoded}", self.url))
            .await
            .map_err(|error| format!("{error:?}"))?;
        serde_json::from_str(&answer).map_err(|error| error.to_string())
    }

    /// Returns the current values of a query, without NaN.
    async fn values(&self, query: &str) -> Result<Vec<f64>, String> {
        let answer = self.get("/api/v1/query", query).await?;
        let results = answer["data"]["result"].as_array().ok_or_else(|| answer.to_string())?;
        let numbers = results.iter().filter_map(|result| result["value"][1].as_str()?.parse::<f64>().ok());
        Ok(numbers.filter(|number| !number.is_nan()).collect())
    }
}

/// A server with one run of each outcome, and a Prometheus that has scraped it.
struct Harness {
    server: RunningServer,
    prometheus: Prometheus,
    _env: TestEnv,
    _subscriber: GrpcGoClient,
}

impl Harness {
    async fn start() -> Self {
        let peers = Peers::with(&["prometheus"]).await;
        let env = TestEnv::start(&peers).await;
        let server = env.start_server(&[], &["--confirm-after=4s", "--auth=audit"]).await;
        let prometheus = Prometheus::scraping(&peers, &server).await;
        // The first scrape precedes all counts: a rate needs an earlier value.
        eventually(SOON, "a scrape", async || prometheus.values("up == 1").await.map(|values| values.len() == 1)).await;

        let mut refused = peers.grpc_go_client(server.listen, "kfpNamespace: Not A Namespace").start();
        refused.next(SOON).await;
        let mut first = peers.grpc_go_client(server.listen, &env.config()).start();
        for (name, model) in [("again", Model::pushed("gs://root/1")), ("unblessed", Model::unblessed("gs://root/2"))] {
            env.writer.tfx_run(PIPELINE, name).await.task(Task::new("Pusher").output(model)).await;
            env.workflows.create(NewWorkflow::tfx_v1(name, PIPELINE).phase("Succeeded")).await;
        }
        // This run is not in ML Metadata.
        env.workflows.create(NewWorkflow::tfx_v1("unknown", PIPELINE).phase("Succeeded")).await;
        first.payload(SOON).await;
        drop(first);
        let mut second = peers.grpc_go_client(server.listen, &env.config()).start();
        second.payload(SOON).await;
        env.marked("again", 1).await;
        Self { server, prometheus, _env: env, _subscriber: second }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn every_panel_has_data() {
    let Harness { prometheus, .. } = &Harness::start().await;
    for (path, dashboard) in dashboards() {
        for (title, query) in queries(&dashboard).into_iter().filter(|(_, query)| !is_of_argo(query)) {
            eventually(SOON, &format!("{path}: {title}: {query}"), async || {
                prometheus.values(&interpolated(&query)).await.map(|values| !values.is_empty())
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
        // The series that alerts and dashboards select.
        "sum(modelupdate_event_handoff_duration_seconds_bucket{le=\"60.0\"}) == 2",
        "sum(modelupdate_runs_skipped_total{reason=~\"expired|too_large|no_pipeline_name\"}) == 0",
        "count(modelupdate_subscribers{namespace!=\"\"}) == 1",
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
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_documentation_lists_every_metric() {
    let Harness { server, .. } = &Harness::start().await;
    // Without the suffixes, which OpenMetrics omits in `# TYPE`.
    let family = |name: &str| name.trim_end_matches("_total").trim_end_matches("_info").to_owned();
    let documentation = file("docs/metrics.md");
    let documented: BTreeSet<String> = documentation
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .filter(|(name, _)| *name != "modelupdate_…")
        .map(|(name, _)| format!("modelupdate_{}", family(name)))
        .collect();
    let page = server.get("/metrics").await.unwrap();
    let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let served: BTreeSet<String> = names.filter(|name| name.starts_with("modelupdate_")).map(family).collect();
    assert_eq!(served, documented);
}

/// Each limit that is counted has a row with its value, its reason, and what to do, and each row is of such a limit.
#[test]
fn the_documentation_lists_every_limit() {
    let page = file("docs/limits.md");
    let rows = page.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `limit` |"));
    let documented: Vec<_> = rows
        .map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert!(cells.len() == 5 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
            cells[0].trim_matches('`')
        })
        .collect();
    let counted: BTreeSet<_> = Limit::ALL.iter().map(|limit| limit.as_str()).collect();
    assert_eq!(documented.len(), counted.len(), "each once");
    assert_eq!(documented.into_iter().collect::<BTreeSet<_>>(), counted);
}

#[test]
fn every_panel_has_a_description_and_a_unit() {
    for (path, dashboard) in dashboards() {
        assert_eq!(dashboard["editable"], false, "{path}");
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(!title.is_empty() && !panel["description"].as_str().unwrap().is_empty(), "{path}: {title}");
            assert!(!panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().is_empty(), "{path}: {title}");
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{path}: {title}");
        }
        for (title, query) in queries(&dashboard) {
            let selectors =
                if is_of_argo(&query) { ["cluster", "namespace"].as_slice() } else { &["cluster", "job", "instance"] };
            for label in selectors {
                assert!(query.contains(&format!("{label}=~\"${label}\"")), "{path}: {title}: {label}");
            }
            // A namespace is a tenant, of which there may be hundreds.
            let by_tenant = query.contains("by (") && query.contains("namespace)");
            assert!(!by_tenant || query.starts_with("topk(10, "), "{path}: {title}");
        }
    }
}

/// Name, expression and page of each alert.
fn alerts() -> Vec<(String, String, String)> {
    let rules = &manifests(&file("alerts/model-update-eventsource.yaml"))[0];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rules = rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(|rule| (text(&rule["alert"]), text(&rule["expr"]), text(&rule["annotations"]["runbook_url"]))).collect()
}

#[test]
fn each_alert_has_a_runbook_and_a_test() {
    let tests = file("alerts/model-update-eventsource.test.yaml");
    let mut pages = BTreeSet::from(["README.md".to_owned()]);
    for (alert, _, page) in alerts() {
        assert_eq!(page, format!("docs/runbooks/{alert}.md"));
        let text = file(&page);
        let headings: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
        let title = format!("# {alert}");
        assert_eq!(headings, [&*title, "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"], "{page}");
        assert!(text.contains("get pods -A -l app.kubernetes.io/name=model-update-eventsource"), "{page}");
        assert!(tests.contains(&format!("runbook_url: {page}")), "no test in which {alert} fires");
        pages.insert(format!("{alert}.md"));
    }
    let folder = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks")).unwrap();
    let files = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(files.collect::<BTreeSet<_>>(), pages);
}

/// One Prometheus may watch several clusters, and the same job and instance may exist in each.
#[test]
fn alerts_keep_clusters_apart() {
    for (alert, expression, _) in alerts() {
        for part in expression.split(" by (").skip(1) {
            assert!(part.starts_with("cluster, namespace, job"), "{alert}: by ({part}");
        }
        for part in expression.split(" on (").skip(1) {
            assert!(part.starts_with("cluster, job"), "{alert}: on ({part}");
        }
    }
}

#[test]
fn panels_link_to_the_runbook_of_each_alert() {
    let prefix = "${runbooks}/";
    let linked: BTreeSet<_> = dashboards()
        .iter()
        .flat_map(|(_, dashboard)| panels(dashboard))
        .flat_map(|panel| panel["links"].as_array().into_iter().flatten())
        .filter_map(|link| link["url"].as_str().unwrap().strip_prefix(prefix).map(str::to_owned))
        .collect();
    let alerts: BTreeSet<_> = alerts().into_iter().map(|(alert, ..)| format!("{alert}.md")).collect();
    assert_eq!(linked, alerts);
}

/// With Grafana's own grammar.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_traceql_queries_are_valid() {
    let peers = Peers::with(&["traceql"]).await;
    let dashboards = dashboards();
    let targets = dashboards.iter().flat_map(|(_, dashboard)| panels(dashboard)).flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap().iter();
        targets.filter(|target| target["queryType"] == "traceql" && target["query"] != "$traceId")
    });
    let mut queries: Vec<_> = targets.map(|target| interpolated(target["query"].as_str().unwrap())).collect();
    assert!(queries.len() >= 3, "{queries:?}");
    queries.push("{ name=\"lookup\" && } | select(".to_owned());

    let mut parser = Command::new(peers.program("traceql"));
    let mut parser = parser.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    parser.stdin.take().unwrap().write_all(serde_json::to_string(&queries).unwrap().as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    let mut errors: Vec<Vec<usize>> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!errors.pop().unwrap().is_empty(), "the last query is not valid");
    for (query, errors) in queries.iter().zip(errors) {
        assert!(errors.is_empty(), "{query}: at {errors:?}");
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
