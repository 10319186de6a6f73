//! The sidecar in kfp-operator's Deployment, as Kustomize renders it: the operator is unchanged, the API server accepts
//! the objects, and the program runs with the sidecar's arguments. `tests/serve.rs` tests that a shutdown fits in the
//! operator's grace period.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]
#![allow(clippy::print_stdout, reason = "the time of a drain, for people")]

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

/// Ports of kfp-operator: metrics, health, run completion, secured metrics, webhooks.
const OPERATOR_PORTS: [u64; 5] = [8080, 8081, 8082, 8443, 9443];

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> Vec<Value> {
    manifests(&fs::read_to_string(file(path)).unwrap())
}

/// Renders a folder with Kustomize. Returns the objects, or the error.
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
async fn the_operator_is_unchanged() {
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

/// Without probes, the sidecar does not affect the readiness of the operator's Pod.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_sidecar_is_a_native_one_without_probes() {
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
async fn the_sidecar_is_restricted_and_its_memory_is_limited() {
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

/// The component for Kubeflow's API mounts a token of its audience, and changes nothing else of the operator.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn kubeflows_api_is_asked_with_a_token_of_its_audience() {
    let peers = Peers::with(&["kustomize"]).await;
    let with_api = kustomize(&peers, &file("tests/sidecar_kfp_api")).unwrap();
    let (with_api, plain) = (with_api.as_slice(), rendered().await);
    let role = format!("kfp-operator-{NAME}");
    let right = json!({"apiGroups": ["pipelines.kubeflow.org"], "resources": ["runs"], "verbs": ["get"]});
    assert!(find_object(with_api, "ClusterRole", &role)["rules"].as_array().unwrap().contains(&right));
    let container = sidecar(deployment(with_api));
    let variable = |name: &str| {
        let env = container["env"].as_array().unwrap();
        env.iter().find(|variable| variable["name"] == name).unwrap()["value"].as_str().unwrap()
    };
    assert_eq!(variable("MODEL_UPDATE_KFP_API"), "ml-pipeline.kubeflow:8887");
    let mount = &container["volumeMounts"][0];
    let token_file = format!("{}/token", mount["mountPath"].as_str().unwrap());
    assert_eq!(variable("MODEL_UPDATE_KFP_TOKEN_FILE"), token_file);
    let mut operator = pod(deployment(with_api)).clone();
    let volumes = operator["volumes"].as_array_mut().unwrap();
    let volume = volumes.iter().position(|volume| volume["name"] == mount["name"]).unwrap();
    let volume = volumes.remove(volume);
    assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["audience"], "pipelines.kubeflow.org");
    operator["initContainers"] = pod(deployment(&plain))["initContainers"].clone();
    assert_eq!(&operator, pod(deployment(&plain)));
}

