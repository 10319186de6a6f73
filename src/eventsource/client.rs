//! A subscriber like Argo Events' generic EventSource, for the demo and for tests.

mod scheme;

use std::{error::Error as _, time::Duration};

use futures::{Stream, StreamExt};
use tokio::time::timeout;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri},
};

use super::proto::{Event, EventSource, eventing_client::EventingClient};
use crate::telemetry::{grpc, log::chain};

/// The time limit for the connection, and for the response to a subscription.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The silence of the connection after which a PING is sent, and the time for its acknowledgement. Without it, a client does
/// not notice that a server is gone that has not closed the connection.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

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
    #[error("no connection: {}", chain(.0))]
    Connect(#[from] tonic::transport::Error),
    /// The connection has no TLS, but the server requires it.
    #[error("the server uses TLS; write its address as https://HOST:PORT")]
    WithTls,
    /// The connection has TLS, but the server does not.
    #[error("the server does not use TLS; write its address as http://HOST:PORT")]
    WithoutTls,
    /// The peer did not respond. It may not be a gRPC server.
    #[error("connected, but the subscription was not answered within {} s", TIMEOUT.as_secs())]
    Silent,
    /// The token contains characters that a header cannot have.
    #[error("the token is not one of Kubernetes: it contains spaces or other characters that a header cannot have")]
    Token,
    /// The server refused the subscription, or ended the stream.
    #[error("{}: {}", grpc::names(.0.code()).go, .0.message())]
    Status(#[from] Box<Status>),
}

impl SubscribeError {
    /// Returns whether the server has not responded. Only errors on this side have a source.
    fn is_unanswered(&self) -> bool {
        match self {
            Self::Silent => true,
            Self::Status(status) => status.source().is_some(),
            _ => false,
        }
    }

    /// Returns whether the same subscription may succeed later: the server is restarting, overloaded, or not there.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Silent => true,
            Self::Token | Self::WithTls | Self::WithoutTls => false,
            Self::Status(status) => matches!(
                status.code(),
                Code::Unavailable
                    | Code::Unknown
                    | Code::Internal
                    | Code::Cancelled
                    | Code::Aborted
                    | Code::DeadlineExceeded
                    | Code::ResourceExhausted
            ),
        }
    }
}

/// The credentials of a connection.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// A bearer token.
    pub token: Option<String>,
    /// The certificates of the authorities of a server with TLS, in PEM. `None`: those of the system.
    pub ca: Option<Vec<u8>>,
}

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Subscriber {
    client: EventingClient<Channel>,
    token: Option<MetadataValue<Ascii>>,
    /// The URL of a connection without TLS.
    plaintext: Option<Uri>,
}

impl Subscriber {
    /// Connects to a server: `HOST:PORT`, or a URL such as `http://127.0.0.1:50051`.
    ///
    /// # Errors
    /// The address is invalid, or the connection is not established within ten seconds.
    pub async fn connect(server: String) -> Result<Self, SubscribeError> {
        Self::connect_with(server, &Credentials::default()).await
    }

    /// Connects to a server that requires a token, or with TLS: `https://HOST:PORT`.
    ///
    /// # Errors
    /// As [`Subscriber::connect`], and if the credentials are not usable.
    pub async fn connect_with(server: String, credentials: &Credentials) -> Result<Self, SubscribeError> {
        // Argo Events writes addresses without a scheme.
        let url = if server.contains("://") { server } else { format!("http://{server}") };
        let has_tls = url.starts_with("https://");
        let mut endpoint = Endpoint::from_shared(url)?
            .connect_timeout(TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        if has_tls {
            endpoint = endpoint.tls_config(match &credentials.ca {
                Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
                None => ClientTlsConfig::new().with_native_roots(),
            })?;
        }
        let token = credentials.token.as_ref().map(|token| format!("Bearer {}", token.trim()).parse());
        let token = token.transpose().map_err(|_invalid| SubscribeError::Token)?;
        let plaintext = (!has_tls).then(|| endpoint.uri().clone());
        let channel = endpoint.connect().await.map_err(|error| match scheme::is_plaintext(&error) {
            true => SubscribeError::WithoutTls,
            false => error.into(),
        })?;
        Ok(Self { client: EventingClient::new(channel), token, plaintext })
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
        let source = EventSource { name: name.to_owned(), config: config.as_bytes().to_vec() };
        let mut request = Request::new(source);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        let error = match timeout(TIMEOUT, self.client.start_event_source(request)).await {
            Ok(Ok(events)) => return Ok(received(events.into_inner())),
            Ok(Err(status)) => SubscribeError::from(Box::new(status)),
            Err(_elapsed) => SubscribeError::Silent,
        };
        match &self.plaintext {
            Some(url) if error.is_unanswered() && scheme::has_tls(url).await => Err(SubscribeError::WithTls),
            _ => Err(error),
        }
    }
}

fn received(events: Streaming<Event>) -> impl Stream<Item = Result<ReceivedEvent, SubscribeError>> + Unpin + use<> {
    events.map(|event| match event {
        Ok(event) => Ok(ReceivedEvent { name: event.name, payload: event.payload }),
        Err(status) => Err(Box::new(status).into()),
    })
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
