//! Requests of a command, and what it makes of the answers.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use super::*;
use crate::{
    k8s::fixtures::{FakeApi, failure, fake_client, uid_of, workflow},
    model::Uid,
};

fn cluster() -> (Cluster, FakeApi) {
    let (client, api) = fake_client();
    let cluster = Cluster {
        client,
        server: "https://cluster.example/".to_owned(),
        default_namespace: "team-a".to_owned(),
        in_pod: false,
        timeout: Duration::from_secs(30),
        hint: None,
    };
    (cluster, api)
}

#[tokio::test(start_paused = true)]
async fn an_absent_object_is_none() {
    let (cluster, mut api) = cluster();
    let answer = async {
        let request = api.next().await;
        assert_eq!(request.line(), "GET /api/v1/namespaces/team-a/pods/x");
        request.refuse(404, "pods \"x\" not found");
    };
    let (found, ()) = tokio::join!(cluster.get("/api/v1/namespaces/team-a/pods/x"), answer);
    assert_eq!(found, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_list_has_all_pages() {
    let (cluster, mut api) = cluster();
    let answers = async {
        let first = api.next().await;
        assert_eq!(first.line(), "GET /api/v1/pods?labelSelector=a%3Db&limit=500");
        first.answer_list(&[json!({"n": 1})], Some("next page"));
        let second = api.next().await;
        assert_eq!(second.line(), "GET /api/v1/pods?labelSelector=a%3Db&limit=500&continue=next+page");
        second.answer_list(&[json!({"metadata": {"name": "x"}}), json!(2)], None);
    };
    let (listed, ()) = tokio::join!(cluster.list("/api/v1/pods", &[("labelSelector", "a=b")]), answers);
    assert_eq!(listed.unwrap(), [json!({"n": 1}), json!({"metadata": {"name": "x"}}), json!(2)]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_apart() {
    let (cluster, mut api) = cluster();
    for (status, expected) in [
        (401, "refuses the credentials: no"),
        (403, "a right is missing: no"),
        (404, "not found: no"),
        (500, "answers 500: no"),
    ] {
        let answer = async { api.next().await.refuse(status, "no") };
        let (listed, ()) = tokio::join!(cluster.list("/api/v1/pods", &[]), answer);
        let error = listed.unwrap_err().to_string();
        assert!(error.contains(expected), "{status}: {error}");
    }
    let (listed, ()) = tokio::join!(cluster.list("/api/v1/pods", &[]), async { api.next().await.reset() });
    let error = listed.unwrap_err().to_string();
    assert!(error.contains("https://cluster.example/ cannot be reached"), "{error}");
    let held = async { drop(api.next().await.begin(200, "application/json")) };
    let (listed, ()) = tokio::join!(cluster.list("/api/v1/pods", &[]), held);
    assert!(matches!(listed, Err(ClusterError::Malformed { .. })), "{listed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_has_a_time_limit() {
    let (cluster, mut api) = cluster();
    let (result, _pending) = tokio::join!(cluster.get("/version"), api.next());
    assert!(result.unwrap_err().to_string().contains("no answer within 30 s"));
}

#[tokio::test(start_paused = true)]
async fn workflows_are_read_as_metadata_with_their_version() {
    let (cluster, mut api) = cluster();
    let answers = async {
        let one = api.next().await;
        assert_eq!(one.line(), "GET /apis/argoproj.io/v1alpha1/namespaces/team-a/workflows/run-x");
        assert!(one.header("accept").contains("as=PartialObjectMetadata;"), "{}", one.header("accept"));
        one.answer(200, &workflow("run-x", 7));
        let all = api.next().await;
        assert_eq!(all.line(), "GET /apis/argoproj.io/v1alpha1/workflows?labelSelector=pipeline%2Frunid&limit=500");
        let malformed = json!({"metadata": {"uid": "none"}});
        all.answer_list(&[workflow("run-x", 7), malformed, workflow("run-y", 8)], None);
    };
    let requests = async {
        let one = cluster.workflow("team-a", "run-x").await;
        let query = WorkflowQuery { namespace: None, selector: "pipeline/runid" };
        (one, cluster.workflows(query).await)
    };
    let ((one, all), ()) = tokio::join!(requests, answers);
    let one = one.unwrap().expect("it exists");
    assert_eq!((one.workflow.uid, one.resource_version.as_str()), (Uid::parse(&uid_of("run-x")).unwrap(), "7"));
    let versions: Vec<_> = all.unwrap().into_iter().map(|found| found.resource_version).collect();
    assert_eq!(versions, ["7", "8"], "without the malformed one");
}

#[tokio::test(start_paused = true)]
async fn a_right_is_what_the_api_server_decides() {
    let (cluster, mut api) = cluster();
    let right = Right { subresource: "portforward".to_owned(), ..Right::new("create", "", "pods", Some("team-a")) };
    for (status, expected) in
        [(json!({"allowed": true}), true), (json!({"allowed": false}), false), (Value::Null, false)]
    {
        let answer = async {
            let request = api.next().await;
            let mut review = request.json();
            let attributes = json!({
                "group": "", "namespace": "team-a", "resource": "pods", "subresource": "portforward", "verb": "create",
            });
            assert_eq!(review["spec"]["resourceAttributes"], attributes);
            review["status"] = status;
            request.answer(201, &review);
        };
        let (allowed, ()) = tokio::join!(cluster.allowed(&right), answer);
        assert_eq!(allowed, Ok(expected));
    }
    assert_eq!(right.to_string(), "create pods/portforward in the namespace \"team-a\"");
    assert_eq!(Right::workflows("list", None).to_string(), "list workflows.argoproj.io in all namespaces");
}

#[tokio::test(start_paused = true)]
async fn a_path_is_not_the_name_of_a_workflow() {
    let (cluster, _api) = cluster();
    for name in ["../../team-b/workflows/run-x", "run-x?watch=1", "run-x/status", "..", "a%2Fb", "", "a\u{1b}"] {
        assert_eq!(cluster.workflow("team-a", name).await, Ok(None), "{name:?}");
    }
}

fn kubeconfig(user: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "team-a"}},
            {"name": "two", "context": {"cluster": "c", "user": "u", "namespace": "team-b"}},
        ],
    })
}

