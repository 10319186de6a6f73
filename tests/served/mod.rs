//! The real server, before real neighbours, and what its subscribers get.
#![allow(dead_code, reason = "every test binary compiles this module and uses a part of it")]
#![allow(unreachable_pub, reason = "the module is written as a library of the tests")]

use std::{net::SocketAddr, pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use model_update_eventsource::{
    app::{self, Config},
    eventsource::{ReceivedEvent, SubscribeError, Subscriber},
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long an event may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// A server of the test's own, in the test's process.
#[derive(Debug)]
pub struct Served {
    /// Where subscribers connect.
    pub address: SocketAddr,
    /// Where health, readiness and metrics are.
    pub admin: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Served {
    /// Starts one with this configuration, on free ports; returns when it is ready.
    pub async fn start(config: Config) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config { listen: any, admin_listen: any, ..config };
        let bound = app::build(config).await.expect("the server can be built");
        let (address, admin) = (bound.address(), bound.admin_address());
        let mut ready = bound.readiness().subscribe();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(bound.run(shutdown.clone()));
        timeout(SOON, ready.wait_for(|ready| *ready)).await.expect("ready in time").expect("the server runs");
        Self { address, admin, shutdown, running }
    }

    /// Subscribes as an EventSource named `model-update` with this configuration.
    pub async fn subscribe(&self, config: &str) -> Events {
        self.subscribe_as("model-update", config).await
    }

    /// Subscribes as an EventSource of this name.
    pub async fn subscribe_as(&self, name: &str, config: &str) -> Events {
        self.try_subscribe(name, config).await.expect("the subscription is taken")
    }

    /// Subscribes.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn try_subscribe(&self, name: &str, config: &str) -> Result<Events, SubscribeError> {
        let mut subscriber = Subscriber::connect(format!("http://{}", self.address)).await?;
        let events = subscriber.subscribe(name, config).await?;
        Ok(Events(Box::pin(events)))
    }

    /// Tells the server to stop, and waits until it has.
    ///
    /// # Panics
    /// If it does not, or not well.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        timeout(Duration::from_secs(11), &mut self.running)
            .await
            .expect("it stops within its time")
            .expect("it does not panic")
            .expect("it stops well");
    }

    /// What an admin page says.
    pub async fn admin_page(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut connection = tokio::net::TcpStream::connect(self.admin).await.expect("the admin port is open");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = String::new();
        timeout(SOON, connection.read_to_string(&mut answer)).await.expect("an answer in time").expect("an answer");
        answer
    }

    /// The sum of a metric over the label sets that contain all of `labels` (each written `name="value"`).
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.admin_page("/metrics").await;
        let values = page.lines().filter_map(|line| {
            let (series, value) = line.split_once(' ')?;
            let (family, set) = series.split_once('{').unwrap_or((series, ""));
            let fits = family == name && labels.iter().all(|label| set.contains(label));
            fits.then(|| value.split(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number"))
        });
        values.sum()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// What comes out of a subscription.
pub struct Events(Pin<Box<dyn Stream<Item = Result<ReceivedEvent, SubscribeError>> + Send>>);

impl Events {
    /// The next event's payload.
    ///
    /// # Panics
    /// If there is none in time.
    #[track_caller]
    pub fn next(&mut self) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let event = timeout(SOON, self.0.next()).await;
            let event = event.unwrap_or_else(|_| panic!("no event in time (at {caller})"));
            let event =
                event.expect("streams end with an error").unwrap_or_else(|error| panic!("{error} (at {caller})"));
            assert_eq!(event.name, "model-update");
            String::from_utf8(event.payload).expect("JSON is UTF-8")
        }
    }

    /// The locations of the next event's models.
    #[track_caller]
    pub fn next_locations(&mut self) -> impl Future<Output = Vec<String>> {
        let next = self.next();
        async move {
            let payload: serde_json::Value = serde_json::from_str(&next.await).expect("JSON");
            let models = payload["servingModelArtifacts"].as_array().expect("a list");
            models.iter().map(|model| model["location"].as_str().expect("text").to_owned()).collect()
        }
    }

    /// The error with which the stream ends.
    ///
    /// # Panics
    /// If an event comes first, or nothing in time.
    pub async fn end(&mut self) -> SubscribeError {
        let end = timeout(SOON, self.0.next()).await.expect("an end in time").expect("streams end with an error");
        end.expect_err("no further event")
    }
}
