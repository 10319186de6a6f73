//! Particulars of Kubeflow's API: pages, tokens, names of pipelines, and installations for one user.

use std::{fs, sync::Arc};

use model_update_eventsource::{
    delivery::{ArtifactLookup, LookupError},
    kfp::{Error, Kfp, LookupMetrics, Options},
    model::{ArtifactTypes, Phase, PipelineName, RunModels, Workflow},
};
use prometheus_client::registry::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use test_support::{KfpArtifact, KfpFault, KfpRun, KfpServer, KfpTask, KfpUser, TaskState, Users, eventually};
use tonic::transport::Identity;

use crate::{Env, NAMESPACE, SOON, TOKEN, WORKFLOW, now, workflow};

pub(crate) fn run(id: &str, pipeline: Option<&str>) -> KfpRun {
    KfpRun { pipeline: pipeline.map(str::to_owned), ..KfpRun::new(id, NAMESPACE, "") }
}

pub(crate) fn push(uri: &str) -> KfpTask {
    KfpTask::new("push").output(KfpArtifact::pushed(uri))
}

/// Stores a run with a model.
pub(crate) fn store(server: &KfpServer, id: &str) {
    server.put_run(&run(id, Some("taxi")));
    server.put_task(id, push(&format!("gs://{id}")));
}

pub(crate) fn generated(id: &str) -> Workflow {
    workflow(PipelineName::Generated("taxi".into()), id)
}

pub(crate) async fn find(kfp: &Kfp, run: &Workflow) -> Result<Arc<RunModels>, LookupError> {
    kfp.find(run, &Arc::new(ArtifactTypes::default())).await
}

async fn uris(kfp: &Kfp, run: &Workflow) -> Vec<String> {
    find(kfp, run).await.expect("models").models.iter().map(|model| model.uri.to_string()).collect()
}

#[tokio::test]
async fn pages_shrink_by_bytes_and_answers_are_cached() {
    let env = Env::start().await;
    env.server.put_run(&run("large", Some("taxi")));
    for number in 0..24_i64 {
        let output = KfpArtifact::pushed(&format!("gs://{number}")).metadata("document", "x".repeat(300_000));
        let task = KfpTask::new(&format!("push-{number}")).aged(100 - number).output(output);
        // The run's own task would have all outputs again.
        env.server.put_task("large", KfpTask { is_propagated: false, ..task });
    }
    let workflow = generated("large");
    let expected: Vec<String> = (0..24).map(|number| format!("gs://{number}")).collect();
    assert_eq!(uris(&env.kfp, &workflow).await, expected);
    let sizes: Vec<i32> = env.server.calls().iter().map(|call| call.page_size).collect();
    assert_eq!(sizes, [200, 10, 10, 10], "7 MB at once, then three pages");
    assert_eq!(uris(&env.kfp, &workflow).await, expected);
    assert!(env.server.calls().is_empty(), "cached");
}

#[tokio::test]
async fn a_task_that_is_too_large_ends_the_lookup() {
    let env = Env::start().await;
    env.server.put_run(&run("large", Some("taxi")));
    let output = KfpArtifact::pushed("gs://1").metadata("document", "x".repeat(4_300_000));
    env.server.put_task("large", KfpTask { is_propagated: false, ..KfpTask::new("push").output(output) });
    let workflow = generated("large");
    assert_eq!(find(&env.kfp, &workflow).await, Err(LookupError::TooLarge));
    let sizes: Vec<i32> = env.server.calls().iter().map(|call| call.page_size).collect();
    assert_eq!(sizes[..3], [200, 10, 1]);
    assert_eq!(find(&env.kfp, &workflow).await, Err(LookupError::TooLarge));
    assert!(env.server.calls().is_empty(), "remembered");
    assert_eq!(find(&env.kfp, &generated("large")).await, Err(LookupError::TooLarge));
    assert!(env.server.calls().iter().all(|call| call.page_size == 1), "the next run begins with the smallest page");
}

