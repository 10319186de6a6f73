//! `subscribe`, with the server.

use std::{fs, time::Duration};

use test_support::{RunningServer, ServerProcess};

use super::{harness::Running, *};

async fn serve(env: &TestEnv) -> RunningServer {
    env.start_server(&[], &["--confirm-after=200ms", &format!("--namespaces={}", env.namespace)]).await
}

fn tool(env: &TestEnv, server: &RunningServer, arguments: &str) -> Tool {
    let arguments = format!("subscribe -n {} --server {} {arguments}", env.namespace, server.listen);
    Tool::new(&env.cluster.admin_kubeconfig_file(), &arguments.split_whitespace().collect::<Vec<_>>())
}

async fn connected(env: &TestEnv, server: &RunningServer, arguments: &str) -> Running {
    let running = tool(env, server, arguments).start();
    running.said("Connected to", 1).await;
    running
}

fn payload(name: &str) -> String {
    let model =
        format!("{{\"name\":\"penguin-pipeline:{name}:Pusher:pushed_model:0\",\"location\":\"gs://root/{name}\"}}");
    format!("{{\"pipelineName\":\"penguin-pipeline\",\"servingModelArtifacts\":[{model}]}}")
}

/// It marks nothing, and begins with what succeeds from now on, or with past runs.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_stream_prints_payloads_and_leaves_nothing_behind() {
    let env = TestEnv::start(Peers::find().await).await;
    for name in ["old", "past"] {
        env.succeed(name).await;
    }
    env.workflows.backdate_end("old", Duration::from_secs(2 * 3600)).await;
    let server = serve(&env).await;
    let mut live = connected(&env, &server, "--count 2 --timeout 60s").await;
    let mut past = connected(&env, &server, "--since 1h --count 2 --timeout 60s").await;
    assert_eq!(past.line().await, Some(payload("past")));
    env.succeed("first").await;
    assert_eq!(live.line().await, Some(payload("first")));
    assert_eq!(past.line().await, Some(payload("first")));
    assert_eq!((past.ended().await, past.line().await), (0, None));
    env.succeed("second").await;
    assert_eq!(live.line().await, Some(payload("second")));
    assert_eq!((live.ended().await, live.line().await), (0, None));
    assert!(past.words().contains("of the last 1h and from now on"), "{}", past.words());

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.yaml");
    fs::write(&file, "pipelines: [\"penguin-*\"]\ninclude: [workflowName, eventId]").expect("the folder is writable");
    let with_file = format!("--config {} --since 1h --once --timeout 60s", file.display());
    let ran = tool(&env, &server, &with_file).run().await;
    let event: Value = serde_json::from_str(&ran.stdout).expect("one line of JSON");
    // Runs that were created in the same second have no order.
    let name = event["workflowName"].as_str().expect("text");
    assert!(["past", "first", "second"].contains(&name) && event["eventId"].is_string(), "{ran:?}");
    for name in ["past", "first", "second"] {
        assert!(env.marks(name).await.is_empty(), "{name}");
    }

    // A subscription of its own is remembered, and the stream stays until that is certain.
    let ran =
        tool(&env, &server, "--remember reader --since 1h --pipelines penguin-* --count 3 --timeout 60s").run().await;
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 3), "{ran:?}");
    for name in ["past", "first", "second"] {
        env.marked(name, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_stream_survives_a_restart_of_the_server() {
    let env = TestEnv::start(Peers::find().await).await;
    let server = serve(&env).await;
    let mut stream = connected(&env, &server, "--timeout 120s --count 3").await;
    env.succeed("before").await;
    assert_eq!(stream.line().await, Some(payload("before")));
    let listen = server.listen;
    server.stop().await;
    stream.said("connecting again in", 1).await;
    env.succeed("meanwhile").await;
    let namespaces = format!("--namespaces={}", env.namespace);
    let kubeconfig = env.cluster.admin_kubeconfig_file();
    let server = ServerProcess::start_at(listen, &kubeconfig, &env.store.url(), &[&namespaces]).listening().await;
    server.ready().await;
    assert_eq!(stream.line().await, Some(payload("meanwhile")), "and not the one before again");
    stream.said("Connected to", 2).await;
    env.succeed("after").await;
    assert_eq!(stream.line().await, Some(payload("after")));
    assert_eq!(stream.ended().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn refusals_and_contradictions_have_their_exit_status() {
    let env = TestEnv::start(Peers::find().await).await;
    let namespaces = format!("--namespaces={}", env.namespace);
    let server = env.start_server(&[], &["--auth=token", &namespaces]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.yaml");
    fs::write(&file, "kfpNamespace: other").expect("the folder is writable");
    let contradiction = tool(&env, &server, &format!("--config {}", file.display())).run().await;
    assert_eq!(contradiction.code, 2, "{contradiction:?}");
    assert!(contradiction.stderr.contains("--namespace contradicts --config"), "{contradiction:?}");
    let without = tool(&env, &server, "--once --timeout 30s").run().await;
    assert!(without.code == 1 && without.stderr.contains("Unauthenticated: "), "{without:?}");

    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let ca = folder.path().join("ca.crt");
    fs::write(&ca, signed.cert.pem()).expect("the folder is writable");
    let with_tls = format!("--server https://{} --ca {} --once --timeout 60s", server.listen, ca.display());
    let with_tls = tool(&env, &server, &with_tls).run().await;
    assert!(with_tls.code == 1 && with_tls.stderr.contains("write its address as http://"), "{with_tls:?}");

    let with_token = async |name: &str| {
        let account = env.cluster.service_account(&env.namespace, name).await;
        let token = folder.path().join(name);
        fs::write(&token, env.cluster.token(&account, &[]).await).expect("the folder is writable");
        (account, format!("--token-file {} --once --timeout", token.display()))
    };
    let (_, stranger) = with_token("stranger").await;
    let refused = tool(&env, &server, &format!("{stranger} 30s")).run().await;
    assert!(refused.code == 1 && refused.stderr.contains("PermissionDenied: "), "{refused:?}");
    let (account, reader) = with_token("reader").await;
    env.cluster.grant(&account, Some(&env.namespace), vec![rule("argoproj.io", "workflows", &["subscribe"])]).await;
    let idle = tool(&env, &server, &format!("{reader} 1s")).run().await;
    assert!(idle.code == 1 && idle.stderr.contains("has passed after 0 of 1 events"), "{idle:?}");
    let unreachable =
        Tool::new(&folder.path().join("none"), &["subscribe", "-n", "team", "--server", "127.0.0.1:1"]).run().await;
    assert!(unreachable.code == 1 && unreachable.stderr.contains("127.0.0.1:1"), "{unreachable:?}");
}

/// Without the authority, the certificate is refused. The admin port has the numbers.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_server_with_tls_and_its_numbers_of_runs() {
    let env = TestEnv::start(Peers::find().await).await;
    let folder = tempfile::tempdir().expect("a folder");
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("the folder is writable");
        path.display().to_string()
    };
    let cert = file("tls.crt", signed.cert.pem());
    let key = file("tls.key", signed.signing_key.serialize_pem());
    let flags = [format!("--tls-cert={cert}"), format!("--tls-key={key}"), format!("--namespaces={}", env.namespace)];
    let server = env.start_server(&[], &flags.each_ref().map(String::as_str)).await;
    let url = format!("--server https://{}", server.listen);
    let unknown = tool(&env, &server, &format!("{url} --once")).run().await;
    assert!(unknown.code == 1 && unknown.stderr.contains("certificate"), "{unknown:?}");
    let plaintext = tool(&env, &server, "--once --timeout 60s").run().await;
    assert!(plaintext.code == 1 && plaintext.stderr.contains("write its address as https://"), "{plaintext:?}");

    let numbers = format!("{url} --ca {cert} --admin {} --once --timeout 60s", server.admin);
    let mut stream = connected(&env, &server, &numbers).await;
    stream.said(&format!("In {}: 0 pending", env.namespace), 1).await;
    env.succeed("run-x").await;
    assert_eq!(stream.line().await, Some(payload("run-x")));
    assert_eq!(stream.ended().await, 0, "{}", stream.words());
}
