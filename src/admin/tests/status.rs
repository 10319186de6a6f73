//! The status over real connections.

use serde_json::{Value, json};

use super::*;
use crate::{
    access::{Mode, Verb, fake as fake_access},
    delivery::{FilterCounts, RecentDelivery, RecentProblem, StreamStatus, fixtures::subscription_in},
    model::{PipelineName, Subscription, SubscriptionName, TraceId, Uid, Workflow, fixtures::succeeded},
};

const NOW: i64 = 1_700_000_000;
const UID: u128 = 0x0123_4567_89ab_4cde_8f01_2345_6789_abcd;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn stream(namespace: &str, name: &str, pending_runs: usize, oldest: Option<u64>) -> StreamStatus {
    StreamStatus {
        subscription: subscription_in(namespace, name).into(),
        peer: Some(SocketAddr::from(([10, 0, 0, 1], 1234))),
        pending_runs,
        oldest_pending: oldest.map(Duration::from_secs),
        runs_without_context: 1,
        filtered: FilterCounts { pipelines: 2, ..FilterCounts::default() },
    }
}

/// Two streams of one subscription of team-a, and one of team-b, with a delivery and a problem of each.
fn delivery() -> DeliveryStatus {
    let latest = Subscription { latest_only: true, ..subscription_in("team-b", "serve") };
    let delivery = |namespace: &str| RecentDelivery {
        at: NOW - 60,
        namespace: namespace.into(),
        workflow: "<run>".into(),
        uid: UID.into(),
        subscription: SubscriptionName::new("deploy").unwrap(),
        trace_id: TraceId::parse(TRACE),
        seconds_from_finish: Some(3),
    };
    let problem = |namespace: &str| RecentProblem {
        at: NOW - 5,
        namespace: namespace.into(),
        workflow: "run-y".into(),
        uid: Uid::from(UID),
        subscription: None,
        reason: "no_context",
        text: "no event yet: <b>\u{7}".into(),
        trace_id: None,
    };
    DeliveryStatus {
        streams: vec![
            stream("team-a", "deploy", 3, Some(20)),
            stream("team-a", "deploy", 2, Some(90)),
            StreamStatus { subscription: latest.into(), ..stream("team-b", "serve", 0, None) },
        ],
        deliveries: ["team-b", "team-a"].map(|namespace| delivery(namespace).into()).into(),
        problems: ["team-a", "team-b"].map(|namespace| problem(namespace).into()).into(),
    }
}

fn admin_with_status() -> Admin {
    let store = Store::default();
    for (namespace, name) in [("team-a", "run-x"), ("team-a", "run-y"), ("team-b", "run-z")] {
        let run = succeeded(PipelineName::Unknown);
        store.apply(Workflow { namespace: namespace.into(), name: name.into(), ..run });
    }
    Admin {
        delivery: fake::status(delivery()),
        clock: WallClock::new(|| NOW),
        trace_url: Some("https://jaeger.example/trace/{trace_id}?a=1&b=2".parse().unwrap()),
        store: store.into(),
        namespaces: ["team-a", "team-b"].map(Into::into).into(),
        scopes: ["team-a", "team-b"].map(|namespace| Scope::Namespace(namespace.into())).into(),
        ..admin()
    }
}

/// The status, the headers and the body of an answer.
async fn answer(server: &Running, path: &str, headers: &str) -> (u16, String, String) {
    let answer = get(server.address, path, headers).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
}

