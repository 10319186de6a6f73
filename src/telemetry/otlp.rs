//! Traces as configured by the environment variables `OTEL_*`. The SDK reads some of them itself; this module reads the
//! others. `docs/tracing.md` lists all of them.

mod exporter;
mod tls;

use std::{env, str::FromStr, time::Duration};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider},
};
use tokio_util::sync::CancellationToken;

use self::{exporter::LoggingExporter, tls::Tls};
use super::{
    VERSION,
    sampler::Sampler,
    trace::{ChosenIds, Traces},
};

const SERVICE: &str = "model-update-eventsource";
/// The capacity of the span queue: enough for a catch-up of a few thousand runs. The SDK's default is 2,048.
const QUEUE: usize = 16_384;
/// The specification's default for one export, its retries included.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason why tracing is off although the environment enables it. The server runs without traces.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// A variable has a value that is not supported.
    #[error("{variable}={value:?} is not supported: use {instead}")]
    Unsupported {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// The supported values.
        instead: &'static str,
    },
    /// A file that a variable names cannot be read.
    #[error("{variable}: the file {path:?} cannot be read: {error}")]
    File {
        /// The variable.
        variable: String,
        /// The file.
        path: String,
        /// The reason.
        error: std::io::Error,
    },
    /// A certificate or a key is not usable.
    #[error("the certificates of the OTLP exporter are not usable: {0}")]
    Certificates(String),
    /// The exporter cannot be built.
    #[error("the OTLP exporter cannot be built: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl Traces {
    /// Traces as the environment configures them: on where an OTLP endpoint is set and no variable switches them off.
    /// Needs a tokio runtime, which then runs the exporter's connections and timers.
    ///
    /// # Errors
    /// If a variable has a value that is not supported.
    pub fn from_env() -> Result<Self, TracingError> {
        let settings = Settings::read(|name| env::var(name).ok().filter(|value| !value.trim().is_empty()))?;
        let Some(settings) = settings else { return Ok(Self::default()) };
        Ok(Self::exporting(settings.exporter()?, &settings))
    }

    /// Traces that are sent with this exporter, in batches.
    fn exporting(exporter: SpanExporter, settings: &Settings) -> Self {
        let stop = CancellationToken::new();
        let exporter = LoggingExporter::new(exporter, settings.timeout, stop.clone());
        let mut batches = BatchConfigBuilder::default();
        if env::var_os("OTEL_BSP_MAX_QUEUE_SIZE").is_none() {
            batches = batches.with_max_queue_size(QUEUE);
        }
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build())
            .with_id_generator(ChosenIds::default())
            .with_sampler(settings.sampler)
            .with_resource(resource())
            .build();
        Self::new(provider, settings.sampler, settings.propagates, stop)
    }
}

