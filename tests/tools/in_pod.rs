//! A command in a Pod, with the addresses and rights that it has there without any flag.

use std::{fs, net::Ipv4Addr, path::Path};

use test_support::{can_have_root, report};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use super::*;

/// Gives a process what a kubelet gives a container: the files of a service account, the address of the API server, and the
/// names of Services. `$1` is a folder with these files, `$2` the port of the API server.
const IN_POD: &str = r#"
folder=$1; export HOME=$1 KUBERNETES_SERVICE_HOST=127.0.0.1 KUBERNETES_SERVICE_PORT=$2; shift 2
unset KUBECONFIG
mount -t tmpfs tmpfs /var/run/
mkdir -p /var/run/secrets/kubernetes.io
ln -s "$folder/account" /var/run/secrets/kubernetes.io/serviceaccount
mount --bind "$folder/hosts" /etc/hosts
exec "$@"
"#;

/// The port of ML Metadata's Service.
const PORT: u16 = 8080;

/// Makes a store reachable at the port of ML Metadata's Service, on an address of its own. Returns the address.
async fn metadata_service(url: &str) -> Ipv4Addr {
    let store = url.trim_start_matches("http://").to_owned();
    let [a, b, ..] = rand::random::<[u8; 4]>();
    let address = Ipv4Addr::new(127, 1, a, b);
    let listener = TcpListener::bind((address, PORT)).await.expect("a loopback address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&store).await.expect("the store runs");
            // The end of the command ends its connections.
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await.ok() });
        }
    });
    address
}

/// It explains the runs of the Pod's namespace with the rights of its service account, and asks Kubeflow's Service.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn explain_in_a_pod_needs_no_flags() {
    if !can_have_root() {
        report("skipped: a Pod's files are below /var/run/secrets, and `unshare --user --mount` is not allowed here");
        return;
    }
    let env = TestEnv::start(Peers::find().await).await;
    env.succeed("run-x").await;
    let account = env.cluster.service_account(&env.namespace, "notebook").await;
    env.cluster.grant(&account, Some(&env.namespace), vec![rule("argoproj.io", "workflows", &["get", "list"])]).await;
    let kubeconfig = fs::read_to_string(env.cluster.admin_kubeconfig_file()).unwrap();
    let kubeconfig: Value = serde_json::from_str(&kubeconfig).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("account");
    fs::create_dir(&files).unwrap();
    let ca = kubeconfig["clusters"][0]["cluster"]["certificate-authority"].as_str().expect("a path");
    fs::copy(ca, files.join("ca.crt")).unwrap();
    fs::write(files.join("token"), env.cluster.token(&account, &[]).await).unwrap();
    fs::write(files.join("namespace"), &env.namespace).unwrap();
    let address = metadata_service(&env.store.url()).await;
    let hosts = format!("127.0.0.1 localhost\n{address} metadata-grpc-service.kubeflow ml-pipeline.kubeflow\n");
    fs::write(folder.path().join("hosts"), hosts).unwrap();

    let (folder, url) = (folder.path().display().to_string(), env.cluster.url());
    let port = url.rsplit(':').next().expect("a port");
    let program = env!("CARGO_BIN_EXE_model-update-eventsource");
    let explain = async |arguments: &[&str]| {
        let private = ["--user", "--map-root-user", "--mount", "sh", "-ec", IN_POD, "sh", &folder, port, program];
        Tool::of(Path::new("unshare"), Path::new(""), &[&private[..], &["explain"], arguments].concat()).run().await
    };
    let table = explain(&[]).await;
    assert!(table.code == 0 && table.stdout.contains("run-x"), "{table:?}");
    let ran = explain(&["run-x", "-o", "json"]).await;
    let story: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    assert_eq!(story["artifacts"][0]["reason"], "counts", "{story:#}");
    assert!(story["artifacts"][0].to_string().contains("gs://root/run-x"), "{story:#}");
}
