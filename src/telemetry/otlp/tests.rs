use std::collections::HashMap;

use super::*;

fn read(environment: &[(&str, &str)]) -> Result<Option<Settings>, TracingError> {
    let environment: HashMap<_, _> = environment.iter().copied().collect();
    Settings::read(|name| environment.get(name).map(|&value| value.to_owned()))
}

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

#[test]
fn there_are_traces_where_an_endpoint_is_set_and_nothing_switches_them_off() {
    assert_eq!(read(&[]).unwrap(), None);
    assert!(read(&[ENDPOINT]).unwrap().is_some());
    assert!(read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")]).unwrap().is_some());
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert_eq!(read(&[ENDPOINT, off]).unwrap(), None, "{off:?}");
    }
}

#[test]
fn the_signals_own_variable_goes_before_the_general_one() {
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
fn what_cannot_be_followed_is_said_and_not_guessed() {
    let message = |variable| read(&[ENDPOINT, variable]).unwrap_err().to_string();
    assert_eq!(
        message(("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")),
        "OTEL_EXPORTER_OTLP_PROTOCOL=\"http/json\" is not supported: use grpc or http/protobuf"
    );
    assert!(message(("OTEL_TRACES_EXPORTER", "zipkin")).contains("use otlp or none"));
    let missing = message(("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"));
    assert!(
        missing.starts_with("OTEL_EXPORTER_OTLP_CERTIFICATE: the file \"/nowhere/ca.pem\" cannot be read"),
        "{missing}"
    );
}

#[test]
fn consumers_are_told_of_the_trace_unless_the_propagators_leave_it_out() {
    let propagates = |value| read(&[ENDPOINT, ("OTEL_PROPAGATORS", value)]).unwrap().unwrap().propagates;
    assert!(read(&[ENDPOINT]).unwrap().unwrap().propagates);
    assert!(propagates("baggage, tracecontext"));
    assert!(!propagates("none"));
}