/// The settings that the SDK does not read itself.
#[derive(Debug, PartialEq)]
struct Settings {
    protocol: WireProtocol,
    sampler: Sampler,
    propagates: bool,
    timeout: Duration,
    tls: Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WireProtocol {
    Grpc,
    HttpProtobuf,
}

impl Settings {
    /// Reads the settings. `None` where tracing is off.
    fn read(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, TracingError> {
        let signal = |name: &str| get(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
        let either = |name: &str| signal(name).or_else(|| get(&format!("OTEL_EXPORTER_OTLP_{name}")));
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        match get("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(value) => return unsupported("OTEL_TRACES_EXPORTER", value, "otlp or none"),
        }
        let Some(endpoint) = either("ENDPOINT") else { return Ok(None) };
        let protocol = match either("PROTOCOL").as_deref() {
            None | Some("http/protobuf") => WireProtocol::HttpProtobuf,
            Some("grpc") => WireProtocol::Grpc,
            Some(value) => return unsupported("OTEL_EXPORTER_OTLP_PROTOCOL", value, "grpc or http/protobuf"),
        };
        let timeout = match either("TIMEOUT") {
            None => EXPORT_TIMEOUT,
            Some(text) => match text.trim().parse() {
                Ok(milliseconds) => Duration::from_millis(milliseconds),
                Err(_) => return unsupported("OTEL_EXPORTER_OTLP_TIMEOUT", &text, "a number of milliseconds"),
            },
        };
        let ratio = || match get("OTEL_TRACES_SAMPLER_ARG") {
            None => Ok(Sampler::ALL),
            Some(text) => match f64::from_str(&text) {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Sampler::ratio(ratio)),
                _ => unsupported("OTEL_TRACES_SAMPLER_ARG", &text, "a number from 0 to 1"),
            },
        };
        let sampler = match get("OTEL_TRACES_SAMPLER").as_deref() {
            None | Some("always_on" | "parentbased_always_on") => Sampler::ALL,
            Some("always_off" | "parentbased_always_off") => Sampler::NONE,
            Some("traceidratio" | "parentbased_traceidratio") => ratio()?,
            Some(value) => {
                let instead = "always_on, always_off or traceidratio, each also with parentbased_ before it";
                return unsupported("OTEL_TRACES_SAMPLER", value, instead);
            }
        };
        let propagators = get("OTEL_PROPAGATORS").unwrap_or_else(|| "tracecontext,baggage".to_owned());
        let propagates = propagators.split(',').any(|name| name.trim() == "tracecontext");
        let file = |name: &str| match either(name) {
            None => Ok(None),
            Some(path) => match std::fs::read(&path) {
                Ok(text) => Ok(Some(text)),
                Err(error) => Err(TracingError::File { variable: format!("OTEL_EXPORTER_OTLP_{name}"), path, error }),
            },
        };
        let client = file("CLIENT_CERTIFICATE")?.zip(file("CLIENT_KEY")?);
        let tls = Tls { https: endpoint.starts_with("https:"), certificate: file("CERTIFICATE")?, client };
        Ok(Some(Self { protocol, sampler, propagates, timeout, tls }))
    }

    /// The exporter for the endpoint in the environment.
    fn exporter(&self) -> Result<SpanExporter, TracingError> {
        Ok(match self.protocol {
            WireProtocol::Grpc => {
                let builder = SpanExporter::builder().with_tonic();
                if self.tls.https {
                    builder.with_tls_config(self.tls.grpc_config()).build()?
                } else {
                    builder.build()?
                }
            }
            WireProtocol::HttpProtobuf => {
                let builder = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
                builder.with_http_client(self.tls.http_client(self.timeout)?).build()?
            }
        })
    }
}

fn unsupported<T>(variable: &'static str, value: &str, instead: &'static str) -> Result<T, TracingError> {
    Err(TracingError::Unsupported { variable, value: value.chars().take(64).collect(), instead })
}

/// The resource attributes of this process.
fn resource() -> Resource {
    let pod = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let mut attributes = vec![KeyValue::new("service.version", VERSION)];
    let names = pod("POD_NAMESPACE").zip(pod("POD_NAME"));
    let instance = match &names {
        Some((namespace, name)) => {
            attributes.push(KeyValue::new("k8s.namespace.name", namespace.clone()));
            attributes.push(KeyValue::new("k8s.pod.name", name.clone()));
            let container = pod("CONTAINER_NAME").unwrap_or_else(|| SERVICE.to_owned());
            format!("{namespace}.{name}.{container}")
        }
        None => uuid::Uuid::from_u128(rand::random()).to_string(),
    };
    attributes.push(KeyValue::new("service.instance.id", instance));
    let from_env = Resource::builder().build();
    let named = from_env
        .get(&"service.name".into())
        .is_some_and(|name| !name.as_str().is_empty() && !name.as_str().starts_with("unknown_service"));
    // Attributes of the environment come last, and so replace these.
    let mut builder = Resource::builder_empty().with_attributes(attributes);
    if !named {
        builder = builder.with_service_name(SERVICE);
    }
    let user_defined = from_env.iter().filter(|(key, _)| named || key.as_str() != "service.name");
    builder.with_attributes(user_defined.map(|(key, value)| KeyValue::new(key.clone(), value.clone()))).build()
}

#[cfg(test)]
mod tests;
