//! The sources of models: one list of cases for Kubeflow's API and ML Metadata, what is particular to the API, and an
//! upgrade from one to the other.

mod cases;
mod faults;
mod kfp;
mod stores;
mod upgrade;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use model_update_eventsource::{
    delivery::ArtifactLookup,
    kfp::{Kfp, LookupMetrics, Options},
    mlmd::{self, Mlmd},
    model::{Marks, Phase, PipelineName, RunId, Workflow, event},
};
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use test_support::{KfpServer, KfpUser, Peers, Users, report};

use crate::cases::{Case, Expected};

const NAMESPACE: &str = "team-a";
const WORKFLOW: &str = "taxi-x7k2p";
const TOKEN: &str = "the-token-of-the-server";

/// A Workflow of Kubeflow Pipelines 2 or 3 that succeeded just now.
fn workflow(pipeline: PipelineName, run_id: &str) -> Workflow {
    Workflow {
        namespace: NAMESPACE.into(),
        name: WORKFLOW.into(),
        uid: rand::random::<u128>().into(),
        created: now(),
        finished: 0,
        phase: Phase::Succeeded,
        resubmitted: false,
        events_published: false,
        pipeline: pipeline.into(),
        run_id: Some(RunId::new(run_id)),
        trace_id: None,
        marks: Marks::default(),
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("a few decades")
}

/// A server for several users, and the adapter with a token.
struct Env {
    server: KfpServer,
    kfp: Kfp,
    folder: TempDir,
}

impl Env {
    async fn start() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let user = KfpUser { token: TOKEN.to_owned(), namespaces: [NAMESPACE, "team-b"].map(str::to_owned).into() };
        let server = KfpServer::start_for(Users::Many(vec![user]), None).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let token = folder.path().join("token");
        std::fs::write(&token, TOKEN).expect("written");
        let options = Options { token: Some(token), ..options };
        let kfp = Kfp::new(&server.url(), &options, LookupMetrics::new(&mut Registry::default())).expect("a URL");
        Self { server, kfp, folder }
    }
}

async fn answer(lookup: &dyn ArtifactLookup, case: &Case) -> Expected {
    let Case { workflow, types, .. } = case;
    match lookup.find(workflow, &Arc::new(types.clone())).await {
        Err(error) => Expected::Failure(error),
        Ok(found) if workflow.phase == Phase::Failed => {
            Expected::Pipeline(found.pipeline.as_deref().unwrap_or("?").to_owned())
        }
        Ok(found) => {
            let pipeline = event::pipeline_name(workflow, &found).unwrap_or("?");
            let models = found.models.iter();
            Expected::Models(
                models.map(|model| (model.display_name(pipeline, &workflow.name), model.uri.to_string())).collect(),
            )
        }
    }
}

/// Each case with its calls and the bytes of their answers.
#[tokio::test]
async fn kubeflows_api_passes_every_case() {
    let env = Env::start().await;
    let mut table = String::from("case | calls | bytes\n");
    for case in cases::cases() {
        stores::store_in_kfp(&env.server, &case.runs);
        assert_eq!(answer(&env.kfp, &case).await, case.expected, "{}", case.name);
        let calls = env.server.calls();
        let bytes: usize = calls.iter().map(|call| call.bytes).sum();
        assert!(calls.iter().all(|call| call.authorization.as_deref() == Some(&*format!("Bearer {TOKEN}"))));
        table.push_str(&format!("{} | {} | {bytes}\n", case.name, calls.len()));
    }
    report(table);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn ml_metadata_passes_every_case() {
    let mut store = stores::MlmdStore::new(Peers::find().await.metadata_store().await).await;
    let metrics = mlmd::LookupMetrics::new(&mut Registry::default());
    let mlmd = Mlmd::new(&store.store.url(), &mlmd::Options::default(), metrics).expect("a URL");
    for case in cases::cases() {
        store.store(&case.runs).await;
        assert_eq!(answer(&mlmd, &case).await, case.expected, "{}", case.name);
    }
}

/// A time after which nothing else is expected.
const SOON: Duration = Duration::from_secs(10);