#[tokio::test]
async fn a_pipelines_name_is_asked_for_once_where_it_is_missing() {
    let env = Env::start().await;
    env.server.put_run(&run("recurring", Some("taxi")));
    for number in 0..10 {
        let output = KfpArtifact::new("system.Dataset", "data", "gs://data").metadata("document", "x".repeat(900_000));
        let task = KfpTask::new(&format!("prepare-{number}")).output(output);
        env.server.put_task("recurring", KfpTask { is_propagated: false, ..task });
    }
    let recurring = workflow(PipelineName::Unknown, "recurring");
    assert_eq!(find(&env.kfp, &recurring).await.expect("no model").pipeline, None);
    assert!(env.server.calls().iter().all(|call| call.method == "ListTasks"), "without a model nothing is missing");

    env.server.put_task("recurring", push("gs://1"));
    let recurring = workflow(PipelineName::Unknown, "recurring");
    assert_eq!(find(&env.kfp, &recurring).await.expect("models").pipeline.as_deref(), Some("taxi"));
    let runs: Vec<_> = env.server.calls().into_iter().filter(|call| call.method == "GetRun").collect();
    assert_eq!(runs.len(), 1);
    assert!(runs[0].bytes > 9_000_000, "{runs:?}");
    assert_eq!(find(&env.kfp, &generated("recurring")).await.expect("models").pipeline, None);
    assert!(env.server.calls().iter().all(|call| call.method == "ListTasks"), "the Workflow has the name");

    // A run of a shared pipeline version has no specification of its own.
    env.server.put_run(&run("pinned", None));
    env.server.put_task("pinned", push("gs://2"));
    let found = find(&env.kfp, &workflow(PipelineName::Unknown, "pinned")).await.expect("models");
    assert_eq!((found.pipeline.as_deref(), found.models.len()), (None, 1));
}

#[tokio::test]
async fn an_installation_for_one_user_has_no_namespaces_and_no_tokens() {
    let server = KfpServer::start().await;
    let kfp =
        Kfp::new(&server.url(), &Options::default(), LookupMetrics::new(&mut Registry::default())).expect("a URL");
    assert_eq!(find(&kfp, &generated("unknown")).await, Err(LookupError::NoContext), "OK without any task");
    store(&server, "known");
    assert_eq!(uris(&kfp, &generated("known")).await, ["gs://known"]);
    let none = Workflow { run_id: None, ..generated("") };
    server.calls();
    assert_eq!(find(&kfp, &none).await, Err(LookupError::NoContext));
    assert!(server.calls().is_empty());
}

#[tokio::test]
async fn a_replaced_token_is_used_within_ten_seconds() {
    let env = Env::start().await;
    store(&env.server, "a");
    let token = env.folder.path().join("token");
    fs::write(&token, "expired").expect("written");
    let refused =
        eventually(SOON, "the use of the changed token", async || match find(&env.kfp, &generated("a")).await {
            Err(LookupError::Failed { code, .. }) => Ok(code),
            other => Err(other),
        });
    assert_eq!(refused.await, "unauthenticated");
    fs::write(&token, TOKEN).expect("written");
    eventually(SOON, "the use of the new token", async || find(&env.kfp, &generated("a")).await).await;

    fs::remove_file(&token).expect("removed");
    let options = Options { token: Some(token), ..Options::default() };
    let kfp =
        Kfp::new(&env.server.url(), &options, LookupMetrics::new(&mut Registry::default())).expect("only a warning");
    assert!(matches!(find(&kfp, &generated("a")).await, Err(LookupError::Failed { code: "unauthenticated", .. })));
    assert_eq!(find(&kfp, &generated("b")).await, Err(LookupError::NoContext), "the run is looked up first");
}

