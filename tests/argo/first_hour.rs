//! The first hour with the chart: its documented commands, as they stand, on an API server on which kfp-operator is
//! installed. No kubelet runs, so the containers of the stored Pods run as processes.

use std::{fs, net::SocketAddr, path::Path};

use serde_json::{Value, json};
use test_support::{
    ArgoEvents, ChildProcess, JetStream, MetadataStore, NewWorkflow, PIPELINE, Peers, RunningServer, SOON, START,
    ServerProcess, ServiceAccount, Shell, Task, code_blocks, documented_commands, eventually, find_object, free_port,
    manifests,
};

use crate::{CONNECTED, DELIVERY, location, with_url};

const NAMESPACE: &str = "kfp-operator-system";
const NAME: &str = "kfp-operator-model-update-eventsource";
/// The Workflow in the documentation.
const RUN: &str = "penguin-x7k2p";

/// Returns a file of the repository.
fn page(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Returns the command of a page that begins with this text.
fn command(page: &str, start: &str) -> String {
    let found = documented_commands(page).into_iter().find(|command| command.starts_with(start));
    found.unwrap_or_else(|| panic!("no command {start}"))
}

/// Installs a stand-in of kfp-operator's chart, under the release name of its documentation.
async fn install_operator(shell: &Shell) {
    let chart = shell.folder().join("kfp-operator");
    fs::create_dir_all(chart.join("templates")).unwrap();
    fs::write(chart.join("Chart.yaml"), "{apiVersion: v2, name: kfp-operator, version: 1.0.0}").unwrap();
    let objects = manifests(&page("tests/sidecar/operator.yaml"));
    let deployment = find_object(&objects, "Deployment", "kfp-operator-controller-manager");
    fs::write(chart.join("templates/deployment.yaml"), deployment.to_string()).unwrap();
    shell.succeeds("helm install kfp-operator kfp-operator --namespace kfp-operator-system --create-namespace").await;
}

async fn stored(shell: &Shell, object: &str, namespace: &str) -> Value {
    serde_json::from_str(&shell.succeeds(&format!("kubectl get {object} -n {namespace} -o json")).await).unwrap()
}

/// Runs the container of the demo's Deployment.
async fn run_demo(shell: &Shell) -> (ChildProcess, SocketAddr) {
    let deployment = stored(shell, &format!("deployment {NAME}-demo"), NAMESPACE).await;
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert!(container["command"].is_null(), "the entry point of the image is the program: {container}");
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let args = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
    let args: Vec<_> = args.map(|arg| arg.replace("[::]:50051", &listen.to_string())).collect();
    assert!(args.contains(&format!("--listen={listen}")), "{args:?}");
    let mut demo = ChildProcess::new("demo", env!("CARGO_BIN_EXE_model-update-eventsource").into());
    demo.set_args(args);
    demo.start();
    (demo, listen)
}

/// Runs the container of the server's Deployment, with its variables and account.
async fn run_server(shell: &Shell, cluster: &test_support::Cluster, store: &MetadataStore) -> RunningServer {
    let deployment = stored(shell, &format!("deployment {NAME}"), NAMESPACE).await;
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["args"], json!(["serve"]));
    let variables = pod["containers"][0]["env"].as_array().unwrap().iter();
    let variables = variables.filter_map(|variable| {
        Some(format!("{}={}", variable["name"].as_str().unwrap(), variable.get("value")?.as_str().unwrap()))
    });
    let account = pod["serviceAccountName"].as_str().unwrap().to_owned();
    let account = ServiceAccount { namespace: NAMESPACE.to_owned(), name: account };
    let kubeconfig = cluster.kubeconfig_file(&cluster.token(&account, &[]).await);
    let (variables, ports) = (variables.collect::<Vec<_>>(), ["--metrics-listen=127.0.0.1:0"]);
    let server = ServerProcess::start_with_env(&variables, &kubeconfig, &store.url(), &ports).listening().await;
    server.ready().await;
    server
}

/// An EventSource and a Sensor that were applied, in Argo Events' own code.
struct Team {
    source: ArgoEvents,
    sensor: ArgoEvents,
    _bus: JetStream,
}

impl Team {
    async fn start(peers: &Peers, shell: &Shell, namespace: &str, server: SocketAddr) -> Self {
        let bus = peers.jet_stream().await;
        let sensor = stored(shell, "sensor model-updates", namespace).await;
        let mut sensor = peers.argo_events(&bus, None, Some(&sensor.to_string()));
        sensor.logged(START, &["sensor", "Subscribing to subject"]).await;
        let source = with_url(&stored(shell, "eventsource model-updates", namespace).await, server);
        let mut source = peers.argo_events(&bus, Some(&source.to_string()), None);
        source.logged(START, &[CONNECTED]).await;
        Self { source, sensor, _bus: bus }
    }

    /// Waits for the log line of a Sensor's trigger, and returns the event in it.
    async fn event(&mut self, location: &str) -> Value {
        let line = self.sensor.logged(DELIVERY, &["\"dependencyName\":\"model\"", location]).await;
        let line: Value = serde_json::from_str(&line).unwrap();
        serde_json::from_str::<Value>(line["msg"].as_str().unwrap()).unwrap()["body"].clone()
    }

