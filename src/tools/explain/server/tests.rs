use axum::{Router, http::HeaderMap, routing::get};
use http::{StatusCode, header::AUTHORIZATION};
use serde_json::{Value, json};

use super::*;
use crate::{
    eventsource::config,
    model::{PipelineName, fixtures::succeeded},
};

const FINISHED: &str = "2026-01-01T00:00:10Z";

async fn serve(status: StatusCode, body: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = move |uri: http::Uri, headers: HeaderMap| async move {
        let namespace = uri.query().unwrap_or_default().to_owned();
        let token = headers.get(AUTHORIZATION).map_or("", |value| value.to_str().unwrap()).to_owned();
        let body = body.replace("QUERY", &namespace).replace("TOKEN", &token);
        (status, body)
    };
    tokio::spawn(async { axum::serve(listener, Router::new().route("/statusz.json", get(answer))).await });
    url
}

fn run() -> Workflow {
    let finished = FINISHED.parse::<jiff::Timestamp>().unwrap().as_second();
    Workflow { finished, ..succeeded(PipelineName::Unknown) }
}

fn subscription(name: &str) -> Subscription {
    config::parse(name, b"kfpNamespace: team").unwrap()
}

fn note(time: &str, subscription: &str, reason: &str) -> Value {
    json!({
        "time": time, "namespace": "team", "workflow": "run-x", "uid": run().uid.to_string(),
        "subscription": subscription, "reason": reason,
    })
}

#[tokio::test]
async fn the_servers_word_is_about_the_last_end_of_the_run() {
    let open = json!({"namespace": "team", "name": "open", "streams": 1, "pendingRuns": 3, "latestOnly": true});
    let person = json!({"namespace": "team", "name": "person", "streams": 1, "remember": false});
    let status = json!({
        "version": "TOKEN", "ready": true, "selector": "a=b", "namespaces": ["team"], "future": 1,
        "problems": [{"name": "QUERY", "reason": "slow"}],
        "subscriptions": [open, person],
        "recentDeliveries": [note("2026-01-01T00:00:11Z", "new", ""), note("2026-01-01T00:00:09Z", "old", "")],
        "recentProblems": [note("2026-01-01T00:00:11Z", "new-run", "superseded"), note("2026-01-01T00:00:11Z", "x", "no_model")],
    });
    let url = serve(StatusCode::OK, status.to_string()).await;
    let report = ServerReport::ask(&url, "here".to_owned(), Some("team"), Some("secret")).await;
    assert_eq!((report.reachable, report.error.as_deref(), report.selector()), (true, None, Some("a=b")));
    assert_eq!(report.version.as_deref(), Some("Bearer secret"));
    assert_eq!(report.problems, ["namespace=team: slow"]);
    let expected = Stream { namespace: "team".to_owned(), name: "open".to_owned(), latest_only: true };
    assert_eq!(report.streams(), [expected], "not those of people");
    assert!(report.excludes("other") && !report.excludes("team"));
    for (name, word) in [
        ("open", ServerWord::Streams { streams: 1, pending: 3 }),
        ("new", ServerWord::Delivered("2026-01-01T00:00:11Z")),
        ("old", ServerWord::NoStream),
        ("new-run", ServerWord::Superseded("2026-01-01T00:00:11Z")),
        ("x", ServerWord::NoStream),
        ("person", ServerWord::NoStream),
    ] {
        assert_eq!(report.word(&run(), &subscription(name)), word, "{name}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_named_with_the_reason() {
    for (status, body, expected) in [
        (StatusCode::UNAUTHORIZED, "", "--token-file"),
        (StatusCode::NOT_FOUND, "", "--status-page off"),
        (StatusCode::OK, "<html>", "no status"),
        (StatusCode::BAD_GATEWAY, "", "502"),
    ] {
        let url = serve(status, body.to_owned()).await;
        let report = ServerReport::ask(&url, url.clone(), None, None).await;
        let error = report.error.clone().unwrap();
        assert!(report.reachable && error.contains(expected), "{status}: {error}");
        assert_eq!(report.word(&run(), &subscription("x")), ServerWord::Unknown);
    }
    let closed = ServerReport::ask("http://127.0.0.1:1", "here".to_owned(), None, None).await;
    assert!(!closed.reachable && closed.error.unwrap().contains("refused"));
    let tls = ServerReport::ask("https://127.0.0.1:1", "here".to_owned(), None, None).await;
    assert!(!tls.reachable && tls.error.unwrap().contains("no TLS"));
}
