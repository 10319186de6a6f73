//! The exporter around the SDK's own: with a runtime, with a deadline, and with a log.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::SpanData,
};
use tokio::{runtime::Handle, select, time::timeout};
use tokio_util::{context::TokioContext, sync::CancellationToken};
use tracing::{info, warn};

/// Exports within a deadline, and logs the first failure and the recovery.
///
/// The SDK's batch processor exports from a thread of its own, without a runtime, where an asynchronous HTTP client
/// [panics](https://github.com/open-telemetry/opentelemetry-rust/issues/3125) and a gRPC client has no timers. So the
/// export is polled within the context of the program's runtime.
#[derive(Debug)]
pub(super) struct LoggingExporter {
    inner: SpanExporter,
    runtime: Handle,
    /// The time for one export, its retries included.
    timeout: Duration,
    /// Ends the export in progress and every later one.
    stop: CancellationToken,
    failing: AtomicBool,
}

impl LoggingExporter {
    /// Wraps an exporter. Its connections and timers run on the current runtime.
    pub(super) fn new(inner: SpanExporter, timeout: Duration, stop: CancellationToken) -> Self {
        Self { inner, runtime: Handle::current(), timeout, stop, failing: AtomicBool::new(false) }
    }
}

impl opentelemetry_sdk::trace::SpanExporter for LoggingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let export = async {
            select! {
                // In this order: after the stop the runtime may be shutting down, and its timers must not be polled.
                biased;
                () = self.stop.cancelled() => None,
                result = timeout(self.timeout, self.inner.export(batch)) => Some(result),
            }
        };
        let result = match TokioContext::new(export, self.runtime.clone()).await {
            None => return Err(OTelSdkError::AlreadyShutdown),
            Some(result) => result.unwrap_or(Err(OTelSdkError::Timeout(self.timeout))),
        };
        match &result {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("spans can be sent again");
                }
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    warn!(%error, "spans cannot be sent, dropping them until they can; events are not affected");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
