//! Logs, metrics and traces. A leaf that every module may use.

pub mod grpc;
pub mod log;
pub mod metrics;
mod otlp;
pub mod process;
mod sampler;
mod throttle;
pub mod trace;

pub use metrics::Metrics;
pub use otlp::TracingError;
pub use throttle::LogThrottle;
pub use trace::Traces;

use prometheus_client::{metrics::info::Info, registry::Registry};

/// The version of the product.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The git revision that it was built from, or `unknown`.
pub const REVISION: &str = env!("GIT_REVISION");
/// The prefix of the product's metrics; those of the process have none.
pub const PREFIX: &str = "modelupdate";

/// Makes a registry that holds everything which `/metrics` shows.
pub fn registry() -> (Registry, Metrics) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(process::Process));
    let product = registry.sub_registry_with_prefix(PREFIX);
    product.register("build", "What runs here", Info::new([("version", VERSION), ("revision", REVISION)]));
    let metrics = Metrics::new(product);
    (registry, metrics)
}