#[tokio::test]
async fn an_account_without_the_right_is_a_failure() {
    let user = KfpUser { token: TOKEN.to_owned(), namespaces: vec!["team-b".to_owned()] };
    let server = KfpServer::start_for(Users::Many(vec![user]), None).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let token = folder.path().join("token");
    fs::write(&token, TOKEN).expect("written");
    let options = Options { token: Some(token), ..Options::default() };
    let kfp = Kfp::new(&server.url(), &options, LookupMetrics::new(&mut Registry::default())).expect("a URL");
    store(&server, "a");
    let answer = find(&kfp, &generated("a")).await;
    assert!(matches!(answer, Err(LookupError::Failed { code: "permission_denied", .. })), "{answer:?}");
}

/// A launcher that was killed leaves its task RUNNING; one that is about to end it is waited for.
#[tokio::test]
async fn a_running_task_with_a_model_is_asked_for_again() {
    let env = Env::start().await;
    env.server.put_run(&run("a", Some("taxi")));
    let task = env.server.put_task("a", push("gs://a").state(TaskState::Running));
    let just_ended = Workflow { finished: now(), ..generated("a") };
    let answer = find(&env.kfp, &just_ended).await;
    assert!(matches!(answer, Err(LookupError::Failed { code: "unfinished", .. })), "{answer:?}");
    let long_ago = Workflow { finished: now() - 121, ..generated("a") };
    assert!(uris(&env.kfp, &long_ago).await.is_empty());
    env.server.set_state(&task, TaskState::Succeeded);
    assert_eq!(uris(&env.kfp, &just_ended).await, ["gs://a"]);
}

/// The id of a run is a label that a tenant sets, and a run does not say whose it is.
#[tokio::test]
async fn a_failed_run_of_a_foreign_workflow_has_no_name() {
    let env = Env::start().await;
    for (id, workflow, expected) in [("own", WORKFLOW, Some("taxi")), ("foreign", "taxi-x7k2pq", None)] {
        env.server.put_run(&run(id, Some("taxi")).of_workflow(workflow));
        let failed = Workflow { phase: Phase::Failed, ..crate::workflow(PipelineName::Unknown, id) };
        assert_eq!(find(&env.kfp, &failed).await.expect("an answer").pipeline.as_deref(), expected, "{id}");
    }
}

/// A server that was upgraded during a listing refuses the tokens of its pages.
#[tokio::test]
async fn a_listing_begins_again_where_the_server_demands_it() {
    let env = Env::start().await;
    env.server.put_run(&run("a", Some("taxi")));
    for number in 0..250 {
        env.server.put_task("a", KfpTask::new(&format!("task-{number}")));
    }
    env.server.put_task("a", push("gs://a"));
    env.server.set_fault("ListTasks", Some(KfpFault::RestartPaging(1)));
    assert_eq!(uris(&env.kfp, &generated("a")).await, ["gs://a"]);
    assert_eq!(env.server.calls().len(), 4);
    env.server.set_fault("ListTasks", Some(KfpFault::RestartPaging(9)));
    let answer = find(&env.kfp, &generated("a")).await;
    assert!(matches!(answer, Err(LookupError::Failed { code: "failed_precondition", .. })), "{answer:?}");
}

#[tokio::test]
async fn a_server_of_a_private_authority_is_trusted_by_its_file() {
    let mut params = CertificateParams::new([]).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = certificate.signed_by(&key, &authority).expect("signed");
    let identity = Identity::from_pem(certificate.pem(), key.serialize_pem());
    let server = KfpServer::start_for(Users::One, Some(identity)).await;
    store(&server, "a");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ca = folder.path().join("ca.crt");
    fs::write(&ca, authority.pem()).expect("written");
    let options = Options { ca: Some(ca), ..Options::default() };
    let kfp = |url: &str| Kfp::new(url, &options, LookupMetrics::new(&mut Registry::default()));
    let url = format!("localhost:{}", server.address.port());
    assert_eq!(uris(&kfp(&format!("https://{url}")).expect("a URL"), &generated("a")).await, ["gs://a"]);
    assert!(matches!(kfp(&url), Err(Error::CaWithoutTls { .. })));
}
