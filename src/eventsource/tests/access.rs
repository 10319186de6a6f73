//! Access control of subscriptions, and TLS.

use std::time::Duration;

use prometheus_client::registry::Registry;
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};
use tonic_types::StatusExt as _;

use super::harness::*;
use crate::{
    access::{
        self, Access, AccessMetrics, Mode, Verb,
        fake::{FakeReviewer, access},
    },
    eventsource::{
        Limits, Options, Tls, TlsMetrics,
        tls::fixtures::{authority, write},
    },
    store::Scope,
};

const ACCOUNT: &str = "system:serviceaccount:team-a:events";
const CONFIG: &str = "kfpNamespace: team-a\nsubscription: deploy";

/// An API server that knows a service account with the right to its own namespace.
fn reviewer() -> FakeReviewer {
    let reviewer = FakeReviewer::default();
    reviewer.add("secret", ACCOUNT);
    reviewer.allow(ACCOUNT, "team-a", Verb::Subscribe);
    reviewer
}

async fn server(access: Access) -> TestServer {
    let server = TestServer::start_with(Options { access, ..Options::default() }, None).await;
    server.list(Scope::All);
    server
}

#[tokio::test]
async fn each_refusal_has_its_status_and_reason() {
    let reviewer = reviewer();
    let server = server(access(Mode::Token, &reviewer)).await;
    let client = server.client().await;
    for (token, config, code, reason) in [
        (None, CONFIG, Code::Unauthenticated, "TOKEN_MISSING"),
        (Some("other"), CONFIG, Code::Unauthenticated, "TOKEN_INVALID"),
        (Some("secret"), "kfpNamespace: team-b", Code::PermissionDenied, "NAMESPACE_DENIED"),
    ] {
        let status = client.subscribe_as(token, config).await.unwrap_err();
        let details = status.get_error_details();
        assert_eq!((status.code(), &*details.error_info().unwrap().reason), (code, reason), "{status:?}");
    }
    reviewer.fail(true);
    let status = client.subscribe_as(Some("a third"), CONFIG).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(server.metric(r#"subscriptions_refused_total{reason="Unauthenticated"}"#), 2);
}

#[tokio::test]
async fn a_subscriptions_name_has_the_scope_of_its_account() {
    let mut server = server(access(Mode::Token, &reviewer())).await;
    let _events = server.client().await.subscribe_as(Some("secret"), CONFIG).await.unwrap();
    let stream = in_time(server.delivery.attached()).await;
    assert_eq!(stream.subscription.name.as_str(), "deploy.team-a");
    assert_eq!(stream.subscription.unscoped.unwrap().as_str(), "deploy");
}

#[tokio::test]
async fn audit_admits_without_a_scope() {
    let mut server = server(access(Mode::Audit, &reviewer())).await;
    for token in [None, Some("secret")] {
        let _events = server.client().await.subscribe_as(token, CONFIG).await.unwrap();
        assert_eq!(in_time(server.delivery.attached()).await.subscription.name.as_str(), "deploy");
    }
}

#[tokio::test]
async fn a_right_that_is_withdrawn_ends_open_and_waiting_streams() {
    for is_listed in [true, false] {
        let reviewer = reviewer();
        let short = Duration::from_millis(50);
        let options =
            access::Options { mode: Mode::Token, cache_token: short, cache_allow: short, ..access::Options::default() };
        let access = Access::new(options, reviewer.clone(), AccessMetrics::new(&mut Registry::default()));
        let server = TestServer::start_with(Options { access, ..Options::default() }, None).await;
        if is_listed {
            server.list(Scope::All);
        }
        let mut events = server.client().await.subscribe_as(Some("secret"), CONFIG).await.unwrap();
        reviewer.revoke();
        let end = in_time(events.message()).await.unwrap_err();
        assert_eq!(end.code(), Code::PermissionDenied);
        assert!(end.message().contains("kubectl create role"), "{end:?}");
    }
}

#[tokio::test]
async fn a_stream_over_tls_gets_events() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), authority());
    let tls = Tls::load(write(folder.path(), &authority), TlsMetrics::default()).unwrap();
    let mut server = TestServer::start_with(Options::default(), Some(tls)).await;
    server.list(Scope::All);
    let client = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem())).domain_name("server");
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap().tls_config(client).unwrap();
    let client = Client(in_time(endpoint.connect()).await.unwrap());
    let mut events = client.subscribe("a").await.unwrap();
    let mut stream = in_time(server.delivery.attached()).await;
    stream.send("{}");
    assert_eq!(in_time(events.message()).await.unwrap().unwrap().payload, b"{}");
    in_time(server.delivery.acknowledged()).await;
}

/// Handshakes that do not proceed neither stop the server from accepting nor occupy more than their connections.
#[tokio::test]
async fn peers_that_send_no_handshake_do_not_delay_others() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), authority());
    let tls = Tls::load(write(folder.path(), &authority), TlsMetrics::default()).unwrap();
    let limits = Limits { streams_per_peer: 4, ..Limits::default() };
    let server = TestServer::start_with(Options { limits, ..Options::default() }, Some(tls)).await;
    let mut silent = Vec::new();
    for _ in 0..limits.connections_per_peer() * 2 {
        silent.push(tokio::net::TcpStream::connect(server.address).await.unwrap());
    }
    let client = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem())).domain_name("server");
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap().tls_config(client).unwrap();
    in_time(endpoint.connect()).await.expect("a connection");
    let mut first = RawClient(silent.remove(0));
    first.closed().await;
}
