//! The rights and policies for subscribers: the chart's ClusterRole, and the policies of docs/mesh.md.

use test_support::{Cluster, Line, RunningServer, SOON, ServerProcess, ServiceAccount, eventually};

use super::{
    applied::{apply, create_namespaces},
    *,
};

/// Definitions of the kinds of cert-manager and of meshes.
pub(crate) async fn define_kinds(cluster: &Cluster) {
    for definition in manifests(include_str!("mesh-crds.yaml")) {
        cluster.apply("test", &definition).await.unwrap();
        let spec = &definition["spec"];
        let [group, version, plural] =
            [&spec["group"], &spec["versions"][0]["name"], &spec["names"]["plural"]].map(|text| text.as_str().unwrap());
        let path = format!("/apis/{group}/{version}/{plural}");
        eventually(SOON, &path, async || {
            let request = http::Request::get(&path).body(Vec::new()).unwrap();
            cluster.client().await.request_text(request).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
}

/// The account of the chart can make reviews, and the command in a refusal is one binding to the chart's ClusterRole.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_command_of_a_refusal_binds_the_role_of_the_chart() {
    let peers = peers().await;
    let cluster = peers.private_cluster().await;
    create_namespaces(&cluster, &[NAMESPACE, "team-a"]).await;
    apply(&cluster, &rendered(&peers, &["--set", "auth.mode=token"])).await;
    let ours = ServiceAccount { namespace: NAMESPACE.to_owned(), name: FULLNAME.to_owned() };
    let kubeconfig = cluster.kubeconfig_file(&cluster.token(&ours, &[]).await);
    let role = format!("--subscriber-role={CLUSTER_NAME}-subscriber");
    let flags = ["--auth=token", "--auth-cache-deny=1s", &role];
    let server: RunningServer = ServerProcess::start(&kubeconfig, "http://127.0.0.1:9", &flags).listening().await;
    server.ready().await;
    let account = cluster.service_account("team-a", "events").await;
    let token = cluster.token(&account, &[]).await;
    let subscribe = async || {
        let mut client = peers.grpc_go_client(server.listen, "kfpNamespace: team-a").token(&token).start();
        client.next(SOON).await.unwrap()
    };
    let Line::Status { code, message } = subscribe().await else { panic!("not refused") };
    assert_eq!(code, "PermissionDenied", "{message}");
    let (_, command) = message.split_once("grant it: ").unwrap();
    assert!(command.contains(&format!("--clusterrole={CLUSTER_NAME}-subscriber")), "{command}");
    cluster.kubectl(command).await.unwrap();
    eventually(SOON, command, async || match subscribe().await {
        Line::Open(true) => Ok(()),
        refused => Err(refused),
    })
    .await;
}

/// The policies of docs/mesh.md have only fields that the meshes know.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_documented_policies_are_accepted() {
    let peers = peers().await;
    let cluster = peers.private_cluster().await;
    create_namespaces(&cluster, &[NAMESPACE]).await;
    define_kinds(&cluster).await;
    let page = fs::read_to_string(file("docs/mesh.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1).map(|block| block.split("```").next().unwrap());
    let objects: Vec<_> = blocks.flat_map(manifests).filter(|object| object["kind"] != Value::Null).collect();
    assert!(objects.len() >= 5, "{objects:?}");
    let chart = rendered(&peers, &[]);
    let labels = &find_object(&chart, "Deployment", FULLNAME)["spec"]["template"]["metadata"]["labels"];
    for object in &objects {
        cluster.apply("docs", object).await.unwrap_or_else(|refusal| panic!("{refusal}: {object}"));
        for selector in ["/spec/selector/matchLabels", "/spec/podSelector/matchLabels"] {
            let selected = object.pointer(selector).and_then(Value::as_object).into_iter().flatten();
            selected.for_each(|(key, value)| assert_eq!(labels[key], *value, "{object}"));
        }
    }
}
