//! `report`, `runbook` and `man`, as they are called.

use std::{io::Read as _, path::Path};

use flate2::read::GzDecoder;
use test_support::{NewWorkflow, PIPELINE, ServerProcess, Task};

use super::{kubelet::Pod, *};

const RUN: &str = "run-of-the-report";
const LOCATION: &str = "gs://confidential-bucket/model";

/// The files of an archive, by their names without its folder.
fn files(archive: &Path) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(GzDecoder::new(std::fs::File::open(archive).expect("an archive")));
    let entries = archive.entries().expect("an archive").map(|entry| {
        let mut entry = entry.expect("an archive");
        let path = entry.path().expect("an archive").into_owned();
        let name = path.iter().skip(1).collect::<std::path::PathBuf>().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("an archive");
        (name, text)
    });
    entries.collect()
}

fn file<'a>(files: &'a [(String, String)], name: &str) -> &'a str {
    let found = files.iter().find(|(found, _)| found == name);
    &found.unwrap_or_else(|| panic!("{name}: {:?}", files.iter().map(|(name, _)| name).collect::<Vec<_>>())).1
}

/// After a delivery, from the server's Pod, through a port-forward. The node's log is not there, which is said.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_report_contains_everything_but_secrets() {
    // The label of the server's Pods is one for the whole cluster.
    let peers = Peers::find().await;
    let (cluster, store) = tokio::join!(peers.private_cluster(), peers.metadata_store());
    let namespace = cluster.namespace("team").await;
    let workflows = cluster.workflows(&namespace).await;
    let kubeconfig = cluster.admin_kubeconfig_file();
    let server = ServerProcess::start(&kubeconfig, &store.url(), &[]).listening().await;
    server.ready().await;
    let mut subscriber = peers.grpc_go_client(server.listen, &format!("kfpNamespace: {namespace}")).start();
    workflows.create(NewWorkflow::tfx_v1(RUN, PIPELINE)).await;
    store.writer().await.tfx_run(PIPELINE, RUN).await.task(Task::pusher(LOCATION)).await;
    workflows.set_phase(RUN, "Succeeded").await;
    assert!(subscriber.payload(CATCH_UP).await.contains(LOCATION));
    server.process.logged("delivered").await;
    let pod = Pod {
        namespace: &namespace,
        name: "server-1",
        labels: json!({"app.kubernetes.io/name": "model-update-eventsource"}),
        ports: vec![("admin", 8080, server.admin)],
    };
    pod.start(&cluster).await;

    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("report.tar.gz");
    let ran = Tool::new(&kubeconfig, &["report", "-o", archive.to_str().unwrap()]).run().await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("look through it before you share it"), "{}", ran.stderr);
    let files = files(&archive);
    for (name, _) in &files {
        assert!(ran.stdout.contains(name.as_str()), "{name}: {}", ran.stdout);
    }
    for (name, expected) in [
        ("server-1/readyz.txt", "ok\n"),
        ("server-1/metrics.txt", "modelupdate_events_sent_total"),
        ("server-1/statusz.json", RUN),
        ("kubernetes.json", "gitVersion"),
        ("rights.txt", "patch workflows.argoproj.io in all namespaces: yes"),
        ("server-account.txt", "The server runs as system:serviceaccount:"),
        ("README.txt", "server-1/log-server.txt: not available: "),
    ] {
        let text = file(&files, name);
        assert!(text.contains(expected), "{name} without {expected}: {text}");
    }
    for (name, text) in &files {
        for secret in [LOCATION, "servingModelArtifacts", "eyJ"] {
            assert!(!text.contains(secret), "{name} contains {secret}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_report_is_written_without_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("report.tar.gz");
    let none = folder.path().join("none");
    let ran = Tool::new(&none, &["report", "-o", archive.to_str().unwrap()]).run().await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(file(&files(&archive), "cluster.txt").contains("no Kubernetes configuration"));
}

/// The alerts of the documentation, each with a runbook.
const RUNBOOKS: usize = 17;

#[tokio::test]
async fn a_runbook_is_found_by_its_alert() {
    let none = Path::new("/nonexistent");
    let list = Tool::new(none, &["runbook"]).run().await;
    assert!(list.code == 0 && list.stdout.lines().count() == RUNBOOKS + 1, "{}", list.stdout);
    let page = Tool::new(none, &["runbook", "ModelUpdateRunsPending"]).run().await;
    assert!(page.code == 0 && page.stdout.starts_with("# ModelUpdateRunsPending\n"), "{}", page.stdout);
    let wrong = Tool::new(none, &["runbook", "RunsPendig"]).run().await;
    assert!(wrong.code == 2 && wrong.stderr.contains("did you mean ModelUpdateRunsPending?"), "{}", wrong.stderr);
}

#[tokio::test]
async fn manual_pages_are_written_to_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("man1");
    let ran = Tool::new(Path::new("/nonexistent"), &["man", "--dir", dir.to_str().unwrap()]).run().await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let page = std::fs::read_to_string(dir.join("model-update-eventsource-serve.1")).unwrap();
    assert!(page.contains("status\\-page"), "{page}");
    let printed = Tool::new(Path::new("/nonexistent"), &["man", "serve"]).run().await;
    assert_eq!(printed.stdout, page);
}
