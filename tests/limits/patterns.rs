//! Patterns and names that are expensive to match.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use model_update_eventsource::eventsource::Subscriber;
use test_support::Workflows;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    exclusive,
    harness::{Observation, Real},
    workflows::of_pipeline,
};

/// Length of the longest names: an object's annotations have at most 256 KiB.
const LONG_NAME: usize = 200_000;
/// Length of the longest names that the server keeps.
const KEPT_NAME: usize = 512;
/// Workflows with each kind of name.
const WORKFLOWS: usize = 100;
/// Patterns of a filter.
const PATTERNS: usize = 64;
/// Streams that attach concurrently, again and again.
const STREAMS: usize = 4;
/// Duration of the attack.
const DURATION: Duration = Duration::from_secs(8);

/// Expensive filters and names delay no other tenant.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn expensive_patterns_and_names_delay_nobody() {
    let _exclusive = exclusive().await;
    let env = Real::start().await;
    let (namespace, workflows) = env.namespace("patterns").await;
    create(&workflows, "long", LONG_NAME).await;
    create(&workflows, "kept", KEPT_NAME).await;
    let server = env.server(&[]).await;
    let observation = Observation::start("row 1, patterns", &server, env.tenant().await).await;

    let mut attached = JoinSet::new();
    for task in 0..STREAMS {
        let (url, namespace) = (format!("http://{}", server.listen), namespace.clone());
        attached.spawn(async move {
            let mut times = 0;
            let _ended = timeout(DURATION, async {
                for attempt in 0.. {
                    let config = format!("kfpNamespace: {namespace}\npipelines: [{}]", patterns(task, attempt));
                    let mut subscriber = Subscriber::connect(url.clone()).await.expect("a connection");
                    // The namespace may have too many streams: the server has not seen the end of the others yet.
                    times += usize::from(subscriber.subscribe("patterns", &config).await.is_ok());
                }
            })
            .await;
            times
        });
    }
    let attached: usize = attached.join_all().await.into_iter().sum();
    assert!(attached > 5 * STREAMS, "only {attached} streams");
    observation.finish().await.assert_unharmed();
    env.clear(&workflows).await;
}

/// Creates Workflows whose pipelines have names of this length, which no pattern matches, at the last of its characters.
async fn create(workflows: &Workflows, prefix: &str, length: usize) {
    let name = format!("{}{}", "a".repeat(length / 2), "b".repeat(length - length / 2));
    stream::iter(0..WORKFLOWS)
        .for_each_concurrent(8, |number| {
            let new = of_pipeline(&format!("{prefix}-{number}"), &name);
            async move { drop(workflows.create(new).await) }
        })
        .await;
}

/// Returns a list of patterns that no other stream has had.
fn patterns(task: usize, attempt: usize) -> String {
    let pattern = |number: usize| {
        let any = "?".repeat(190 + number);
        format!("\"*a{any}{}\"", if number == 0 { format!("{task}-{attempt}*") } else { String::new() })
    };
    (0..PATTERNS).map(pattern).collect::<Vec<_>>().join(", ")
}
