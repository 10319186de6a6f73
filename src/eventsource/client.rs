//! The other end: a client like Argo Events' generic EventSource, for the demo and for looking in.

use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::time::timeout;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::proto::{EventSource, eventing_client::EventingClient};

/// For the connection, and for the first answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An event as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedEvent {
    /// `model-update`.
    pub name: String,
    /// The JSON text.
    pub payload: Vec<u8>,
}

/// Why there are no (more) events.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// There is no server there.
    #[error("no connection: {0}")]
    Connect(#[from] tonic::transport::Error),
    /// Whoever listens there does not answer; it may be no gRPC server.
    #[error("connected, but there was no answer to the subscription within {} s", TIMEOUT.as_secs())]
    Silent,
    /// The server refused, or ended the stream.
    #[error("{}: {}", super::stream::code_name(.0.code()), .0.message())]
    Status(#[from] Box<Status>),
}

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Subscriber(EventingClient<Channel>);

impl Subscriber {
    /// Connects to a server, for example `http://127.0.0.1:50051`.
    ///
    /// # Errors
    /// Where that is no URL, or nobody answers within ten seconds.
    pub async fn connect(url: String) -> Result<Self, SubscribeError> {
        let channel = Endpoint::from_shared(url)?.connect_timeout(TIMEOUT).connect().await?;
        Ok(Self(EventingClient::new(channel)))
    }

    /// Subscribes, like an EventSource of this name with this configuration. The stream ends with an error, or never.
    ///
    /// # Errors
    /// Where the server refuses, or says nothing for ten seconds: it accepts or refuses at once, and has all the time it
    /// wants for the events.
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

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_never_answers_is_given_up_after_a_while() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let mut subscriber = Subscriber::connect(url).await.expect("its kernel accepts");
        let refused = subscriber.subscribe("name", "kfpNamespace: x").await.err();
        assert!(matches!(refused, Some(SubscribeError::Silent)), "{refused:?}");
    }
}
