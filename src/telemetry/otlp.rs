//! Traces as `OTEL_*` in the environment says. What the SDK reads itself it reads itself; what it leaves out is read
//! here: see the table in `docs/tracing.md`.

use std::{
    env, fmt,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{
    Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
    tonic_types::transport::{Certificate, ClientTlsConfig, Identity},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanData},
};
use tracing::{info, warn};

use super::{
    VERSION,
    sampler::Sampler,
    trace::{ChosenIds, Traces},
};

const SERVICE: &str = "model-update-eventsource";
/// How many spans may wait to be sent: those of a catch-up of a few thousand runs. The SDK's own default is 2,048.
const QUEUE: usize = 16_384;

/// Why there are no traces although the environment asks for them. The server runs without.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// A variable has a value that this program cannot follow.
    #[error("{variable}={value:?} is not supported: use {instead}")]
    Unsupported {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What can be used.
        instead: &'static str,
    },
    /// A file that a variable names cannot be read.
    #[error("{variable}: the file {path:?} cannot be read: {error}")]
    File {
        /// The variable.
        variable: String,
        /// What it names.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The HTTP client cannot be made.
    #[error("the OTLP client cannot be made: {0}")]
    Client(String),
    /// The exporter cannot be made.
    #[error("the OTLP exporter cannot be made: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl Traces {
    /// Traces as the environment says: on where an OTLP endpoint is set, and nothing switches them off. To be called
    /// within a tokio runtime, in which the exporter then works.
    ///
    /// # Errors
    /// Where the environment asks for what cannot be had.
    pub fn from_env() -> Result<Self, TracingError> {
        let settings = Settings::read(|name| env::var(name).ok().filter(|value| !value.trim().is_empty()))?;
        let Some(settings) = settings else { return Ok(Self::default()) };
        let exporter = Watched { inner: settings.exporter()?, failing: AtomicBool::new(false) };
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
        Ok(Self::to(provider, settings.sampler, settings.propagates))
    }
}

/// What the environment says, as far as the SDK leaves it to the program.
#[derive(Debug, PartialEq)]
struct Settings {
    protocol: WireProtocol,
    sampler: Sampler,
    propagates: bool,
    tls: Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WireProtocol {
    Grpc,
    HttpProtobuf,
}

/// PEM texts.
#[derive(Default, PartialEq)]
struct Tls {
    https: bool,
    certificate: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("https", &self.https).finish_non_exhaustive()
    }
}

impl Settings {
    /// `None` where there are to be no traces.
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
        Ok(Some(Self { protocol, sampler, propagates, tls }))
    }

    fn exporter(&self) -> Result<SpanExporter, TracingError> {
        Ok(match self.protocol {
            WireProtocol::Grpc => {
                let builder = SpanExporter::builder().with_tonic();
                if self.tls.https { builder.with_tls_config(self.tls.for_grpc()).build()? } else { builder.build()? }
            }
            WireProtocol::HttpProtobuf => {
                let builder = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
                builder.with_http_client(self.tls.http_client()?).build()?
            }
        })
    }
}

fn unsupported<T>(variable: &'static str, value: &str, instead: &'static str) -> Result<T, TracingError> {
    Err(TracingError::Unsupported { variable, value: value.chars().take(64).collect(), instead })
}

impl Tls {
    fn for_grpc(&self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new().with_enabled_roots();
        if let Some(certificate) = &self.certificate {
            config = config.ca_certificate(Certificate::from_pem(certificate));
        }
        if let Some((certificate, key)) = &self.client {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        config
    }

    /// The exporter's thread has no runtime, so this is a blocking client, which must not be made within one either.
    fn http_client(&self) -> Result<reqwest::blocking::Client, TracingError> {
        let failed = |error: reqwest::Error| TracingError::Client(super::log::chain(&error));
        let mut builder = reqwest::blocking::Client::builder();
        if let Some(pem) = &self.certificate {
            for certificate in reqwest::Certificate::from_pem_bundle(pem).map_err(failed)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        if let Some((certificate, key)) = &self.client {
            let pem = [&certificate[..], &key[..]].concat();
            builder = builder.identity(reqwest::Identity::from_pem(&pem).map_err(failed)?);
        }
        // Another part of the program may have chosen it already, which is as well.
        rustls::crypto::ring::default_provider().install_default().ok();
        std::thread::spawn(move || builder.build().map_err(failed))
            .join()
            .unwrap_or_else(|_| Err(TracingError::Client("its thread panicked".to_owned())))
    }
}

/// Who sends the spans.
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
    // What the user says goes last, and so before what is said here.
    let mut builder = Resource::builder_empty().with_attributes(attributes);
    if !named {
        builder = builder.with_service_name(SERVICE);
    }
    let theirs = from_env.iter().filter(|(key, _)| named || key.as_str() != "service.name");
    builder.with_attributes(theirs.map(|(key, value)| KeyValue::new(key.clone(), value.clone()))).build()
}

/// Says once that the collector cannot be reached, and once that it can be again.
#[derive(Debug)]
struct Watched {
    inner: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.inner.export(batch).await;
        match &result {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("spans can be sent again");
                }
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    warn!("spans cannot be sent and are dropped until they can be; deliveries go on: {error}");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: std::time::Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests;
