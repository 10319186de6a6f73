//! The adapter as a whole, over gRPC, against a server in memory.

mod answers;
mod faults;

use prometheus_client::{encoding::text::encode, registry::Registry};

use super::{fake::Fake, *};
use crate::model::{Phase, PipelineName, RunId};

const CREATED: i64 = 1_700_000_000;
/// A moment in which an execution of the run may have been created.
const DURING: i64 = (CREATED + 60) * 1000;

const CONTEXT: &str = "GetContextByTypeAndName";
const ARTIFACTS: &str = "GetArtifactsByContext";
const EXECUTIONS: &str = "GetExecutionsByContext";
const EVENTS: &str = "GetEventsByArtifactIDs";
const PARENTS: &str = "GetParentContextsByContext";
const CONTEXTS_OF: &str = "GetContextsByExecution";
const TYPE: &str = "GetArtifactType";

fn run(pipeline: PipelineName) -> Workflow {
    Workflow {
        namespace: "team-a".into(),
        name: "penguin-x7k2p".into(),
        uid: 1.into(),
        created: CREATED,
        phase: Phase::Succeeded,
        events_published: false,
        pipeline,
        run_id: Some(RunId::new("0e1f")),
        trace_id: None,
        marks: Box::default(),
        resource_version: None,
    }
}

/// A run of TFX on KFP v1 whose Workflow names its pipeline.
fn compiled() -> Workflow {
    run(PipelineName::Spec("penguin".into()))
}

/// A recurring run, of which the Workflow says nothing.
fn recurring() -> Workflow {
    run(PipelineName::Unknown)
}

/// The adapter under test, the server, and what it counts.
struct Bench {
    mlmd: Mlmd,
    fake: Fake,
    registry: Registry,
    types: Arc<ArtifactTypes>,
}

impl Bench {
    fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let fake = Fake::default();
        let mlmd = Mlmd::over(fake.channel(), &Options::default(), &metrics);
        Self { mlmd, fake, registry, types: Arc::default() }
    }

    /// A run of TFX on KFP v1: contexts 1 (run), 2 (pipeline), 3 (node), and the execution 10, its Pusher.
    fn tfx() -> Self {
        let bench = Self::new();
        {
            let mut store = bench.fake.store();
            let contexts = [
                store.context("pipeline_run", "penguin-x7k2p"),
                store.context("pipeline", "penguin"),
                store.context("node", "penguin.Pusher"),
            ];
            store.execution(10, DURING, &contexts);
        }
        bench
    }

    /// A run of KFP v2: contexts 1 (run) and 2 (pipeline, its parent), and the execution 10.
    fn kfp_v2() -> Self {
        let bench = Self::new();
        {
            let mut store = bench.fake.store();
            let run = store.context("system.PipelineRun", "0e1f");
            let pipeline = store.context("system.Pipeline", "taxi");
            store.parents.insert(run, vec![pipeline]);
            store.execution(10, DURING, &[run, pipeline]);
        }
        bench
    }

    async fn find(&self, run: &Workflow) -> Result<Arc<RunModels>, LookupError> {
        self.mlmd.find(run, &self.types).await
    }

    /// Asks past what is remembered.
    async fn find_anew(&self, run: &Workflow) -> Result<Arc<RunModels>, LookupError> {
        self.mlmd.forget(run.uid);
        self.find(run).await
    }

    async fn ids(&self, run: &Workflow) -> Vec<i64> {
        self.find_anew(run).await.unwrap().models.iter().map(|model| model.id).collect()
    }

    async fn names(&self, run: &Workflow) -> Vec<String> {
        let found = self.find_anew(run).await.unwrap();
        let pipeline = crate::model::event::pipeline_name(run, &found).unwrap_or("?");
        found.models.iter().map(|model| model.display_name(pipeline, &run.name)).collect()
    }

    #[track_caller]
    fn assert_counted(&self, line: &str) {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

/// The code of a failed lookup, and its message.
#[track_caller]
fn failure(answer: Result<Arc<RunModels>, LookupError>) -> (&'static str, String) {
    match answer {
        Err(LookupError::Failed { code, message }) => (code, message),
        other => panic!("not failed: {other:?}"),
    }
}
