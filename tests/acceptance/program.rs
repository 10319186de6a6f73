//! The program as users start it: filters, extra fields, marks without room, and ML Metadata behind TLS.

use std::{fs, net::SocketAddr, sync::Arc};

use model_update_eventsource::model::workflow::MARK_PREFIX;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Runs that a subscription's own filters exclude are counted and in the log line of its stream.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn filtered_runs_are_counted_and_logged() {
    let env = TestEnv::start(Peers::find().await).await;
    for name in ["old", "wanted"] {
        env.succeed(name).await;
    }
    env.workflows.backdate_end("old", HOUR).await;
    env.workflows.create(NewWorkflow::tfx_v1("failed", PIPELINE).phase("Failed")).await;
    for name in ["other-1", "other-2"] {
        env.workflows.create(NewWorkflow::tfx_v1(name, "penguin-pipeline-2").phase("Succeeded")).await;
    }
    let server = start_program(&env).await;
    let keys = "subscription: deployer\npipelines: [penguin-pipeline]\nmaxAge: 30m";
    let mut events = subscribe(&env, &server, keys).await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["wanted"]));
    let line = server.logged_for("stream attached", "deployer").await;
    let counts = ["pending", "filtered_pipelines", "filtered_max_age", "filtered_statuses"].map(|key| &line[key]);
    assert_eq!(counts, [1, 2, 1, 1]);
    for (reason, count) in [("pipelines", 2.0), ("max_age", 1.0), ("statuses", 1.0)] {
        server.metric_is(FILTERED, &[&format!("reason=\"{reason}\"")], count).await;
    }
    // Another stream of the subscription counts no run again.
    let _second = subscribe(&env, &server, keys).await;
    env.succeed("last").await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["last"]));
    assert_eq!(server.metric(FILTERED, &[]).await, 4.0);
}

/// The id identifies the event: a redelivery has the same one, a retry of the run with another model has another one.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_event_has_its_times_its_status_and_its_id() {
    let include = "include: [status, createdAt, finishedAt, eventId]";
    let (env, server, mut events) = serve(&format!("statuses: [succeeded, failed]\n{include}")).await;
    let mut other = subscribe(&env, &server, &format!("subscription: other\n{include}")).await;
    env.create_run("run-x").await;
    let created = env.workflows.get("run-x").await.metadata.creation_timestamp.expect("a time").0.to_string();
    let finished = async || {
        let entries = env.workflows.get("run-x").await.metadata.managed_fields.expect("managed fields").into_iter();
        let owns = |fields: &Value| !fields["f:metadata"]["f:labels"]["f:workflows.argoproj.io/phase"].is_null();
        let times = entries.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| owns(&fields.0)));
        times.filter_map(|entry| entry.time).max().expect("a time").0.to_string()
    };
    env.workflows.set_phase("run-x", "Succeeded").await;
    let first = event(&mut events).await;
    assert_eq!(locations_of(&first), locations(&["run-x"]));
    assert_eq!((&first["createdAt"], &first["status"]), (&created.clone().into(), &"succeeded".into()));
    assert_eq!(first["finishedAt"], finished().await);
    let id = first["eventId"].as_str().expect("an id");
    assert_eq!(uuid::Uuid::parse_str(id).map(|id| id.get_version_num()), Ok(5));
    assert_eq!(event(&mut other).await["eventId"], id, "of every subscription");

    env.marked("run-x", 2).await;
    env.workflows.annotate("run-x", MARK, None).await;
    assert_eq!(event(&mut events).await, first, "a redelivery");

    // A retry that fails, and one that pushes another model.
    env.marked("run-x", 2).await;
    env.workflows.set_phase("run-x", "Running").await;
    env.workflows.set_phase("run-x", "Failed").await;
    let failed = event(&mut events).await;
    assert_eq!((&failed["status"], locations_of(&failed)), (&"failed".into(), vec![]));
    env.workflows.set_phase("run-x", "Running").await;
    env.writer.tfx_run(PIPELINE, "run-x").await.task(Task::pusher("gs://root/again")).await;
    env.workflows.set_phase("run-x", "Succeeded").await;
    let again = event(&mut events).await;
    assert_eq!((locations_of(&again), &again["createdAt"]), (vec!["gs://root/again"], &created.into()));
    assert_eq!(again["finishedAt"], finished().await);
    let ids = [&first, &failed, &again].map(|event| event["eventId"].as_str().expect("an id"));
    assert_eq!(std::collections::HashSet::from(ids).len(), 3, "{ids:?}");
    assert_eq!(event(&mut other).await["eventId"], again["eventId"]);
}

/// The delivery of a run whose annotations are full is remembered by a label, also after a restart.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_without_room_for_a_mark_is_not_repeated() {
    let (env, server, mut events) = serve("").await;
    let key = "example.com/large";
    let full = NewWorkflow::recurring_v1("full").annotation(key, &"x".repeat(256 * 1024 - key.len()));
    env.push_model("full").await;
    let uid = env.workflows.create(full.phase("Succeeded")).await.metadata.uid.expect("a UID");
    assert_eq!(locations_of(&event(&mut events).await), locations(&["full"]));
    eventually(CATCH_UP, "a label", async || {
        let labels = env.workflows.get("full").await.metadata.labels.unwrap_or_default();
        if labels.get(MARK) == Some(&uid) { Ok(()) } else { Err(labels) }
    })
    .await;
    assert_eq!(server.metric("modelupdate_mark_patches_total", &["outcome=\"no_room\""]).await, 1.0);
    server.stop().await;

    let server = start_program(&env).await;
    let mut events = subscribe(&env, &server, "").await;
    env.succeed("next").await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["next"]));
    // The label is a mark like the annotation: without it, the event is sent again.
    env.workflows.merge("full", &serde_json::json!({"metadata": {"labels": {MARK: null}}})).await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["full"]));
    assert!(env.workflows.annotations("full", MARK_PREFIX).await.is_empty());
}

/// Terminates TLS before a server, with this certificate. Returns the address for clients.
async fn terminate_tls(server: SocketAddr, signed: &rcgen::CertifiedKey<rcgen::KeyPair>) -> SocketAddr {
    let key = PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
    let certificates = vec![signed.cert.der().clone()];
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate ends the handshake.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(server).await.expect("the server listens");
                let _ended = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_store_of_a_private_authority_is_read_with_its_file() {
    let env = TestEnv::start(Peers::find().await).await;
    let store = env.store.url().trim_start_matches("http://").parse().expect("an address");
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let url = format!("https://{}", terminate_tls(store, &signed).await);
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.crt");
    fs::write(&ca, signed.cert.pem()).expect("the folder is writable");
    let kubeconfig = env.cluster.admin_kubeconfig_file();
    let namespaces = format!("--namespaces={}", env.namespace);
    env.succeed("run-x").await;

    let untrusting = ServerProcess::start(&kubeconfig, &url, &[&namespaces]).listening().await;
    let _none = subscribe(&env, &untrusting, "").await;
    let line = untrusting.process.logged("model lookup failed, retrying").await;
    assert_eq!(line["reason"], "unavailable");
    let error = line["error"].as_str().expect("text");
    assert!(error.contains("invalid peer certificate"), "{error}");
    untrusting.stop().await;

    let flag = format!("--metadata-store-ca={}", ca.display());
    let trusting = ServerProcess::start(&kubeconfig, &url, &[&namespaces, &flag]).listening().await;
    let mut events = subscribe(&env, &trusting, "").await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["run-x"]));
}
