use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use opentelemetry_otlp::Compression;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, server::WebPkiClientVerifier};
use tokio::runtime::Runtime;

use super::*;
use crate::telemetry::trace::{FinishedSpan, SpanRef};

fn read(environment: &[(&str, &str)]) -> Result<Option<Settings>, TracingError> {
    let environment: HashMap<_, _> = environment.iter().copied().collect();
    Settings::read(|name| environment.get(name).map(|&value| value.to_owned()))
}

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

#[test]
fn an_endpoint_switches_traces_on() {
    assert_eq!(read(&[]).unwrap(), None);
    assert!(read(&[ENDPOINT]).unwrap().is_some());
    assert!(read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")]).unwrap().is_some());
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert_eq!(read(&[ENDPOINT, off]).unwrap(), None, "{off:?}");
    }
}

#[test]
fn the_variable_of_the_signal_overrides_the_general_one() {
    let settings = read(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
    ]);
    assert_eq!(settings.unwrap().unwrap().protocol, WireProtocol::Grpc);
    assert_eq!(read(&[ENDPOINT]).unwrap().unwrap().protocol, WireProtocol::HttpProtobuf, "the specification's default");
}

#[test]
fn samplers_are_as_documented() {
    let sampler = |name, arg| {
        let environment = [ENDPOINT, ("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", arg)];
        read(&environment).map(|settings| settings.unwrap().sampler)
    };
    assert_eq!(read(&[ENDPOINT]).unwrap().unwrap().sampler, Sampler::ALL);
    assert_eq!(sampler("parentbased_always_off", "").unwrap(), Sampler::NONE);
    assert_eq!(sampler("traceidratio", "0.25").unwrap(), Sampler::ratio(0.25));
    assert!(sampler("traceidratio", "2").unwrap_err().to_string().contains("a number from 0 to 1"));
    assert!(sampler("jaeger_remote", "").unwrap_err().to_string().contains("always_on"));
}

#[test]
fn an_unsupported_value_is_an_error() {
    let message = |variable| read(&[ENDPOINT, variable]).unwrap_err().to_string();
    assert_eq!(
        message(("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")),
        "OTEL_EXPORTER_OTLP_PROTOCOL=\"http/json\" is not supported: use grpc or http/protobuf"
    );
    assert!(message(("OTEL_TRACES_EXPORTER", "zipkin")).contains("use otlp or none"));
    assert!(message(("OTEL_EXPORTER_OTLP_TIMEOUT", "5s")).contains("use a number of milliseconds"));
    let missing = message(("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"));
    assert!(
        missing.starts_with("OTEL_EXPORTER_OTLP_CERTIFICATE: the file \"/nowhere/ca.pem\" cannot be read"),
        "{missing}"
    );
}

#[test]
fn propagators_without_tracecontext_switch_propagation_off() {
    let propagates = |value| read(&[ENDPOINT, ("OTEL_PROPAGATORS", value)]).unwrap().unwrap().propagates;
    assert!(read(&[ENDPOINT]).unwrap().unwrap().propagates);
    assert!(propagates("baggage, tracecontext"));
    assert!(!propagates("none"));
}

#[test]
fn an_export_may_take_ten_seconds_or_as_configured() {
    let timeout = |variables: &[_]| read(&[&[ENDPOINT], variables].concat()).unwrap().unwrap().timeout;
    assert_eq!(timeout(&[]), Duration::from_secs(10), "the specification's default");
    let general = ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500");
    assert_eq!(timeout(&[general]), Duration::from_millis(2500));
    assert_eq!(timeout(&[general, ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "100")]), Duration::from_millis(100));
}

/// Traces with a real exporter.
struct Sending {
    traces: Traces,
    _runtime: Runtime,
}

impl Sending {
    fn over_http(url: String, timeout: Duration, tls: &Tls) -> Self {
        Self::with(timeout, || {
            SpanExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_http_client(tls.http_client(timeout).unwrap())
                .with_compression(Compression::Gzip)
                .with_endpoint(url)
                .build()
                .unwrap()
        })
    }

    fn over_grpc(url: String, timeout: Duration) -> Self {
        Self::with(timeout, || SpanExporter::builder().with_tonic().with_endpoint(url).build().unwrap())
    }

    fn with(timeout: Duration, exporter: impl FnOnce() -> SpanExporter) -> Self {
        let runtime = Runtime::new().unwrap();
        let traces = {
            let _within = runtime.enter();
            let settings = Settings { timeout, ..read(&[ENDPOINT]).unwrap().unwrap() };
            Traces::exporting(exporter(), &settings)
        };
        Self { traces, _runtime: runtime }
    }

