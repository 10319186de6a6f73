//! A subscriber like Argo Events' generic EventSource, for the demo and for tests.

use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::time::timeout;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::proto::{EventSource, eventing_client::EventingClient};
use crate::telemetry::grpc;

/// The time limit for the connection, and for the response to a subscription.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A received event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedEvent {
    /// `model-update`.
    pub name: String,
    /// JSON.
    pub payload: Vec<u8>,
}

/// The reason why a subscription failed or ended.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The connection failed.
    #[error("no connection: {0}")]
    Connect(#[from] tonic::transport::Error),
    /// The peer did not respond. It may not be a gRPC server.
    #[error("connected, but the subscription was not answered within {} s", TIMEOUT.as_secs())]
    Silent,
    /// The server refused the subscription, or ended the stream.
    #[error("{}: {}", grpc::names(.0.code()).go, .0.message())]
    Status(#[from] Box<Status>),
}

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Subscriber(EventingClient<Channel>);

impl Subscriber {
    /// Connects to a server: `HOST:PORT`, or a URL such as `http://127.0.0.1:50051`.
    ///
    /// # Errors
    /// The address is invalid, or the connection is not established within ten seconds.
    pub async fn connect(server: String) -> Result<Self, SubscribeError> {
        // Argo Events writes addresses without a scheme.
        let url = if server.contains("://") { server } else { format!("http://{server}") };
        let channel = Endpoint::from_shared(url)?.connect_timeout(TIMEOUT).connect().await?;
        Ok(Self(EventingClient::new(channel)))
    }

    /// Subscribes like an EventSource of this name with this configuration. The stream ends with an error, or never.
    ///
    /// # Errors
    /// The server refuses the subscription, or does not respond within ten seconds. Events have no time limit.
    pub async fn subscribe(
        &mut self,
        name: &str,
        config: &str,
    ) -> Result<impl Stream<Item = Result<ReceivedEvent, SubscribeError>> + Unpin + use<>, SubscribeError> {
        let request = EventSource { name: name.to_owned(), config: config.as_bytes().to_vec() };
        let answer = timeout(TIMEOUT, self.0.start_event_source(request)).await;
        let events = answer.map_err(|_elapsed| SubscribeError::Silent)?.map_err(Box::new)?.into_inner();
        Ok(events.map(|event| match event {
            Ok(event) => Ok(ReceivedEvent { name: event.name, payload: event.payload }),
            Err(status) => Err(Box::new(status).into()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_scheme() {
        for host in ["127.0.0.1", "localhost"] {
            let listener = tokio::net::TcpListener::bind((host, 0)).await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            for server in [format!("{host}:{port}"), format!("http://{host}:{port}")] {
                Subscriber::connect(server).await.expect("the kernel accepts");
            }
        }
        let invalid = Subscriber::connect("not an address".to_owned()).await.err();
        assert!(matches!(invalid, Some(SubscribeError::Connect(_))), "{invalid:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscription_without_a_response_fails_after_a_time_limit() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let mut subscriber = Subscriber::connect(url).await.expect("the kernel accepts");
        let refused = subscriber.subscribe("name", "kfpNamespace: x").await.err();
        assert!(matches!(refused, Some(SubscribeError::Silent)), "{refused:?}");
    }
}
