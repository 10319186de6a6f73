//! Workflows with large metadata.

use futures::{StreamExt as _, stream};
use model_update_eventsource::model::workflow::{MARK_PREFIX, PIPELINE_SPEC_ANNOTATION};
use serde_json::{Map, json};
use test_support::{NewWorkflow, SOON, Workflows, eventually};

use crate::{
    exclusive,
    harness::{Observation, Real},
};

/// Size of a large annotation: an object's annotations have at most 256 KiB.
const LARGE: usize = 250_000;
/// Workflows with a large annotation. Their list has 75 MB.
const WORKFLOWS: usize = 300;
/// Workflows with a large pipeline name that are created and deleted.
const SHORT_LIVED: usize = 100;
/// Marks on a Workflow, as annotations and as labels. Each has about 80 bytes, and annotations have at most 256 KiB.
const MARKS: usize = 7_000;
/// Those that are annotations.
const ANNOTATIONS: usize = 3_000;

/// Large annotations, pipeline names and numbers of marks neither end the server nor delay another tenant.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn large_workflows_harm_nobody() {
    let _exclusive = exclusive().await;
    let env = Real::start().await;
    let (_, workflows) = env.namespace("large").await;
    let spec =
        |number| NewWorkflow::tfx_v1(&format!("spec-{number}"), "penguin").annotation("spec", &"x".repeat(LARGE));
    for_each(WORKFLOWS, 8, |number| create(&workflows, spec(number))).await;
    // The peak includes the first list.
    let server = env.server(&[]).await;
    let observation = Observation::start("row 3, large Workflows", &server, env.tenant().await).await;

    for_each(SHORT_LIVED, 2, |number| {
        let (workflows, name) = (workflows.clone(), format!("name-{number}"));
        async move {
            let pipeline = format!("{name}{}", "x".repeat(LARGE - 1_000));
            create(&workflows, of_pipeline(&name, &pipeline)).await;
            workflows.delete(&name).await;
        }
    })
    .await;
    workflows.create(NewWorkflow::tfx_v1("marks", "penguin").phase("Succeeded")).await;
    for first in (0..MARKS).step_by(1000) {
        let place = if first < ANNOTATIONS { "annotations" } else { "labels" };
        mark(&workflows, "marks", place, first..first + 1000).await;
    }
    eventually(SOON, "more marks than are kept", async || {
        server.metric("modelupdate_limit_hits_total", &["limit=\"marks\""]).await > 0.0
    })
    .await;
    observation.finish().await.assert_unharmed();
    env.clear(&workflows).await;
}

async fn for_each<F: Future<Output = ()>>(times: usize, concurrent: usize, action: impl FnMut(usize) -> F) {
    stream::iter(0..times).for_each_concurrent(concurrent, action).await;
}

/// Returns a succeeded run of a pipeline with a long name, which is in one of its annotations only.
pub(crate) fn of_pipeline(name: &str, pipeline: &str) -> NewWorkflow {
    let spec = json!({"name": pipeline}).to_string();
    NewWorkflow::tfx_v1(name, "penguin").annotation(PIPELINE_SPEC_ANNOTATION, &spec).phase("Succeeded")
}

async fn create(workflows: &Workflows, new: NewWorkflow) {
    drop(workflows.create(new).await);
}

/// Adds marks with the Workflow's own UID.
async fn mark(workflows: &Workflows, name: &str, place: &str, numbers: std::ops::Range<usize>) {
    let uid = workflows.get(name).await.metadata.uid.expect("a UID");
    let marks: Map<_, _> = numbers.map(|number| (format!("{MARK_PREFIX}s{number}"), uid.clone().into())).collect();
    workflows.merge(name, &json!({"metadata": {place: marks}})).await;
}