    fn record(&self, spans: usize) {
        for _ in 0..spans {
            self.traces.record(FinishedSpan::now(SpanRef::random(), None, "run"));
        }
    }
}

/// A listener, and the URL for it. Connections are established, and nothing is read or answered.
fn silent_collector() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// The spans of a batch. As many start an export.
const BATCH: usize = 512;
/// The deadline of a test, for a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Reads a connection until the exporter closes it.
fn request_until_closed(mut connection: TcpStream) -> String {
    connection.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut request = Vec::new();
    connection.read_to_end(&mut request).expect("the exporter closes the connection");
    String::from_utf8_lossy(&request).into_owned()
}

/// A collector that accepts and never answers does not delay the end of the process beyond the given time.
#[test]
fn a_silent_collector_does_not_hold_up_the_flush() {
    let (over_http, over_grpc) = (silent_collector(), silent_collector());
    let timeout = Duration::from_secs(600);
    for (collector, sending, begin) in [
        (over_http.0, Sending::over_http(over_http.1, timeout, &Tls::default()), "POST / HTTP/1.1\r\n"),
        (over_grpc.0, Sending::over_grpc(over_grpc.1, timeout), "PRI * HTTP/2.0\r\n"),
    ] {
        sending.record(BATCH);
        let connection = collector.accept().unwrap().0;
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        // The export is in progress when the flush begins.
        connection.peek(&mut [0]).expect("a request");
        let start = Instant::now();
        sending.traces.flush(Duration::from_millis(200));
        let took = start.elapsed();
        assert!((200..5000).contains(&took.as_millis()), "{took:?}");
        // The export is over, so that nothing uses the runtime any longer.
        let request = request_until_closed(connection);
        assert!(request.starts_with(begin), "{request}");
    }
}

/// Without a deadline, one silent collector would block the SDK's export thread forever.
#[test]
fn an_export_ends_after_its_timeout() {
    let (collector, url) = silent_collector();
    let sending = Sending::over_http(url, Duration::from_millis(100), &Tls::default());
    let (requests_tx, requests) = mpsc::channel();
    thread::spawn(move || {
        while let Ok((connection, _)) = collector.accept() {
            if requests_tx.send(request_until_closed(connection)).is_err() {
                return;
            }
        }
    });
    // The second request is sent although the first was not answered. On a busy machine, the time of an export may be over
    // before its request is written, or even before its connection. Then the next batch counts.
    let start = Instant::now();
    let mut sent = 0;
    while sent < 2 {
        assert!(start.elapsed() < DEADLINE, "{sent} requests");
        sending.record(BATCH);
        let request = requests.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        sent += usize::from(request.contains("content-encoding: gzip\r\n"));
    }
}

/// Answers one request after a handshake in which the client shows a certificate. Returns the request.
fn answer_over_tls(connection: TcpStream, config: ServerConfig) -> String {
    let mut connection = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), connection);
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).unwrap();
        request.extend(byte);
    }
    connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert!(connection.conn.peer_certificates().is_some_and(|certificates| certificates.len() == 1));
    String::from_utf8_lossy(&request).into_owned()
}

#[test]
fn https_uses_the_given_authority_and_client_certificate() {
    let certified = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (server, client) = (certified(), certified());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut clients = RootCertStore::empty();
    clients.add(client.cert.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(clients.into(), provider.clone()).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.cert.der().clone()], server.signing_key.into())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/v1/traces", listener.local_addr().unwrap().port());
    let collector = thread::spawn(move || answer_over_tls(listener.accept().unwrap().0, config));
    let tls = Tls {
        https: true,
        certificate: Some(server.cert.pem().into()),
        client: Some((client.cert.pem().into(), client.signing_key.serialize_pem().into())),
    };
    let sending = Sending::over_http(url, Duration::from_secs(30), &tls);
    sending.record(1);
    sending.traces.flush(Duration::from_secs(30));
    assert!(collector.join().unwrap().starts_with("POST /v1/traces HTTP/1.1\r\n"));
}

#[test]
fn an_unreadable_certificate_is_an_error() {
    let damaged = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_vec();
    for tls in [
        Tls { certificate: Some(damaged.clone()), ..Tls::default() },
        Tls { client: Some((damaged, Vec::new())), ..Tls::default() },
    ] {
        let error = tls.http_client(Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().starts_with("the certificates of the OTLP exporter are not usable: "), "{error}");
    }
}
