//! The sidecar, as Kustomize lays it over kfp-operator: it takes nothing away from the operator, the API server takes
//! it, and the program runs with what stands in it. Its end within the operator's grace period is shown in
//! `tests/serve.rs`; here is how long it takes with an event under way.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]
#![allow(clippy::print_stdout, reason = "the time a drain takes is for people to read")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use model_update_eventsource::{app::Config, model::workflow::MARK_PREFIX};
use serde_json::{Value, json};
use test_support::{
    Cluster, Line, NewWorkflow, Peers, SHUTDOWN, SOON, ServerProcess, ServiceAccount, Task, eventually, find_object,
    manifests,
};

const NAME: &str = "model-update-eventsource";
const OPERATOR: &str = "tests/sidecar/operator.yaml";
/// Where kfp-operator listens: metrics, health, run completion, metrics once more (secured), webhooks.
const TAKEN: [u64; 5] = [8080, 8081, 8082, 8443, 9443];

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> Vec<Value> {
    manifests(&fs::read_to_string(file(path)).unwrap())
}

/// What Kustomize makes of a folder, or why it refuses.
fn kustomize(peers: &Peers, folder: &Path) -> Result<Vec<Value>, String> {
    let output = Command::new(peers.program("kustomize")).arg("build").arg(folder).output().unwrap();
    if output.status.success() {
        Ok(manifests(&String::from_utf8(output.stdout).unwrap()))
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

async fn rendered() -> Vec<Value> {
    let peers = Peers::with(&["kustomize"]).await;
    kustomize(&peers, &file("tests/sidecar")).unwrap()
}

fn deployment(objects: &[Value]) -> &Value {
    find_object(objects, "Deployment", "kfp-operator-controller-manager")
}

fn pod(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]
}

fn sidecar(deployment: &Value) -> &Value {
    &pod(deployment)["initContainers"][0]
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn everything_of_the_operator_stays_as_it_was() {
    let rendered = rendered().await;
    for before in read(OPERATOR) {
        let (kind, name) = (before["kind"].as_str().unwrap(), before["metadata"]["name"].as_str().unwrap());
        let mut after = find_object(&rendered, kind, name).clone();
        if kind == "Deployment" {
            let pod = after["spec"]["template"]["spec"].as_object_mut().unwrap();
            assert_eq!(pod.remove("initContainers").unwrap().as_array().unwrap().len(), 1);
        }
        assert_eq!(after, before, "{kind} {name}");
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_sidecar_is_a_native_one_that_no_probe_ties_to_the_operators_readiness() {
    let rendered = rendered().await;
    let sidecar = sidecar(deployment(&rendered));
    assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&json!(NAME), &json!("Always")));
    for probe in ["readinessProbe", "startupProbe", "livenessProbe", "lifecycle"] {
        assert!(sidecar.get(probe).is_none(), "{probe}");
    }
    assert_eq!(sidecar["image"], "registry.example.com/ml/model-update-eventsource:1.2.3");
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_sidecar_is_restricted_and_cannot_use_up_its_pods_share_of_the_node() {
    let rendered = rendered().await;
    let sidecar = sidecar(deployment(&rendered));
    let security = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": 65532,
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    assert_eq!(sidecar["securityContext"], security);
    let resources = &sidecar["resources"];
    assert_eq!(resources["limits"]["memory"], resources["requests"]["memory"]);
    assert!(resources["requests"]["cpu"].is_string() && resources["limits"].get("cpu").is_none(), "{resources}");
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn no_port_is_taken_twice_by_number_or_by_name_and_the_services_lead_to_the_sidecars() {
    let rendered = rendered().await;
    let deployment = deployment(&rendered);
    let ports = |container: &Value| container["ports"].as_array().unwrap().clone();
    let (mut numbers, mut names) = (BTreeSet::from(TAKEN), BTreeSet::new());
    for port in pod(deployment)["containers"].as_array().unwrap().iter().flat_map(ports) {
        numbers.insert(port["containerPort"].as_u64().unwrap());
        names.insert(port["name"].as_str().unwrap().to_owned());
    }
    let sidecar = sidecar(deployment);
    for port in ports(sidecar) {
        assert!(numbers.insert(port["containerPort"].as_u64().unwrap()), "{port}");
        assert!(names.insert(port["name"].as_str().unwrap().to_owned()), "{port}");
    }
    let args = texts(&sidecar["args"]);
    let pod_labels = &deployment["spec"]["template"]["metadata"]["labels"];
    for (service, flag, port) in [("server", "--listen", 50051), ("metrics", "--admin-listen", 8090)] {
        assert!(args.contains(&&*format!("{flag}=0.0.0.0:{port}")), "{args:?}");
        assert!(ports(sidecar).iter().any(|declared| declared["containerPort"] == port), "{port}");
        let service = find_object(&rendered, "Service", &format!("kfp-operator-{NAME}-{service}"));
        assert_eq!(&service["spec"]["selector"], pod_labels);
        assert_eq!(service["metadata"]["namespace"], deployment["metadata"]["namespace"]);
        let [only] = &service["spec"]["ports"].as_array().unwrap()[..] else { panic!("{service}") };
        assert_eq!((&only["port"], &only["targetPort"]), (&json!(port), &json!(port)));
    }
    // What the operator's documentation and every EventSource that follows it dial.
    assert_eq!(Config::default().listen.port(), 50051);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_rights_are_three_verbs_for_whichever_account_the_operator_runs_as() {
    let peers = Peers::with(&["kustomize"]).await;
    let operator = fs::read_to_string(file(OPERATOR)).unwrap();
    let other = operator.replace("serviceAccountName: kfp-operator-controller-manager", "serviceAccountName: other");
    for (operator, account) in [(&operator, "kfp-operator-controller-manager"), (&other, "other")] {
        let rendered = kustomize(&peers, overlay(operator).path()).unwrap();
        let role = find_object(&rendered, "ClusterRole", &format!("kfp-operator-{NAME}"));
        let rules =
            json!([{"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["list", "watch", "patch"]}]);
        assert_eq!(role["rules"], rules);
        let binding = find_object(&rendered, "ClusterRoleBinding", &format!("kfp-operator-{NAME}"));
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
        let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": "kfp-operator-system"});
        assert_eq!(binding["subjects"], json!([subject]));
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_operator_of_another_name_is_refused_and_not_passed_over_in_silence() {
    let peers = Peers::with(&["kustomize"]).await;
    let operator = fs::read_to_string(file(OPERATOR)).unwrap();
    let other = operator.replace("name: kfp-operator-controller-manager\n", "name: another-controller-manager\n");
    let refusal = kustomize(&peers, overlay(&other).path()).unwrap_err();
    assert!(
        refusal.contains("no matches for Id Deployment") && refusal.contains("kfp-operator-controller-manager"),
        "{refusal}"
    );
}

/// A folder in which the sidecar is laid over this operator.
fn overlay(operator: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("operator.yaml"), operator).unwrap();
    // Kustomize takes no absolute paths, and nothing through a symbolic link that leads out.
    fs::create_dir(folder.path().join("sidecar")).unwrap();
    for entry in fs::read_dir(file("sidecar")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join("sidecar").join(entry.file_name())).unwrap();
    }
    let kustomization = json!({"resources": ["operator.yaml"], "components": ["sidecar"]});
    fs::write(folder.path().join("kustomization.yaml"), kustomization.to_string()).unwrap();
    folder
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn what_the_documentation_has_its_readers_write_renders_and_adds_a_variable() {
    let peers = Peers::with(&["kustomize"]).await;
    let page = fs::read_to_string(file("docs/sidecar.md")).unwrap();
    let block = page.split("   ```yaml\n").nth(1).and_then(|rest| rest.split("   ```").next()).unwrap();
    let folder = overlay(&fs::read_to_string(file(OPERATOR)).unwrap());
    fs::write(folder.path().join("kustomization.yaml"), block).unwrap();
    let rendered = kustomize(&peers, folder.path()).unwrap();
    let (plain, documented) = (self::rendered().await, sidecar(deployment(&rendered)));
    let names = |sidecar: &Value| -> BTreeSet<String> {
        sidecar["env"].as_array().unwrap().iter().map(|variable| variable["name"].to_string()).collect()
    };
    let mut expected = names(sidecar(deployment(&plain)));
    expected.insert("\"MODEL_UPDATE_METADATA_STORE\"".to_owned());
    assert_eq!(names(documented), expected);
    let image = format!("registry.example.com/ml/{NAME}:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(documented["image"], image);
    assert!(page.contains(&format!("s#image: .*#image: {image}#")), "the image of a server-side apply");
}

#[tokio::test]
async fn the_image_of_the_sidecar_is_of_this_version() {
    let image = format!("{NAME}:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(sidecar(&read("sidecar/deployment.yaml")[0])["image"], image);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn laid_over_an_operator_that_runs_already_it_becomes_the_same_and_stays_when_the_operator_is_applied_again() {
    let peers = Peers::with(&["kustomize"]).await;
    let rendered = kustomize(&peers, &file("tests/sidecar")).unwrap();
    let cluster = peers.private_cluster().await;
    let operator = read(OPERATOR);
    for object in &operator {
        cluster.apply("helm", object).await.unwrap();
    }
    let mut patch = read("sidecar/deployment.yaml").remove(0);
    let image = sidecar(deployment(&rendered))["image"].clone();
    patch["spec"]["template"]["spec"]["initContainers"][0]["image"] = image;
    let patched = cluster.apply(NAME, &patch).await.unwrap();
    let upgraded = cluster.apply("helm", deployment(&operator)).await.unwrap();
    assert_eq!(pod(&upgraded), pod(&patched));
    let whole = cluster.apply("helm", deployment(&rendered)).await.unwrap();
    assert_eq!(pod(&whole), pod(&patched));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn with_the_sidecars_arguments_and_the_operators_account_an_event_goes_out_is_marked_and_the_drain_is_short() {
    let peers = Peers::with(&["kustomize"]).await;
    let rendered = kustomize(&peers, &file("tests/sidecar")).unwrap();
    let cluster = peers.private_cluster().await;
    for object in &rendered {
        let stored = cluster.apply("kubectl", object).await.unwrap();
        if stored["kind"] == "Deployment" {
            // A server that does not know native sidecars drops the field, and the operator never starts.
            assert_eq!(sidecar(&stored)["restartPolicy"], "Always");
        }
    }
    let kubeconfig = cluster.kubeconfig_file(&operators_token(&cluster, &rendered).await);

    // Exactly what stands in the sidecar; then free ports, for other tests run beside this one.
    let (args, environment) = (texts(&sidecar(deployment(&rendered))["args"]), environment(&rendered));
    assert_eq!(args[0], "serve");
    let here = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];
    let store = peers.metadata_store().await;
    let program = ServerProcess::start_with_env(&environment, &kubeconfig, &store.url(), &[&args[1..], &here].concat());
    let mut server = program.listening().await;
    server.ready().await;

    let namespace = cluster.namespace("team").await;
    let mut subscriber = peers.grpc_go_client(server.listen, &format!("kfpNamespace: {namespace}")).start();
    assert_eq!(subscriber.next(SOON).await, Some(Line::Open(true)));
    let workflows = cluster.workflows(&namespace).await;
    let writer = store.writer().await;
    for run in ["run-1", "run-2"] {
        writer.tfx_run("penguin", run).await.task(Task::pusher("gs://root/1")).await;
    }
    workflows.create(NewWorkflow::tfx_v1("run-1", "penguin").phase("Succeeded")).await;
    subscriber.payload(SOON).await;
    eventually(SOON, "the first mark", async || workflows.annotations("run-1", MARK_PREFIX).await.len() == 1).await;

    // The second is read and not confirmed yet: the drain has to wait for that, and for the mark.
    workflows.create(NewWorkflow::tfx_v1("run-2", "penguin").phase("Succeeded")).await;
    subscriber.payload(SOON).await;
    let asked = Instant::now();
    server.process.terminate();
    assert_eq!(server.process.exited(SHUTDOWN).await.code(), Some(0));
    println!("drained in {:.2?}, with one event to be confirmed and marked", asked.elapsed());
    assert_eq!(workflows.annotations("run-2", MARK_PREFIX).await.len(), 1);
}

async fn operators_token(cluster: &Cluster, rendered: &[Value]) -> String {
    let deployment = deployment(rendered);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let account = ServiceAccount {
        namespace: text(&deployment["metadata"]["namespace"]),
        name: text(&pod(deployment)["serviceAccountName"]),
    };
    cluster.token(&account, &[]).await
}

/// The sidecar's variables, with names where a Pod has its own.
fn environment(rendered: &[Value]) -> Vec<String> {
    let variables = sidecar(deployment(rendered))["env"].as_array().unwrap();
    let assignment = |variable: &Value| {
        let value = variable["value"].as_str().or(variable["valueFrom"]["fieldRef"]["fieldPath"].as_str());
        format!("{}={}", variable["name"].as_str().unwrap(), value.unwrap())
    };
    variables.iter().map(assignment).collect()
}