    fn received(&self) -> usize {
        self.source.log().matches("received an event from server").count()
    }
}

/// The platform engineer installs, and sees the demo's events at a Sensor; an ML engineer sees those of a real run, asks why
/// another did not arrive, and has one sent again.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_documented_commands_lead_to_the_first_events() {
    let peers = Peers::with(&["argo-events", "nats-server", "helm", "kubectl"]).await;
    let (cluster, store) = (peers.private_cluster().await, peers.metadata_store().await);
    let shell = peers.shell(&cluster.admin_kubeconfig_file(), &["helm", "kubectl"]);
    shell.install_argo_events(&peers.argo_crds()).await;
    install_operator(&shell).await;
    let operator = stored(&shell, "deployment kfp-operator-controller-manager", NAMESPACE).await;

    let (readme, chart) = (page("README.md"), page("helm/README.md"));
    let manifest = code_blocks(&readme, "yaml").into_iter().find(|block| block.starts_with("apiVersion: ")).unwrap();
    fs::write(shell.folder().join("model-updates.yaml"), manifest).unwrap();
    let image = command(&readme, "IMAGE=");
    let install = command(&readme, "helm install ");
    assert!(readme.find("docker buildx build") < readme.find(&install), "the image is built before it is installed");
    shell.succeeds(&format!("{image}\n{install}")).await;
    let enable_demo =
        "helm upgrade model-update-eventsource helm --namespace kfp-operator-system --reuse-values --set demo";
    let upgrade =
        "helm upgrade model-update-eventsource helm --namespace kfp-operator-system --reset-then-reuse-values";
    shell.succeeds(&command(&chart, upgrade)).await;
    let notes = shell.succeeds(&command(&chart, enable_demo)).await;
    assert!(notes.contains(&format!("{NAME}-demo.{NAMESPACE}:50051")), "{notes}");
    for start in ["kubectl create namespace demo", "sed -e", "kubectl logs --namespace demo"] {
        shell.succeeds(&command(&chart, start)).await;
    }
    let (_demo, demo) = run_demo(&shell).await;

    let events =
        "helm upgrade model-update-eventsource helm --namespace kfp-operator-system --reuse-values --set kubernetesE";
    shell.succeeds(&command(&chart, events)).await;
    for start in ["kubectl create namespace team-a", "kubectl apply --namespace team-a"] {
        shell.succeeds(&command(&readme, start)).await;
    }
    let server = run_server(&shell, &cluster, &store).await;
    let (mut of_demo, mut team) =
        tokio::join!(Team::start(&peers, &shell, "demo", demo), Team::start(&peers, &shell, "team-a", server.listen));
    let event = of_demo.event("gs://models/penguin-pipeline/Pusher/pushed_model/").await;
    assert_eq!(event["pipelineName"], "penguin-pipeline");

    let workflows = cluster.workflows("team-a").await;
    let writer = store.writer().await;
    for (run, task) in [(RUN, Task::pusher(&location(RUN))), ("penguin-without", Task::new("Trainer"))] {
        writer.tfx_run(PIPELINE, run).await.task(task).await;
        workflows.create(NewWorkflow::tfx_v1(run, PIPELINE).phase("Succeeded")).await;
    }
    assert_eq!(team.event(&location(RUN)).await["pipelineName"], PIPELINE);

    // "My event did not arrive."
    let guarantees = page("docs/guarantees.md");
    let columns = command(&guarantees, "kubectl get workflows ").replace("deployer", "logger");
    eventually(SOON, "the mark", async || {
        let table = shell.succeeds(&columns).await;
        let rows: Vec<Vec<_>> =
            table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        let uid = workflows.get(RUN).await.metadata.uid.unwrap();
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let expected = [
            row(["RUN", "PHASE", "DEPLOYER"]),
            row(["penguin-without", "Succeeded", "<none>"]),
            row([RUN, "Succeeded", &uid]),
        ];
        if rows == expected { Ok(()) } else { Err(table) }
    })
    .await;
    let describe = command(&guarantees, "kubectl describe workflow ");
    for (run, reason) in [(RUN, "Delivered"), ("penguin-without", "NoModel")] {
        let describe = describe.replace(RUN, run);
        eventually(SOON, reason, async || {
            let printed = shell.succeeds(&describe).await;
            if printed.contains(reason) { Ok(()) } else { Err(printed) }
        })
        .await;
    }
    let redeliver = command(&guarantees, "kubectl annotate workflow ").replace("deployer", "logger");
    shell.succeeds(&redeliver).await;
    eventually(DELIVERY, "the event again", async || team.received() == 2).await;

    let after = stored(&shell, "deployment kfp-operator-controller-manager", NAMESPACE).await;
    assert_eq!(after, operator, "kfp-operator is as before");
    for start in [
        "helm upgrade model-update-eventsource helm --namespace kfp-operator-system --reuse-values --set demo.enabled=false",
        "kubectl delete namespace demo",
    ] {
        shell
            .succeeds(&if start.starts_with("kubectl") {
                format!("{} --wait=false", command(&chart, start))
            } else {
                command(&chart, start)
            })
            .await;
    }
    server.stop().await;
}