/// The Services select the Pod and the ports of the sidecar.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn ports_are_unique_and_services_target_the_sidecar() {
    let rendered = rendered().await;
    let deployment = deployment(&rendered);
    let ports = |container: &Value| container["ports"].as_array().unwrap().clone();
    let (mut numbers, mut names) = (BTreeSet::from(OPERATOR_PORTS), BTreeSet::new());
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
    assert!(args.contains(&"--admin-listen=[::]:8090"), "{args:?}");
    for (service, flag, port) in [("server", "--listen", 50051), ("metrics", "--metrics-listen", 9090)] {
        assert!(args.contains(&&*format!("{flag}=[::]:{port}")), "{args:?}");
        assert!(ports(sidecar).iter().any(|declared| declared["containerPort"] == port), "{port}");
        let service = find_object(&rendered, "Service", &format!("kfp-operator-{NAME}-{service}"));
        assert_eq!(&service["spec"]["selector"], pod_labels);
        assert_eq!(service["metadata"]["namespace"], deployment["metadata"]["namespace"]);
        let [only] = &service["spec"]["ports"].as_array().unwrap()[..] else { panic!("{service}") };
        assert_eq!((&only["port"], &only["targetPort"]), (&json!(port), &json!(port)));
        assert_eq!(only.get("appProtocol"), None, "a mesh decides, as with the chart");
    }
    // The port in the operator's documentation.
    assert_eq!(Config::default().listen.port(), 50051);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_operators_account_may_list_watch_and_patch_workflows() {
    let peers = Peers::with(&["kustomize"]).await;
    let operator = fs::read_to_string(file(OPERATOR)).unwrap();
    let renamed = operator.replace("serviceAccountName: kfp-operator-controller-manager", "serviceAccountName: other");
    for (operator, account) in [(&operator, "kfp-operator-controller-manager"), (&renamed, "other")] {
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
async fn an_operator_with_another_name_is_an_error() {
    let peers = Peers::with(&["kustomize"]).await;
    let operator = fs::read_to_string(file(OPERATOR)).unwrap();
    let renamed = operator.replace("name: kfp-operator-controller-manager\n", "name: another-controller-manager\n");
    let refusal = kustomize(&peers, overlay(&renamed).path()).unwrap_err();
    assert!(
        refusal.contains("no matches for Id Deployment") && refusal.contains("kfp-operator-controller-manager"),
        "{refusal}"
    );
}

/// Creates a folder with a kustomization of this operator and the sidecar.
fn overlay(operator: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("operator.yaml"), operator).unwrap();
    // Kustomize accepts neither absolute paths nor symbolic links that point outside.
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
async fn the_documented_kustomization_adds_a_variable() {
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
async fn the_image_has_this_version() {
    let image = format!("{NAME}:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(sidecar(&read("sidecar/deployment.yaml")[0])["image"], image);
}

/// The result is the same as with Kustomize, and an upgrade of the operator keeps it.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_sidecar_can_be_applied_to_a_running_operator() {
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

/// The program runs with the arguments of the sidecar and the permissions of the operator's account. A shutdown waits for
/// the confirmation and the mark of an event.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn events_are_sent_and_marked_with_the_sidecars_arguments() {
    let peers = Peers::with(&["kustomize"]).await;
    let rendered = kustomize(&peers, &file("tests/sidecar")).unwrap();
    let cluster = peers.private_cluster().await;
    for object in &rendered {
        let stored = cluster.apply("kubectl", object).await.unwrap();
        if stored["kind"] == "Deployment" {
            // An API server without native sidecars drops the field; the operator's containers would then never start.
            assert_eq!(sidecar(&stored)["restartPolicy"], "Always");
        }
    }
    let kubeconfig = cluster.kubeconfig_file(&operators_token(&cluster, &rendered).await);

    // The arguments of the sidecar, then free ports: other tests run at the same time.
    let (args, environment) = (texts(&sidecar(deployment(&rendered))["args"]), environment(&rendered));
    assert_eq!(args[0], "serve");
    let ports = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"];
    let store = peers.metadata_store().await;
    let program =
        ServerProcess::start_with_env(&environment, &kubeconfig, &store.url(), &[&args[1..], &ports].concat());
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

    // The second event is read and not confirmed yet. The drain waits for the confirmation and the mark.
    workflows.create(NewWorkflow::tfx_v1("run-2", "penguin").phase("Succeeded")).await;
    subscriber.payload(SOON).await;
    let start = Instant::now();
    server.process.terminate();
    assert_eq!(server.process.exited(SHUTDOWN).await.code(), Some(0));
    println!("drained in {:.2?}, with one event to confirm and mark", start.elapsed());
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

/// Returns the environment variables of the sidecar. A reference to a field of the Pod is replaced by the field's path.
fn environment(rendered: &[Value]) -> Vec<String> {
    let variables = sidecar(deployment(rendered))["env"].as_array().unwrap();
    let assignment = |variable: &Value| {
        let value = variable["value"].as_str().or(variable["valueFrom"]["fieldRef"]["fieldPath"].as_str());
        format!("{}={}", variable["name"].as_str().unwrap(), value.unwrap())
    };
    variables.iter().map(assignment).collect()
}