async fn status(server: &Running, query: &str) -> Value {
    let (code, head, body) = answer(server, &format!("/statusz.json{query}"), "").await;
    assert!(code == 200 && head.contains("content-type: application/json"), "{head}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn the_status_as_json() {
    let server = running_on(listener(), admin_with_status(), None);
    let watch = server.readiness.scope("watch of namespace team-b", "forbidden");
    let ready = server.readiness.scope("watch of namespace team-a", "");
    ready.release();
    server.limits.hit(Limit::AdminHead);
    let status = status(&server, "").await;
    assert_eq!(status["version"], telemetry::VERSION);
    assert_eq!((&status["ready"], &status["selector"]), (&json!(true), &json!("a=b")));
    assert_eq!(status["namespaces"], json!(["team-a", "team-b"]));
    assert_eq!(status["problems"], json!([{"name": "watch of namespace team-b", "reason": "forbidden"}]));
    assert_eq!(
        status["scopes"],
        json!([
            {"name": "watch of namespace team-a", "listed": false},
            {"name": "watch of namespace team-b", "listed": false, "reason": "forbidden"},
        ])
    );
    assert_eq!((&status["workflows"], &status["subscribers"]), (&json!(3), &json!(3)));
    assert_eq!(status["limits"], json!([{"limit": "admin_head", "hits": 1}]));
    assert_eq!(
        status["subscriptions"],
        json!([
            {
                "namespace": "team-a", "name": "deploy", "peers": ["10.0.0.1:1234", "10.0.0.1:1234"], "streams": 2,
                "pendingRuns": 3, "oldestPendingSeconds": 90, "runsWithoutContext": 1,
                "filteredRuns": {"pipelines": 2}, "latestOnly": false, "remember": true,
            },
            {
                "namespace": "team-b", "name": "serve", "peers": ["10.0.0.1:1234"], "streams": 1,
                "pendingRuns": 0, "runsWithoutContext": 1,
                "filteredRuns": {"pipelines": 2}, "latestOnly": true, "remember": true,
            },
        ])
    );
    assert_eq!(
        status["tenants"],
        json!([
            {"namespace": "team-a", "streams": 2, "pendingRuns": 3, "oldestPendingSeconds": 90},
            {"namespace": "team-b", "streams": 1, "pendingRuns": 0},
        ])
    );
    assert_eq!(
        status["recentDeliveries"][0],
        json!({
            "time": "2023-11-14T22:12:20Z", "namespace": "team-b", "workflow": "<run>",
            "uid": "01234567-89ab-4cde-8f01-23456789abcd", "subscription": "deploy", "traceId": TRACE,
            "traceUrl": format!("https://jaeger.example/trace/{TRACE}?a=1&b=2"), "secondsFromFinish": 3,
        })
    );
    assert_eq!(
        status["recentProblems"][1],
        json!({
            "time": "2023-11-14T22:13:15Z", "namespace": "team-b", "workflow": "run-y",
            "uid": "01234567-89ab-4cde-8f01-23456789abcd", "reason": "no_context", "text": "no event yet: <b> ",
        })
    );
    drop(watch);
}

#[tokio::test]
async fn the_status_of_a_namespace_contains_no_other() {
    let server = running_on(listener(), admin_with_status(), None);
    let status = status(&server, "?namespace=team-b").await;
    assert!(!status.to_string().contains("team-a"), "{status}");
    assert_eq!((&status["namespace"], &status["workflows"]), (&json!("team-b"), &json!(1)));
    for list in ["subscriptions", "tenants", "recentDeliveries", "recentProblems", "scopes"] {
        assert_eq!(status[list].as_array().map(Vec::len), Some(1), "{list}");
    }
    assert_eq!(answer(&server, "/statusz.json?namespace=Team", "").await.0, 400);
}

#[tokio::test]
async fn the_page_escapes_what_others_decide() {
    let server = running_on(listener(), admin_with_status(), None);
    let blocked = server.readiness.condition("watch", "<i>down</i>");
    let (code, head, page) = answer(&server, "/?namespace=team-a", "").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-security-policy: default-src 'none'; style-src 'self'"), "{head}");
    for expected in [
        "<code>&lt;run&gt;</code>",
        "no event yet: &lt;b&gt; </td>",
        "<strong>watch</strong> &lt;i&gt;down&lt;/i&gt;",
        "<dt>selector</dt><dd>a&lt;b</dd>",
        "value=\"team-a\"",
        "<title>Not ready: Model Update Eventsource</title>",
        "<time datetime=\"2023-11-14T22:12:20Z\" title=\"2023-11-14T22:12:20Z\">1 min ago</time>",
        &format!("href=\"https://jaeger.example/trace/{TRACE}?a=1&amp;b=2\">4bf92f35…</a>"),
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    assert!(!page.contains("team-b") && !page.contains("<run>") && !page.contains("http:"), "{page}");
    drop(blocked);
}

/// They come from this server, so that the page needs no other one.
#[tokio::test]
async fn style_and_script_have_their_types() {
    let server = running().await;
    for (path, content_type) in [("/status.css", "text/css"), ("/status.js", "text/javascript")] {
        let (code, head, body) = answer(&server, path, "").await;
        assert!(code == 200 && head.contains(content_type) && !body.contains("http"), "{head}");
    }
}

#[tokio::test]
async fn a_switch_turns_the_status_off() {
    let server = running_on(listener(), Admin { has_status: false, ..admin() }, None);
    for path in ["/", "/statusz.json", "/status.css", "/status.js"] {
        assert_eq!(answer(&server, path, "").await.0, 404, "{path}");
    }
    assert_eq!(answer(&server, "/readyz", "").await.0, 200);
}

fn protected() -> Admin {
    let reviewer = fake_access::FakeReviewer::default();
    reviewer.add("ann", "ann");
    reviewer.allow("ann", "team-a", Verb::Subscribe);
    Admin { access: fake_access::access(Mode::Token, &reviewer), ..admin_with_status() }
}

#[tokio::test]
async fn the_status_needs_the_right_of_a_subscription() {
    let server = running_on(listener(), protected(), None);
    let (ann, joe) = ("authorization: Bearer ann\r\n", "authorization: Bearer joe\r\n");
    for (query, headers, expected) in [
        ("", "", 401),
        ("?namespace=team-a", "", 401),
        ("?namespace=team-a", joe, 401),
        ("", ann, 403),
        ("?namespace=team-b", ann, 403),
        ("?namespace=team-a", ann, 200),
    ] {
        let (code, head, body) = answer(&server, &format!("/statusz.json{query}"), headers).await;
        assert_eq!(code, expected, "{query} {headers}");
        assert!(code == 200 || !body.contains("deploy"), "{body}");
        assert_eq!(head.contains("www-authenticate: Bearer"), code == 401, "{head}");
    }
}

/// The health is for everybody, as at `/readyz`.
#[tokio::test]
async fn the_page_shows_health_only_without_the_right() {
    let server = running_on(listener(), protected(), None);
    for (path, headers, expected) in
        [("/", "", 200), ("/?namespace=team-a", "", 200), ("/", "authorization: Bearer joe\r\n", 401)]
    {
        let (code, _, page) = answer(&server, path, headers).await;
        assert_eq!(code, expected, "{path} {headers}");
        assert!(page.contains("data-locked") && page.contains("create token") && page.contains(">Ready<"), "{page}");
        assert!(!page.contains("deploy") && !page.contains("selector"), "{page}");
    }
    let (code, _, page) = answer(&server, "/?namespace=team-a", "authorization: Bearer ann\r\n").await;
    assert!(code == 200 && page.contains("<code>deploy</code>"), "{page}");
}

/// A site whose name has the address of this port (DNS rebinding). Its scripts have no token.
#[tokio::test]
async fn web_sites_cannot_read_the_status() {
    let server = running_on(listener(), admin_with_status(), None);
    let code = async |server: &Running, host: &str, path: &str| {
        let answer = request(server.address, &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        let code: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(code == 200 || !answer.contains("deploy"), "{answer}");
        code
    };
    for path in ["/", "/statusz.json"] {
        for host in ["127.0.0.1:8080", "localhost:8080", "server.team.svc:8080", "status.example.com"] {
            assert_eq!(code(&server, host, path).await, 200, "{host}{path}");
        }
        assert_eq!(code(&server, "evil.example:8080", path).await, 421, "{path}");
    }
    assert_eq!(code(&server, "evil.example:8080", "/readyz").await, 200, "probes and scrapers have any host");
    let protected = running_on(listener(), protected(), None);
    assert_eq!(code(&protected, "any.example", "/").await, 200, "it needs a token, which the site does not have");
}

#[tokio::test(start_paused = true)]
async fn a_silent_delivery_task_is_reported() {
    let server = running_on(listener(), Admin { delivery: fake::no_status(), ..admin() }, None);
    let (code, _, body) = answer(&server, "/statusz.json", "").await;
    assert!(code == 503 && body.contains("see /livez"), "{code} {body}");
    let (code, _, page) = answer(&server, "/", "").await;
    assert!(code == 503 && page.contains("the delivery task does not answer"), "{code} {page}");
}

/// Tenants decide on the number of subscriptions and on the length of texts.
#[tokio::test]
async fn the_answers_are_bounded() {
    let streams = (0..2500).map(|n| stream("team", &format!("s-{n}"), 1, Some(n))).collect();
    let delivery = fake::status(DeliveryStatus { streams, ..DeliveryStatus::default() });
    let server = running_on(listener(), Admin { delivery, ..admin() }, None);
    let status = status(&server, "").await;
    let subscriptions = status["subscriptions"].as_array().unwrap();
    assert_eq!((subscriptions.len(), &status["omittedSubscriptions"]), (2000, &json!(500)));
    let oldest = subscriptions.iter().filter_map(|it| it["oldestPendingSeconds"].as_u64()).min();
    assert_eq!(oldest, Some(500), "those whose runs wait for the longest stay");
    assert_eq!(status["tenants"][0]["pendingRuns"], 2500);
    let (_, _, page) = answer(&server, "/", "").await;
    assert!(page.contains("2400 more: choose a namespace"), "{} bytes", page.len());
}
