//! What goes wrong is told as what it is, never as "no model", and never for ever.

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
use crate::mlmd::{
    error::{MALFORMED, TIMEOUT, name},
    fake::{Fault, Store},
    lookup::EXCHANGED,
};

/// A recurring run with a model without a name, found at the second try: its lookup makes every call there is but that
/// for the parents.
fn every_call() -> (Bench, Workflow, [&'static str; 6]) {
    let bench = Bench::tfx();
    {
        let mut store = bench.fake.store();
        store.artifact_types.insert("PushedModel".into(), 20);
        store.model(5, 10, &[1], |artifact| {
            artifact.custom_properties.remove("name");
            (artifact.r#type, artifact.type_id) = (None, Some(20));
        });
    }
    (bench, recurring(), [CONTEXT, ARTIFACTS, EXECUTIONS, EVENTS, CONTEXTS_OF, TYPE])
}

#[tokio::test(start_paused = true)]
async fn an_error_of_any_code_in_any_call_fails_the_lookup_and_the_next_one_is_right() {
    for number in 1..=16 {
        let code = Code::from(number);
        let (bench, run, methods) = every_call();
        for method in methods {
            bench.fake.misbehave(method, Fault::Status(code));
            let answer = bench.find(&run).await;
            if code == Code::NotFound && method == CONTEXT {
                assert_eq!(answer, Err(LookupError::NoContext));
            } else if code == Code::NotFound && method == TYPE {
                assert!(answer.is_ok(), "the store has no artifact of that type");
            } else {
                let (told, message) = failure(answer);
                assert_eq!(told, name(code));
                assert_eq!(message, format!("{method}: played {code:?}"));
                bench.assert_counted(&format!("mlmd_calls_total{{method=\"{method}\",code=\"{told}\"}} 1"));
            }
            bench.fake.behave();
        }
        let (bench, run, _) = every_call();
        assert_eq!(bench.ids(&run).await, [5]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_for_the_pipelines_name_fails_the_lookup() {
    let bench = Bench::kfp_v2();
    bench.fake.store().model(5, 10, &[1], |_| {});
    bench.fake.misbehave(PARENTS, Fault::Status(Code::Unavailable));
    assert_eq!(failure(bench.find(&recurring()).await).0, "unavailable");
    bench.fake.misbehave(PARENTS, Fault::NoIds);
    assert_eq!(failure(bench.find(&recurring()).await).0, MALFORMED);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_answered_ends_after_twenty_seconds() {
    let (bench, run, methods) = every_call();
    for method in methods {
        bench.fake.misbehave(method, Fault::Never);
        let begun = Instant::now();
        let (code, message) = failure(bench.find(&run).await);
        assert_eq!((code, begun.elapsed().as_secs()), (TIMEOUT, 20));
        assert_eq!(message, format!("{method}: no answer within 20s"));
        bench.assert_counted(&format!("mlmd_calls_total{{method=\"{method}\",code=\"timeout\"}} 1"));
        bench.fake.behave();
    }
    assert_eq!(bench.ids(&run).await, [5]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_every_page_late_holds_a_lookup_for_ninety_seconds_at_most() {
    let bench = Bench::tfx();
    for id in 1..=1100 {
        bench.fake.store().model(id, 10, &[1], |_| {});
    }
    bench.fake.misbehave(ARTIFACTS, Fault::After(Duration::from_secs(9)));
    let begun = Instant::now();
    let (code, message) = failure(bench.find(&compiled()).await);
    assert_eq!((code, begun.elapsed().as_secs()), (TIMEOUT, 90));
    assert_eq!(message, "the lookup as a whole: no answer within 90s");
    bench.assert_counted("mlmd_lookups_total{outcome=\"failed\"} 1");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_ten_seconds_an_answer_answers() {
    let (bench, run, methods) = every_call();
    for method in methods {
        bench.fake.misbehave(method, Fault::After(Duration::from_secs(10)));
    }
    assert_eq!(bench.ids(&run).await, [5]);
}

/// Plays a lookup whose answer to this question comes late, and another store in place of the first meanwhile.
async fn exchanged_during(
    method: &'static str,
    another: impl FnOnce(&mut Store),
) -> Result<Arc<RunModels>, LookupError> {
    let bench = Bench::tfx();
    bench.fake.store().model(5, 10, &[1], |_| {});
    bench.fake.misbehave(method, Fault::After(EXCHANGED));
    let run = compiled();
    let exchange = async {
        bench.fake.until_called(method).await;
        another(&mut bench.fake.store());
    };
    tokio::join!(bench.find(&run), exchange).0
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_empty_during_a_lookup_is_no_proof_that_there_is_no_model() {
    for method in [ARTIFACTS, EXECUTIONS, EVENTS] {
        let answer = exchanged_during(method, |store| *store = Store::default()).await;
        assert_eq!(answer, Err(LookupError::NoContext), "{method}");
    }
    let with_another_context = |store: &mut Store| {
        *store = Store::default();
        store.context("node", "somebody else's");
        store.context("pipeline_run", "penguin-x7k2p");
    };
    assert_eq!(failure(exchanged_during(EVENTS, with_another_context).await).0, "aborted");
    assert_eq!(exchanged_during(EVENTS, |_| {}).await.unwrap().models.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_listing_without_an_end_is_malformed() {
    for method in [ARTIFACTS, EXECUTIONS] {
        let bench = Bench::tfx();
        bench.fake.misbehave(method, Fault::SamePage);
        let (code, message) = failure(bench.find(&compiled()).await);
        assert_eq!(code, MALFORMED);
        assert!(message.contains("the same page came twice"), "{message}");
        bench.fake.misbehave(method, Fault::EndlessPages);
        let (code, message) = failure(bench.find(&compiled()).await);
        assert_eq!(code, MALFORMED);
        assert!(message.contains("still no last page after 1000"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_without_ids_are_malformed() {
    let (bench, run, _) = every_call();
    for method in [CONTEXT, ARTIFACTS, EXECUTIONS, EVENTS, CONTEXTS_OF] {
        bench.fake.misbehave(method, Fault::NoIds);
        assert_eq!(failure(bench.find(&run).await).0, MALFORMED, "{method}");
        bench.fake.behave();
    }
    assert_eq!(bench.ids(&run).await, [5]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_is_made_again() {
    let bench = Bench::tfx();
    bench.fake.store().model(5, 10, &[1], |_| {});
    assert_eq!(bench.ids(&compiled()).await, [5]);
    bench.fake.calls();
    bench.fake.misbehave(EVENTS, Fault::Never);
    let run = compiled();
    let hang_up = async {
        bench.fake.until_called(EVENTS).await;
        bench.fake.hang_up();
    };
    let begun = Instant::now();
    let (answer, ()) = tokio::join!(bench.find_anew(&run), hang_up);
    let (code, message) = failure(answer);
    assert_eq!(code, "unavailable", "{message}");
    assert!(begun.elapsed() < Duration::from_secs(1), "noticed at once");
    bench.fake.behave();
    assert_eq!(bench.ids(&run).await, [5]);
}

/// Answers every call with this.
#[derive(Clone)]
struct Odd(fn() -> http::Response<Body>);

impl NamedService for Odd {
    const NAME: &'static str = "ml_metadata.MetadataStoreService";
}

impl tower::Service<http::Request<Body>> for Odd {
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

/// How a lookup fails before such a server.
async fn failure_before(odd: Odd) -> (&'static str, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(Server::builder().serve_with_incoming(odd, incoming));
    let mlmd = Mlmd::new(&url, &Options::default(), &Metrics::new(&mut Registry::default())).unwrap();
    failure(mlmd.find(&compiled(), &Arc::default()).await)
}

fn text(status: u16, content_type: &str, text: &'static str) -> http::Response<Body> {
    let body = Body::new(Full::new(Bytes::from_static(text.as_bytes())));
    http::Response::builder().status(status).header("content-type", content_type).body(body).unwrap()
}

#[tokio::test]
async fn octets_that_are_no_message_are_malformed() {
    let octets = || {
        let frame = Bytes::from_static(&[0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]);
        let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let body = Full::new(frame).with_trailers(async move { Some(Ok(trailers)) });
        http::Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
    };
    let (code, message) = failure_before(Odd(octets)).await;
    assert_eq!(code, MALFORMED, "{message}");
}

#[tokio::test]
async fn what_is_no_grpc_is_told_by_its_http_status_or_as_malformed() {
    let (code, message) = failure_before(Odd(|| text(200, "text/html", "<html></html>"))).await;
    assert_eq!(code, MALFORMED);
    assert!(message.ends_with("what answers is no gRPC server (text/html)"), "{message}");
    let nothing = || http::Response::new(Body::empty());
    assert_eq!(failure_before(Odd(nothing)).await.0, MALFORMED);
    for (code, answer) in [
        ("unavailable", Odd(|| text(503, "text/plain", "no healthy upstream"))),
        ("unavailable", Odd(|| text(502, "text/html", "<html>bad gateway</html>"))),
        ("unauthenticated", Odd(|| text(401, "application/json", "{}"))),
        ("unimplemented", Odd(|| text(404, "text/plain", "404 page not found"))),
    ] {
        assert_eq!(failure_before(answer).await.0, code);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_the_message_says_why() {
    // A port that was free a moment ago, and that nobody serves.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mlmd = Mlmd::new(&url, &Options::default(), &Metrics::new(&mut Registry::default())).unwrap();
    let (code, message) = failure(mlmd.find(&compiled(), &Arc::default()).await);
    assert_eq!(code, "unavailable");
    assert!(message.contains("refused"), "{message}");
}

#[tokio::test]
async fn a_url_that_can_be_none_of_the_service_is_refused_without_repeating_it() {
    let options = Options::default();
    for (url, why) in [
        ("metadata-grpc-service.kubeflow:8080", "does not begin with http"),
        ("grpc://metadata:8080", "does not begin with http"),
        ("", "does not parse"),
        ("http://", "does not parse"),
        ("http://:8080", "names no host"),
        ("http://me:secret@metadata:8080", "holds a user"),
        ("http://metadata:8080/api", "has a path"),
        ("http://metadata:8080?x=secret", "has a path"),
    ] {
        let error = client::endpoint(url, &options).unwrap_err().to_string();
        assert!(error.contains(why), "{url}: {error}");
        assert!(!error.contains("secret"));
    }
    let endpoint: Endpoint = client::endpoint("http://metadata-grpc-service.kubeflow:8080/", &options).unwrap();
    assert_eq!(endpoint.uri().host(), Some("metadata-grpc-service.kubeflow"));
    client::endpoint("http://[::1]:8080", &options).unwrap();
}

#[test]
fn a_long_or_odd_text_is_cut_and_put_on_one_line() {
    let text = error::excerpt(&"line\nü\u{1b}[31m".repeat(100));
    assert_eq!(text.chars().count(), 301);
    assert!(!text.contains(char::is_control));
    assert_eq!(error::excerpt("short"), "short");
}
