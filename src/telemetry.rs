//! Logs and metrics. A leaf that every module may use.

pub mod metrics;

pub use metrics::Metrics;
