//! `health`: checks a running server.

use std::{fs, io::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::{runtime::Runtime, time::timeout};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::values;

/// Checks the gRPC health of a running server
///
/// For `helm test`, or to check that an EventSource in the same place could connect. The exit status is 0 only if the
/// server is serving.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  model-update-eventsource health
  model-update-eventsource health --server kfp-operator-model-update-eventsource-server.kfp-operator-system:50051")]
pub(super) struct Health {
    /// Address of the server; https://HOST:PORT if it has TLS
    #[arg(long, env = "MODEL_UPDATE_SERVER", value_name = "HOST:PORT", value_parser = values::server,
        default_value = "127.0.0.1:50051")]
    server: String,

    /// File with the certificates of the authorities of a server with TLS, in PEM; without it, those of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// gRPC service to check; empty for the whole server
    #[arg(long, value_name = "NAME", default_value = "generic.Eventing")]
    service: String,

    /// Time limit for the connection and the answer together
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    timeout: humantime::Duration,
}

impl Health {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let limit = Duration::from(self.timeout);
        let checked = runtime.block_on(async { timeout(limit, self.check()).await });
        let status =
            checked.unwrap_or_else(|_elapsed| bail!("no answer from {} within {}", self.server, self.timeout))?;
        if status != ServingStatus::Serving {
            bail!("{} is not serving: {}; see its /readyz", self.server, status.as_str_name());
        }
        writeln!(std::io::stdout(), "{} is serving", self.server).context("cannot write to standard output")
    }

    async fn check(&self) -> anyhow::Result<ServingStatus> {
        let mut endpoint = Endpoint::from_shared(self.server.clone()).context("--server")?;
        if self.server.starts_with("https://") {
            let tls = match &self.ca {
                Some(path) => {
                    let pem = fs::read(path).with_context(|| format!("cannot read --ca {path:?}"))?;
                    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
                }
                None => ClientTlsConfig::new().with_native_roots(),
            };
            endpoint = endpoint.tls_config(tls).context("--ca")?;
        }
        let channel = endpoint.connect().await.with_context(|| format!("cannot connect to {}", self.server))?;
        let request = HealthCheckRequest { service: self.service.clone() };
        match HealthClient::new(channel).check(request).await {
            Ok(answer) => Ok(answer.into_inner().status()),
            Err(status) if status.code() == Code::NotFound => {
                bail!("{} has no service {:?}; see --service", self.server, self.service)
            }
            Err(status) => bail!("{} answered {}: {}", self.server, status.code(), status.message()),
        }
    }
}
