//! The server in the test's process, and the events that its subscribers receive.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use model_update_eventsource::{
    app::{self, Config},
    eventsource::{ReceivedEvent, SubscribeError, Subscriber},
    sim::Sim,
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{CATCH_UP, SHUTDOWN, metrics, plain_http};

/// A running server on free ports.
#[derive(Debug)]
pub struct TestServer {
    /// Address for subscribers.
    pub address: SocketAddr,
    admin: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl TestServer {
    /// Starts a server with this configuration and waits until it is ready.
    pub async fn start(config: Config) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config { listen: any, admin_listen: any, ..config };
        let bound = app::build(config).await.expect("the server can be built");
        let (address, admin) = (bound.address(), bound.admin_address());
        let mut ready = bound.readiness().subscribe();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(bound.run(shutdown.clone()));
        timeout(CATCH_UP, ready.wait_for(|ready| *ready)).await.expect("ready in time").expect("the server runs");
        Self { address, admin, shutdown, running }
    }

    /// Starts a simulation, and a server on it that confirms events after 100 ms.
    pub async fn start_with_sim() -> (Sim, Self) {
        let sim = Sim::start().await.expect("a simulation");
        let config = Config {
            metadata_store: sim.metadata_url(),
            kubernetes: Some(sim.kube_config()),
            confirm_after: Duration::from_millis(100),
            ..Config::default()
        };
        let server = Self::start(config).await;
        (sim, server)
    }

    /// Returns the address of health, metrics and the status page.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Subscribes as an EventSource named `model-update` with this configuration.
    pub async fn subscribe(&self, config: &str) -> Events {
        self.subscribe_as("model-update", config).await
    }

    /// Subscribes as an EventSource of this name.
    pub async fn subscribe_as(&self, name: &str, config: &str) -> Events {
        self.try_subscribe(name, config).await.expect("the subscription is accepted")
    }

    /// Subscribes as an EventSource of this name.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn try_subscribe(&self, name: &str, config: &str) -> Result<Events, SubscribeError> {
        let mut subscriber = Subscriber::connect(format!("http://{}", self.address)).await?;
        let events = subscriber.subscribe(name, config).await?;
        Ok(Events(Box::pin(events)))
    }

    /// Shuts the server down and waits for its end.
    ///
    /// # Panics
    /// If it does not end in time, or ends with an error.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        timeout(SHUTDOWN + Duration::from_secs(1), &mut self.running)
            .await
            .expect("it stops in time")
            .expect("it does not panic")
            .expect("it stops without an error");
    }

    /// Returns the metrics page.
    pub async fn metrics(&self) -> String {
        timeout(CATCH_UP, plain_http::get(&format!("http://{}/metrics", self.admin)))
            .await
            .expect("in time")
            .expect("metrics")
    }

    /// Returns the sum of a metric over the label sets that contain all of `labels`, each written `name="value"`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metrics::sum(&self.metrics().await, name, labels)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// The events of a subscription.
pub struct Events(Pin<Box<dyn Stream<Item = Result<ReceivedEvent, SubscribeError>> + Send>>);

impl Events {
    /// Returns the payload of the next event.
    ///
    /// # Panics
    /// If there is none in time.
    #[track_caller]
    pub fn next_payload(&mut self) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let event = timeout(CATCH_UP, self.0.next()).await;
            let event = event.unwrap_or_else(|_| panic!("no event in time (at {caller})"));
            let event =
                event.expect("streams end with an error").unwrap_or_else(|error| panic!("{error} (at {caller})"));
            assert_eq!(event.name, "model-update");
            String::from_utf8(event.payload).expect("JSON is UTF-8")
        }
    }

    /// Returns the payload of the next event as JSON.
    ///
    /// # Panics
    /// As [`Events::next_payload`].
    #[track_caller]
    pub fn next_event(&mut self) -> impl Future<Output = serde_json::Value> {
        let next = self.next_payload();
        async move { serde_json::from_str(&next.await).expect("JSON") }
    }

    /// Returns the locations of the next event's models.
    ///
    /// # Panics
    /// As [`Events::next_payload`].
    #[track_caller]
    pub fn next_locations(&mut self) -> impl Future<Output = Vec<String>> {
        let next = self.next_event();
        async move {
            let event = next.await;
            let models = event["servingModelArtifacts"].as_array().expect("a list");
            models.iter().map(|model| model["location"].as_str().expect("text").to_owned()).collect()
        }
    }

    /// Returns the error with which the stream ends.
    ///
    /// # Panics
    /// If there is an event first, or no end in time.
    pub async fn end(&mut self) -> SubscribeError {
        let end = timeout(CATCH_UP, self.0.next()).await.expect("an end in time").expect("streams end with an error");
        end.expect_err("no further event")
    }
}
