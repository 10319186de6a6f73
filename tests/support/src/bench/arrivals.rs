//! The times at which runs are seen.

use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use model_update_eventsource::eventsource::Subscriber;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::{RunningServer, model_location};

/// The folder of the models of the runs.
const FOLDER: &str = "gs://root/";

/// The name of a run, and the time at which it was seen.
pub type Arrival = (String, Instant);

/// Returns the location of the model of a run, from which [`subscribe`] concludes the run.
pub fn location_of(run: &str) -> String {
    format!("{FOLDER}{run}")
}

/// Subscribes. Returns the task that forwards the runs of the events.
///
/// # Errors
/// The server cannot be reached, or refuses the subscription.
pub async fn subscribe(
    server: &RunningServer,
    subscription: &str,
    config: &str,
    arrivals: mpsc::UnboundedSender<Arrival>,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
    let mut subscriber = Subscriber::connect(format!("http://{}", server.listen)).await?;
    let mut events = Box::pin(subscriber.subscribe(subscription, config).await?);
    Ok(async move {
        while let Some(event) = events.next().await.transpose()? {
            let arrived = Instant::now();
            let location = model_location(&String::from_utf8(event.payload)?);
            arrivals.send((location.trim_start_matches(FOLDER).to_owned(), arrived))?;
        }
        Ok(())
    })
}

/// Waits for the first arrival of a run. Those of other runs are skipped: a watch may begin with earlier ones.
///
/// # Errors
/// The run does not arrive within the limit.
pub async fn arrival_of(
    run: &str,
    arrivals: &mut mpsc::UnboundedReceiver<Arrival>,
    limit: Duration,
) -> anyhow::Result<Instant> {
    let find = async {
        loop {
            let (name, at) = arrivals.recv().await.context("the stream has ended")?;
            if name == run {
                return Ok(at);
            }
        }
    };
    timeout(limit, find).await.with_context(|| format!("{run} did not arrive"))?
}
