//! Failures are reported as failures, never as "no model", and within a deadline.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tonic::{
    Code,
    body::Body,
    server::NamedService,
    transport::{Endpoint, Server},
};

use super::*;
use crate::{
    mlmd::{
        error::excerpt,
        fake::{Fault, Store},
        lookup::MIN_STORE_REPLACEMENT,
    },
    telemetry::grpc,
};

/// A recurring run with a model without a name, whose context is of the second flavor: its lookup makes every call but
/// the one for the parents.
fn every_call() -> (TestEnv, Workflow, [Method; 6]) {
    let env = TestEnv::tfx();
    {
        let mut store = env.server.store();
        store.artifact_types.insert("PushedModel".into(), 20);
        store.add_model_with(5, 10, &[1], |artifact| {
            artifact.custom_properties.remove("name");
            (artifact.r#type, artifact.type_id) = (None, Some(20));
        });
    }
    (env, recurring(), [CONTEXT, ARTIFACTS, EXECUTIONS, EVENTS, CONTEXTS_OF, TYPE])
}

#[tokio::test(start_paused = true)]
async fn an_error_of_any_call_fails_only_that_lookup() {
    for number in 1..=16 {
        let code = Code::from(number);
        let (env, run, methods) = every_call();
        for method in methods {
            env.server.inject(method, Fault::Status(code));
            let answer = env.find(&run).await;
            if code == Code::NotFound && method == CONTEXT {
                assert_eq!(answer, Err(LookupError::NoContext));
            } else if code == Code::NotFound && method == TYPE {
                assert!(answer.is_ok(), "the store has no artifact of that type");
            } else {
                let (label, message) = failure(answer);
                assert_eq!(label, grpc::names(code).label);
                assert_eq!(message, format!("{method}: injected {code:?}"));
                env.assert_counted(&format!("mlmd_calls_total{{method=\"{method}\",code=\"{label}\"}} 1"));
            }
            env.server.clear_faults();
        }
        let (env, run, _) = every_call();
        assert_eq!(env.ids(&run).await, [5]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_for_the_pipeline_name_fails_the_lookup() {
    let env = TestEnv::kfp_v2();
    env.server.store().add_model(5, 10, &[1]);
    env.server.inject(PARENTS, Fault::Status(Code::Unavailable));
    assert_eq!(failure(env.find(&recurring()).await).0, "unavailable");
    env.server.inject(PARENTS, Fault::NoIds);
    assert_eq!(failure(env.find(&recurring()).await).0, "malformed");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_response_fails_after_20_s() {
    let (env, run, methods) = every_call();
    for method in methods {
        env.server.inject(method, Fault::Hang);
        let started = Instant::now();
        let (code, message) = failure(env.find(&run).await);
        assert_eq!((code, started.elapsed().as_secs()), ("timeout", 20));
        assert_eq!(message, format!("{method}: no response within 20s"));
        env.assert_counted(&format!("mlmd_calls_total{{method=\"{method}\",code=\"timeout\"}} 1"));
        env.server.clear_faults();
    }
    assert_eq!(env.ids(&run).await, [5]);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_with_many_slow_pages_fails_after_90_s() {
    let env = TestEnv::tfx();
    for id in 1..=1100 {
        env.server.store().add_model(id, 10, &[1]);
    }
    env.server.inject(ARTIFACTS, Fault::Delay(Duration::from_secs(9)));
    let started = Instant::now();
    let (code, message) = failure(env.find(&compiled()).await);
    assert_eq!((code, started.elapsed().as_secs()), ("timeout", 90));
    assert_eq!(message, "the lookup as a whole: no response within 90s");
    env.assert_counted("mlmd_lookups_total{outcome=\"failed\"} 1");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_responds_after_10_s_is_usable() {
    let (env, run, methods) = every_call();
    for method in methods {
        env.server.inject(method, Fault::Delay(Duration::from_secs(10)));
    }
    assert_eq!(env.ids(&run).await, [5]);
}

/// Runs a lookup that waits for this method, and replaces the store in the meantime.
async fn find_while_replaced(method: Method, replace: impl FnOnce(&mut Store)) -> Result<Arc<RunModels>, LookupError> {
    let env = TestEnv::tfx();
    env.server.store().add_model(5, 10, &[1]);
    env.server.inject(method, Fault::Delay(MIN_STORE_REPLACEMENT));
    let run = compiled();
    let replacement = async {
        env.server.until_called(method).await;
        replace(&mut env.server.store());
    };
    tokio::join!(env.find(&run), replacement).0
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_replaced_during_a_lookup_proves_nothing() {
    for method in [ARTIFACTS, EXECUTIONS, EVENTS] {
        let answer = find_while_replaced(method, |store| *store = Store::default()).await;
        assert_eq!(answer, Err(LookupError::NoContext), "{method}");
    }
    let with_another_context = |store: &mut Store| {
        *store = Store::default();
        store.add_context("node", "another pipeline's");
        store.add_context("pipeline_run", "penguin-x7k2p");
    };
    assert_eq!(failure(find_while_replaced(EVENTS, with_another_context).await).0, "aborted");
    assert_eq!(find_while_replaced(EVENTS, |_| {}).await.unwrap().models.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_endless_listing_is_malformed() {
    for method in [ARTIFACTS, EXECUTIONS] {
        let env = TestEnv::tfx();
        env.server.inject(method, Fault::RepeatedPage);
        let (code, message) = failure(env.find(&compiled()).await);
        assert_eq!(code, "malformed");
        assert!(message.contains("the token of a page repeats"), "{message}");
        env.server.inject(method, Fault::EndlessPages);
        let (code, message) = failure(env.find(&compiled()).await);
        assert_eq!(code, "malformed");
        assert!(message.contains("more than 1000 pages"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_without_ids_is_malformed() {
    let (env, run, _) = every_call();
    for method in [CONTEXT, ARTIFACTS, EXECUTIONS, EVENTS, CONTEXTS_OF] {
        env.server.inject(method, Fault::NoIds);
        assert_eq!(failure(env.find(&run).await).0, "malformed", "{method}");
        env.server.clear_faults();
    }
    assert_eq!(env.ids(&run).await, [5]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_replaced() {
    let env = TestEnv::tfx();
    env.server.store().add_model(5, 10, &[1]);
    assert_eq!(env.ids(&compiled()).await, [5]);
    env.server.calls();
    env.server.inject(EVENTS, Fault::Hang);
    let run = compiled();
    let disconnect = async {
        env.server.until_called(EVENTS).await;
        env.server.disconnect();
    };
    let started = Instant::now();
    let (answer, ()) = tokio::join!(env.find_uncached(&run), disconnect);
    let (code, message) = failure(answer);
    assert_eq!(code, "unavailable", "{message}");
    assert!(started.elapsed() < Duration::from_secs(1), "reported immediately");
    env.server.clear_faults();
    assert_eq!(env.ids(&run).await, [5]);
}

/// A server that responds to every request with this.
#[derive(Clone)]
struct HttpServer(fn() -> http::Response<Body>);

impl NamedService for HttpServer {
    const NAME: &'static str = "ml_metadata.MetadataStoreService";
}

impl tower::Service<http::Request<Body>> for HttpServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        std::future::ready(Ok((self.0)()))
    }
}

/// Returns the failure of a lookup in such a server.
async fn failure_with(server: HttpServer) -> (&'static str, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(Server::builder().serve_with_incoming(server, incoming));
    let mlmd = Mlmd::new(&url, &Options::default(), LookupMetrics::new(&mut Registry::default())).unwrap();
    failure(mlmd.find(&compiled(), &Arc::default()).await)
}

fn text(status: u16, content_type: &str, text: &'static str) -> http::Response<Body> {
    let body = Body::new(Full::new(Bytes::from_static(text.as_bytes())));
    http::Response::builder().status(status).header("content-type", content_type).body(body).unwrap()
}

#[tokio::test]
async fn bytes_that_are_not_a_message_are_malformed() {
    let garbage = || {
        let frame = Bytes::from_static(&[0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]);
        let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let body = Full::new(frame).with_trailers(async move { Some(Ok(trailers)) });
        http::Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
    };
    let (code, message) = failure_with(HttpServer(garbage)).await;
    assert_eq!(code, "malformed", "{message}");
}

#[tokio::test]
async fn a_response_that_is_not_grpc_fails_by_its_http_status() {
    let (code, message) = failure_with(HttpServer(|| text(200, "text/html", "<html></html>"))).await;
    assert_eq!(code, "malformed");
    assert!(message.ends_with("the response is not gRPC (content type: text/html)"), "{message}");
    let empty = || http::Response::new(Body::empty());
    assert_eq!(failure_with(HttpServer(empty)).await.0, "malformed");
    for (code, server) in [
        ("unavailable", HttpServer(|| text(503, "text/plain", "no healthy upstream"))),
        ("unavailable", HttpServer(|| text(502, "text/html", "<html>bad gateway</html>"))),
        ("unauthenticated", HttpServer(|| text(401, "application/json", "{}"))),
        ("unimplemented", HttpServer(|| text(404, "text/plain", "404 page not found"))),
    ] {
        assert_eq!(failure_with(server).await.0, code);
    }
}

#[tokio::test]
async fn an_absent_server_is_unavailable_with_the_cause() {
    // A port that was free a moment ago, without a listener.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mlmd = Mlmd::new(&url, &Options::default(), LookupMetrics::new(&mut Registry::default())).unwrap();
    let (code, message) = failure(mlmd.find(&compiled(), &Arc::default()).await);
    assert_eq!(code, "unavailable");
    assert!(message.contains("refused"), "{message}");
}

#[tokio::test]
async fn an_invalid_url_is_refused_without_repeating_it() {
    let options = Options::default();
    for (url, reason) in [
        ("metadata-grpc-service.kubeflow", "has no port"),
        ("me:secret@metadata:8080", "contains a user"),
        ("metadata:8080/api", "has a path"),
        (":8080", "has no host"),
        ("grpc://metadata:8080", "does not begin with http"),
        ("", "does not parse"),
        ("http://", "does not parse"),
        ("http://:8080", "has no host"),
        ("http://me:secret@metadata:8080", "contains a user"),
        ("http://metadata:8080/api", "has a path"),
        ("http://metadata:8080?x=secret", "has a path"),
    ] {
        let error = endpoint::endpoint(url, &options.connection()).unwrap_err().to_string();
        assert!(error.contains(reason), "{url}: {error}");
        assert!(!error.contains("secret"));
    }
    let endpoint: Endpoint =
        endpoint::endpoint("http://metadata-grpc-service.kubeflow:8080/", &options.connection()).unwrap();
    assert_eq!(endpoint.uri().host(), Some("metadata-grpc-service.kubeflow"));
    endpoint::endpoint("http://[::1]:8080", &options.connection()).unwrap();
    for address in ["metadata:8080", "10.0.0.1:8080", "[::1]:8080", "metadata-grpc-service.kubeflow:8080/"] {
        let endpoint: Endpoint = endpoint::endpoint(address, &options.connection()).unwrap();
        assert_eq!(endpoint.uri().scheme_str(), Some("http"), "{address}");
        assert_eq!(endpoint.uri().port_u16(), Some(8080), "{address}");
    }
}

#[test]
fn a_foreign_text_is_cut_to_one_short_line() {
    let text = excerpt(&"line\nü\u{1b}[31m".repeat(100));
    assert_eq!(text.chars().count(), 301);
    assert!(!text.contains(char::is_control));
    assert_eq!(excerpt("short"), "short");
}
