//! Whatever a run of the program prints or exports contains no token, private key, payload or location of a model.

use std::{fs, sync::Arc, time::Duration};

use axum::{Router, body::Bytes, routing::post};
use k8s_openapi::api::core::v1::Event as KubernetesEvent;
use kube::{Api, api::ListParams};
use model_update_eventsource::sim::Model;
use test_support::{
    ApiFault, ApiProxy, NewWorkflow, PIPELINE, Peers, Requests, RunningServer, SOON, ServerProcess, Task, TestEnv,
    eventually, plain_http, report, rule,
};
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use crate::{
    SHORT_CACHES,
    certificates::{Authority, Tunnel, flags},
    config,
    subscriber::{code, end, next, subscribe},
};

/// The location of the model, and its name: the parts of a payload that are nowhere else.
const LOCATION: &str = "gs://confidential-bucket/model";
const MODEL: &str = "confidential-model";
/// The name of the run's Workflow.
const RUN: &str = "run-of-a-tenant";

/// A collector of traces that keeps every byte of its requests.
struct Collector {
    url: String,
    received: Arc<Mutex<Vec<u8>>>,
    _task: AbortOnDropHandle<()>,
}

impl Collector {
    async fn start() -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let sink = received.clone();
        let receive = async move |body: Bytes| sink.lock().await.extend_from_slice(&body);
        let router = Router::new().route("/v1/traces", post(receive));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, received, _task: AbortOnDropHandle::new(task) }
    }

    async fn contains(&self, text: &str) -> bool {
        contains(&self.received.lock().await, text)
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The secrets that must not appear, by their names.
struct Secrets(Vec<(&'static str, String)>);

impl Secrets {
    fn token(&mut self, name: &'static str, token: &str) {
        // The signature alone, too: it is the secret part.
        self.0.extend([token, token.rsplit('.').next().unwrap()].map(|secret| (name, secret.to_owned())));
    }

    fn key(&mut self, pem: &str) {
        let lines = pem.lines().filter(|line| !line.starts_with("-----"));
        self.0.extend(lines.map(|line| ("private key", line.to_owned())));
    }

    /// The number of secrets in an output.
    fn found(&self, output: &str, bytes: &[u8]) -> usize {
        let found: Vec<_> = self.0.iter().filter(|(_, secret)| contains(bytes, secret)).collect();
        for (name, secret) in &found {
            let text = String::from_utf8_lossy(bytes);
            let line = text.lines().find(|line| line.contains(secret.as_str())).unwrap_or_default();
            report(format!("{output} contains the {name}: {line}"));
        }
        found.len()
    }
}

/// Every page of the admin port.
async fn pages(server: &RunningServer) -> Vec<(&'static str, String)> {
    let mut pages = Vec::new();
    for path in ["/", "/statusz.json", "/metrics", "/readyz", "/conditions", "/livez", "/loglevel", "/absent"] {
        pages.push((path, server.get(path).await.unwrap_or_else(|response| response)));
    }
    pages
}

/// The status, for an account that may subscribe. It names the run.
async fn status(server: &RunningServer, namespace: &str, token: &str) -> Vec<(&'static str, String)> {
    let mut pages = Vec::new();
    for path in ["/", "/statusz.json"] {
        let url = format!("http://{}{path}?namespace={namespace}", server.admin);
        let page = plain_http::get_with_token(&url, token).await.expect("the right to subscribe");
        assert!(page.contains(RUN) && page.contains("no-store"), "{page}");
        pages.push((path, page));
    }
    pages
}

/// A subscription, an event, refusals of every kind, and errors of each peer, with the most detailed log.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn nothing_that_a_run_prints_or_exports_is_secret() {
    let mut env = TestEnv::start(Peers::find().await).await;
    let (collector, authority, folder) = (Collector::start().await, Authority::new(), tempfile::tempdir().unwrap());
    let mut secrets = Secrets(vec![("location", LOCATION.to_owned()), ("model", MODEL.to_owned())]);
    secrets.0.push(("payload", "servingModelArtifacts".to_owned()));
    let identity = authority.issue();
    identity.write(folder.path());
    secrets.key(&identity.key);
    let proxy = ApiProxy::start(&env.cluster, Requests::Reviews, None).await;
    let tls = flags(folder.path());
    let environment = [
        format!("OTEL_EXPORTER_OTLP_ENDPOINT={}", collector.url),
        "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf".to_owned(),
        "OTEL_BSP_SCHEDULE_DELAY=100".to_owned(),
    ];
    let server_flags =
        [&["--auth=token", "--log-level=trace", "--kubernetes-events", &tls[0], &tls[1]], &SHORT_CACHES[..]].concat();
    let server = ServerProcess::start_with_env(&environment, &proxy.kubeconfig_file(), &env.store.url(), &server_flags);
    let server = server.listening().await;
    server.ready().await;
    let tunnel = Tunnel::start(server.listen, authority, None).await;

    // Tokens: one with the right, one without, one that is not valid.
    let account = env.cluster.service_account(&env.namespace, "events").await;
    let rules = vec![rule("argoproj.io", "workflows", &["subscribe"])];
    let grant = env.cluster.grant(&account, Some(&env.namespace), rules).await;
    let allowed = env.cluster.token(&account, &[]).await;
    let expired = env.cluster.signed_token(&account, -120).await;
    let other = env.cluster.service_account(&env.namespace, "other").await;
    let denied = env.cluster.token(&other, &[]).await;
    for (name, token) in [
        ("token", &*allowed),
        ("token without a right", &denied),
        ("expired token", &expired),
        ("no token", "n0-t0ken"),
    ] {
        secrets.token(name, token);
    }
    let config = config(&env.namespace);
    let mut refusals = Vec::new();
    for (token, config, expected) in [
        (&*denied, &*config, Code::PermissionDenied),
        (&expired, &config, Code::Unauthenticated),
        ("n0-t0ken", &config, Code::Unauthenticated),
        (&allowed, "kfpNamespace: [", Code::InvalidArgument),
    ] {
        let outcome = subscribe(tunnel.address, Some(token), config).await;
        assert_eq!(code(&outcome), expected, "{outcome:?}");
        refusals.push(outcome.unwrap_err());
    }

    // An event.
    let mut events = subscribe(tunnel.address, Some(&allowed), &config).await.unwrap();
    env.workflows.create(NewWorkflow::tfx_v1(RUN, PIPELINE)).await;
    let pusher = Task::new("Pusher").output(Model::pushed(LOCATION).named(MODEL));
    env.writer.tfx_run(PIPELINE, RUN).await.task(pusher).await;
    env.workflows.set_phase(RUN, "Succeeded").await;
    let payload = next(&mut events).await;
    assert!(payload.contains(LOCATION) && payload.contains(MODEL), "{payload}");
    env.marked(RUN, 1).await;

    // Errors: of reviews, of ML Metadata, of the certificate's files; and the end of the right.
    proxy.set_fault(Some(ApiFault::Rejected(500)));
    proxy.injected(1, SOON).await;
    let unavailable = env.cluster.token(&account, &[]).await;
    secrets.token("token that could not be reviewed", &unavailable);
    let outcome = subscribe(tunnel.address, Some(&unavailable), &config).await;
    assert_eq!(code(&outcome), Code::Unavailable, "{outcome:?}");
    refusals.push(outcome.unwrap_err());
    proxy.set_fault(None);
    env.store.kill();
    env.workflows.create(NewWorkflow::tfx_v1("no-store", PIPELINE).phase("Succeeded")).await;
    server.process.logged("model lookup failed, retrying").await;
    let status = status(&server, &env.namespace, &allowed).await;
    fs::write(folder.path().join("tls.key"), &identity.key[..identity.key.len() / 2]).unwrap();
    server.process.logged("cannot reload TLS files, keeping the last ones").await;
    env.cluster.revoke(grant).await;
    let revoked = end(&mut events).await;
    assert_eq!(revoked.code(), Code::PermissionDenied);
    refusals.push(revoked);

    for span in ["confirm", "generic.Eventing/StartEventSource"] {
        eventually(SOON, span, async || collector.contains(span).await).await;
    }
    let pages = pages(&server).await;
    server.metric_is("modelupdate_kubernetes_events_total", &["outcome=\"created\""], 1.0).await;
    let notices = Api::<KubernetesEvent>::namespaced(env.cluster.client().await, &env.namespace);
    let notices = serde_json::to_string(&notices.list(&ListParams::default()).await.unwrap().items).unwrap();
    assert!(notices.contains("delivered to the subscription"), "{notices}");
    let RunningServer { mut process, .. } = server;
    process.terminate();
    process.exited(Duration::from_secs(15)).await;
    let log = process.log();
    // The search finds what is there.
    assert!(log.contains(&account.user()) && log.lines().count() > 200, "{} lines", log.lines().count());
    let spans = collector.received.lock().await;
    let mut found = secrets.found("the log", log.as_bytes()) + secrets.found("a span", &spans);
    found += secrets.found("a Kubernetes Event", notices.as_bytes());
    for refusal in &refusals {
        found += secrets.found("a refusal", refusal.message().as_bytes());
        found += secrets.found("the details of a refusal", refusal.details());
    }
    for (path, page) in &status {
        found += secrets.found(path, page.as_bytes());
    }
    // Without a token, the admin port names no run either, which the log, the traces and the status do.
    assert!(log.contains(RUN) && contains(&spans, RUN));
    secrets.0.push(("name of a run", RUN.to_owned()));
    for (path, page) in &pages {
        found += secrets.found(path, page.as_bytes());
    }
    report(format!(
        "secrets: {} searched in {} lines of log, {} bytes of spans, {} refusals and {} pages: {found} found",
        secrets.0.len(),
        log.lines().count(),
        spans.len(),
        refusals.len(),
        pages.len() + status.len()
    ));
    assert_eq!(found, 0);
}
