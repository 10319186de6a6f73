//! Failures are reported as failures, never as "no model".

use std::{sync::Arc, time::Duration};

use model_update_eventsource::{
    delivery::LookupError,
    kfp::{Kfp, LookupMetrics, Options},
    model::Workflow,
};
use prometheus_client::registry::Registry;
use test_support::{KfpFault, free_port};
use tokio::{task::JoinSet, time::Instant};
use tonic::Code;

use crate::{
    Env,
    kfp::{find, generated, store},
    now,
};

fn code(answer: Result<Arc<model_update_eventsource::model::RunModels>, LookupError>) -> &'static str {
    match answer {
        Err(error) => error.code(),
        Ok(found) => panic!("{found:?}"),
    }
}

#[tokio::test]
async fn an_error_of_a_call_fails_only_that_lookup() {
    let env = Env::start().await;
    store(&env.server, "a");
    for (status, expected) in [
        (Code::Unavailable, "unavailable"),
        (Code::Internal, "internal"),
        (Code::Unauthenticated, "unauthenticated"),
        (Code::ResourceExhausted, "resource_exhausted"),
        (Code::NotFound, "no_context"),
    ] {
        env.server.set_fault("ListTasks", Some(KfpFault::Status(status)));
        assert_eq!(code(find(&env.kfp, &generated("a")).await), expected);
    }
    env.server.set_fault("ListTasks", None);
    env.server.set_fault("GetRun", Some(KfpFault::Status(Code::Unavailable)));
    let recurring =
        Workflow { pipeline: model_update_eventsource::model::PipelineName::Unknown.into(), ..generated("a") };
    assert_eq!(code(find(&env.kfp, &recurring).await), "unavailable");
    env.server.set_fault("GetRun", None);
    assert_eq!(find(&env.kfp, &recurring).await.expect("models").pipeline.as_deref(), Some("taxi"));
}

/// A page of a proxy is no statement about the run or the server's version.
#[tokio::test]
async fn a_page_of_a_proxy_means_nothing() {
    let env = Env::start().await;
    store(&env.server, "a");
    for status in [404, 502, 200] {
        env.server.set_fault("ListTasks", Some(KfpFault::Http(status)));
        let expected = if status == 200 { "malformed" } else { "unavailable" };
        assert_eq!(code(find(&env.kfp, &generated("a")).await), expected, "{status}");
    }
    env.server.set_fault("ListTasks", None);
    assert!(find(&env.kfp, &generated("a")).await.is_ok());
    let url = format!("127.0.0.1:{}", free_port());
    let kfp = Kfp::new(&url, &Options::default(), LookupMetrics::new(&mut Registry::default())).expect("a URL");
    assert_eq!(code(find(&kfp, &generated("a")).await), "unavailable");
}

#[tokio::test]
async fn a_server_that_does_not_know_tasks_is_remembered_for_earlier_runs() {
    let env = Env::start().await;
    store(&env.server, "a");
    env.server.set_has_tasks(false);
    let earlier = Workflow { finished: now() - 60, ..generated("a") };
    for _ in 0..3 {
        assert_eq!(code(find(&env.kfp, &earlier).await), "unimplemented");
    }
    assert_eq!(env.server.calls().len(), 1, "asked once");
    // A run that ended since may be recorded by the next version.
    env.server.set_has_tasks(true);
    let later = Workflow { finished: now(), ..generated("a") };
    assert_eq!(find(&env.kfp, &later).await.expect("models").models.len(), 1);
    assert_eq!(find(&env.kfp, &earlier).await.expect("models").models.len(), 1, "forgotten with the first answer");
}

/// Nothing but the deadline of a call notices a dead connection, which is then replaced.
#[tokio::test]
async fn a_call_without_an_answer_replaces_the_connection() {
    let env = Env::with(Options { call_timeout: Duration::from_millis(300), ..Options::default() }).await;
    store(&env.server, "a");
    env.server.set_fault("ListTasks", Some(KfpFault::Hang));
    assert_eq!(code(find(&env.kfp, &generated("a")).await), "timeout");
    env.server.set_fault("ListTasks", None);
    assert!(find(&env.kfp, &generated("a")).await.is_ok());
}

/// At most a few calls are made at a time, and lookups of other namespaces do not wait for all of one.
#[tokio::test]
async fn few_calls_are_made_at_a_time() {
    let env = Arc::new(Env::start().await);
    let delay = Duration::from_millis(100);
    env.server.set_fault("ListTasks", Some(KfpFault::Delay(delay)));
    let started = Instant::now();
    let mut lookups = JoinSet::new();
    for number in 0..30 {
        let env = env.clone();
        lookups.spawn(async move { code(find(&env.kfp, &generated(&format!("unknown-{number}"))).await) });
    }
    env.server.until_called("ListTasks").await;
    let other = Workflow { namespace: "team-b".into(), ..generated("another") };
    let before = Instant::now();
    assert_eq!(code(find(&env.kfp, &other).await), "no_context");
    assert!(before.elapsed() < 6 * delay, "{:?}", before.elapsed());
    while let Some(answer) = lookups.join_next().await {
        assert_eq!(answer.expect("it ends"), "no_context");
    }
    assert!(started.elapsed() >= 5 * delay, "{:?}", started.elapsed());
}
