//! The adapter as a whole, over gRPC, with a server in memory.

mod ahead;
mod answers;
mod connection;
mod explained;
mod faults;
mod limits;
mod runs;
mod spans;
mod tls;

use prometheus_client::{encoding::text::encode, registry::Registry};

use super::{fake::FakeServer, method::Method, *};
use crate::model::{
    PipelineName, RunId,
    fixtures::{number, succeeded},
};

const CREATED: i64 = 1_700_000_000;
/// A time at which an execution of the run may have been created, in milliseconds.
const DURING_MS: i64 = (CREATED + 60) * 1000;

const CONTEXT: Method = Method::GetContextByTypeAndName;
const ARTIFACTS: Method = Method::GetArtifactsByContext;
const EXECUTIONS: Method = Method::GetExecutionsByContext;
const EVENTS: Method = Method::GetEventsByArtifactIDs;
const EVENTS_OF_EXECUTIONS: Method = Method::GetEventsByExecutionIDs;
const PARENTS: Method = Method::GetParentContextsByContext;
const CONTEXTS_OF: Method = Method::GetContextsByExecution;
const TYPE: Method = Method::GetArtifactType;

fn run(pipeline: PipelineName) -> Workflow {
    Workflow {
        namespace: "team-a".into(),
        name: "penguin-x7k2p".into(),
        created: CREATED,
        run_id: Some(RunId::new("0e1f")),
        ..succeeded(pipeline)
    }
}

/// A run of TFX on KFP v1 whose Workflow names its pipeline.
fn compiled() -> Workflow {
    run(PipelineName::Spec("penguin".into()))
}

/// A recurring run, whose Workflow does not name its pipeline.
fn recurring() -> Workflow {
    run(PipelineName::Unknown)
}

/// The adapter, its server, and its metrics.
struct TestEnv {
    mlmd: Mlmd,
    server: FakeServer,
    registry: Registry,
    limit_hits: LimitHits,
    types: Arc<ArtifactTypes>,
}

impl TestEnv {
    fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = LookupMetrics::new(&mut registry);
        let server = FakeServer::default();
        let limit_hits = LimitHits::default();
        let clock = WallClock::new(|| CREATED + 3600);
        let options = Options { limit_hits: limit_hits.clone(), clock, ..Options::default() };
        let mlmd = Mlmd::over(&FakeServer::endpoint(), server.channel(), &options, metrics);
        Self { mlmd, server, registry, limit_hits, types: Arc::default() }
    }

    /// A run of TFX on KFP v1: contexts 1 (run), 2 (pipeline), 3 (node), and the execution 10, its Pusher.
    fn tfx() -> Self {
        let env = Self::new();
        {
            let mut store = env.server.store();
            let contexts = [
                store.add_context("pipeline_run", "penguin-x7k2p"),
                store.add_context("pipeline", "penguin"),
                store.add_context("node", "penguin.Pusher"),
            ];
            store.add_execution(10, DURING_MS, &contexts);
        }
        env
    }

    /// A run of KFP v2: contexts 1 (run) and 2 (pipeline, its parent), and the execution 10.
    fn kfp_v2() -> Self {
        let env = Self::new();
        {
            let mut store = env.server.store();
            let run = store.add_context("system.PipelineRun", "0e1f");
            let pipeline = store.add_context("system.Pipeline", "taxi");
            store.parents.insert(run, vec![pipeline]);
            store.add_execution(10, DURING_MS, &[run, pipeline]);
        }
        env
    }

    async fn find(&self, run: &Workflow) -> Result<Arc<RunModels>, LookupError> {
        self.mlmd.find(run, &self.types).await
    }

    /// Looks up without the cache.
    async fn find_uncached(&self, run: &Workflow) -> Result<Arc<RunModels>, LookupError> {
        self.mlmd.forget(run.uid);
        self.find(run).await
    }

    async fn ids(&self, run: &Workflow) -> Vec<i64> {
        self.find_uncached(run).await.unwrap().models.iter().map(number).collect()
    }

    async fn names(&self, run: &Workflow) -> Vec<String> {
        let found = self.find_uncached(run).await.unwrap();
        let pipeline = crate::model::event::pipeline_name(run, &found).unwrap_or("?");
        found.models.iter().map(|model| model.display_name(pipeline, &run.name)).collect()
    }

    /// Number of calls of a method since the last time; forgets the calls of all methods.
    fn count_calls(&self, method: Method) -> usize {
        self.server.calls().into_iter().filter(|call| *call == method).count()
    }

    #[track_caller]
    fn assert_counted(&self, line: &str) {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

/// The code and the message of a failed lookup.
#[track_caller]
fn failure(answer: Result<Arc<RunModels>, LookupError>) -> (&'static str, String) {
    match answer {
        Err(LookupError::Failed { code, message }) => (code, message),
        other => panic!("not failed: {other:?}"),
    }
}
