//! Logs, metrics and traces. A leaf that every module may use.

pub mod grpc;
mod labels;
mod limits;
pub mod log;
mod otlp;
mod process;
mod sampler;
mod throttle;
pub mod trace;

pub(crate) use labels::label_values;
pub use limits::{Limit, LimitHits};
pub use otlp::TracingError;
pub use throttle::LogThrottle;
pub use trace::Traces;

use prometheus_client::{metrics::info::Info, registry::Registry};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The git revision of this build, or `unknown`.
pub const REVISION: &str = env!("GIT_REVISION");
/// Namespaces with series of their own in a metric: clients may name any number of namespaces, which need not exist.
pub(crate) const MAX_NAMESPACES: usize = 1000;
/// The value of the label `namespace` for the rest.
pub(crate) const OTHER_NAMESPACES: &str = "(other)";
/// The prefix of the product's metrics. Metrics of the process have none.
const PREFIX: &str = "modelupdate";

/// Returns a registry with the metrics of the process and of the build.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(process::Process));
    let build = Info::new([("version", VERSION), ("revision", REVISION)]);
    product(&mut registry).register("build", "Version and git revision of this build", build);
    registry
}

/// Returns the part of the registry that holds the product's own metrics, all with its prefix.
pub fn product(registry: &mut Registry) -> &mut Registry {
    registry.sub_registry_with_prefix(PREFIX)
}