#[tokio::test]
async fn a_kubeconfig_is_used_as_kubectl_uses_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    fs::write(&path, kubeconfig(&json!({"token": "secret", "as": "someone"})).to_string()).unwrap();
    let mut options = ClusterOptions { kubeconfig: Some(path.clone()), ..ClusterOptions::default() };
    let cluster = Cluster::connect(&options).await.unwrap();
    assert_eq!((cluster.default_namespace(), cluster.is_in_pod()), ("team-a", false));
    options.context = Some("two".to_owned());
    options.user = Some("alice".to_owned());
    options.groups = vec!["ml".to_owned()];
    let loaded = config::load(&options).await.unwrap();
    assert_eq!(loaded.config.default_namespace, "team-b");
    assert_eq!(loaded.config.auth_info.impersonate.as_deref(), Some("alice"));
    assert_eq!(loaded.config.auth_info.impersonate_groups, Some(vec!["ml".to_owned()]));
    options.context = Some("three".to_owned());
    let error = config::load(&options).await.unwrap_err().to_string();
    assert!(error.contains("three") && error.contains("config"), "{error}");
    fs::write(&path, "clusters: [").unwrap();
    let error = config::load(&options).await.unwrap_err().to_string();
    assert!(error.contains("is not usable"), "{error}");
    options.kubeconfig = Some(folder.path().join("none"));
    let error = config::load(&options).await.unwrap_err().to_string();
    assert!(error.contains("none") && error.contains("is not usable"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_keeps_the_message_of_the_api_server() {
    let message = "workflows.argoproj.io is forbidden: User \"x\" cannot list resource \"workflows\"";
    assert_eq!(failure(403, message)["message"], message);
    let error = ClusterError::refused("/x", 403, message.to_owned());
    assert!(error.is_forbidden() && error.to_string().contains(message), "{error}");
}
