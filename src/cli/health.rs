//! `health`: asks a running server whether it serves.

use std::{io::Write as _, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::{runtime::Runtime, time::timeout};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::values;

/// Asks a server's gRPC health whether it serves
///
/// For `helm test`, and for looking from where an EventSource would dial. The exit status is 0 only if it serves.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  model-update-eventsource health
  model-update-eventsource health --server http://kfp-operator-model-update-eventsource-server.kfp-operator-system:50051")]
pub(super) struct Health {
    /// Where the server is
    #[arg(long, env = "MODEL_UPDATE_SERVER", value_name = "URL", value_parser = values::server,
        default_value = "http://127.0.0.1:50051")]
    server: String,

    /// Of which service; the empty one is the server as a whole
    #[arg(long, value_name = "NAME", default_value = "generic.Eventing")]
    service: String,

    /// How long connection and answer may take together
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    timeout: humantime::Duration,
}

impl Health {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let limit = Duration::from(self.timeout);
        let asked = runtime.block_on(async { timeout(limit, self.ask()).await });
        let status =
            asked.unwrap_or_else(|_elapsed| bail!("{} gave no answer within {}", self.server, self.timeout))?;
        if status != ServingStatus::Serving {
            bail!("{} is there and does not serve: {}. Its /readyz says why", self.server, status.as_str_name());
        }
        writeln!(std::io::stdout(), "{} serves", self.server).context("cannot write to standard output")
    }

    async fn ask(&self) -> anyhow::Result<ServingStatus> {
        let endpoint = Endpoint::from_shared(self.server.clone()).context("--server")?;
        let channel = endpoint.connect().await.with_context(|| format!("{} cannot be reached", self.server))?;
        let request = HealthCheckRequest { service: self.service.clone() };
        match HealthClient::new(channel).check(request).await {
            Ok(answer) => Ok(answer.into_inner().status()),
            Err(status) if status.code() == Code::NotFound => {
                bail!("{} knows no service {:?}: see --service", self.server, self.service)
            }
            Err(status) => bail!("{} answers {}: {}", self.server, status.code(), status.message()),
        }
    }
}
