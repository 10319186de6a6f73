//! The course of a person's stream over connections.

use std::{
    path::PathBuf,
    pin::Pin,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _};
use tokio::time::sleep;

use super::{EVENT_SOURCE, Seen, StreamConfig};
use crate::{
    backoff::Backoff,
    eventsource::{Credentials, ReceivedEvent, SubscribeError, Subscriber},
    k8s::Cluster,
    tools::endpoints::{self, Endpoint, EndpointError, ServerPort},
};

/// Pauses between connections. A restart of the server takes a few seconds.
const RETRY: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(10) };

type Events = Pin<Box<dyn Stream<Item = Result<ReceivedEvent, SubscribeError>> + Send>>;

/// The server, and the credentials for it.
#[derive(Debug, Default)]
pub struct Destination {
    /// The address that the user has given.
    pub server: Option<String>,
    /// The cluster in which the server is found without an address.
    pub cluster: Option<Cluster>,
    /// The namespaces in which the user says that it is.
    pub server_namespaces: Vec<String>,
    /// The file with a token. It is read for each connection, as kubelets renew it.
    pub token_file: Option<PathBuf>,
    /// The certificates of the authorities of a server with TLS, in PEM.
    pub ca: Option<Vec<u8>>,
}

/// The reason why a stream does not begin, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The server has no address.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The token cannot be read.
    #[error("cannot read the token file {}: {error}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// The problem.
        error: std::io::Error,
    },
    /// The server refuses the stream, or is not there.
    #[error("{server}: {error}")]
    Subscribe {
        /// Its address.
        server: String,
        /// Its words.
        error: SubscribeError,
    },
    /// The server has ended the stream without a reason.
    #[error("{server}: the server has ended the stream")]
    Ended {
        /// Its address.
        server: String,
    },
}

/// An incident of a stream.
#[derive(Debug)]
pub enum Happening {
    /// The server has accepted it.
    Connected {
        /// The address, for messages.
        server: String,
    },
    /// An event that was not shown before.
    Event {
        /// The payload.
        payload: String,
    },
    /// The connection was lost, or there is none yet. The next one follows after a pause.
    Lost {
        /// The problem.
        error: SessionError,
        /// The pause.
        pause: Duration,
    },
}

/// A stream that connects again.
pub struct Session {
    destination: Destination,
    config: StreamConfig,
    /// The first connection may fail, too.
    is_patient: bool,
    stream: Option<(Endpoint, Events)>,
    first_connected: Option<Instant>,
    failures: u32,
    pause: Option<Duration>,
    seen: Seen,
}

impl Session {
    /// A session that is not connected yet.
    pub fn new(destination: Destination, config: StreamConfig, is_patient: bool) -> Self {
        Self {
            destination,
            config,
            is_patient,
            stream: None,
            first_connected: None,
            failures: 0,
            pause: None,
            seen: Seen::default(),
        }
    }

    /// Waits for the next happening.
    ///
    /// # Errors
    /// The server refuses the stream for a reason that does not pass, or the first connection fails.
    pub async fn next(&mut self) -> Result<Happening, SessionError> {
        loop {
            let Some((endpoint, events)) = &mut self.stream else {
                if let Some(pause) = self.pause {
                    sleep(pause).await;
                    self.pause = None;
                }
                return match self.connect().await {
                    Ok(server) => Ok(Happening::Connected { server }),
                    Err(error) => self.lost(error),
                };
            };
            let server = endpoint.describe();
            match events.next().await {
                Some(Ok(event)) => {
                    self.failures = 0;
                    let payload = String::from_utf8_lossy(&event.payload);
                    let (shown, id) = self.config.read_event(&payload);
                    if id.is_none_or(|id| self.seen.is_new(id)) {
                        return Ok(Happening::Event { payload: shown });
                    }
                }
                Some(Err(error)) => return self.lost(SessionError::Subscribe { server, error }),
                None => return self.lost(SessionError::Ended { server }),
            }
        }
    }

    async fn connect(&mut self) -> Result<String, SessionError> {
        let Destination { server, cluster, server_namespaces, token_file, ca } = &self.destination;
        let endpoint = match (server, cluster) {
            (Some(server), _) => Endpoint::at(server.clone()),
            (None, Some(cluster)) => endpoints::server(cluster, ServerPort::Grpc, server_namespaces).await?,
            (None, None) => Endpoint::at("127.0.0.1:50051"),
        };
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| SessionError::Token { path: path.clone(), error })
        };
        let credentials = Credentials { token: token_file.as_ref().map(read).transpose()?, ca: ca.clone() };
        let describe = endpoint.describe();
        let failed = |error| SessionError::Subscribe { server: describe.clone(), error };
        let mut subscriber = Subscriber::connect_with(endpoint.url.clone(), &credentials).await.map_err(failed)?;
        let config = self.config.text(self.first_connected.map(|first| first.elapsed()));
        let events = subscriber.subscribe(EVENT_SOURCE, &config).await.map_err(failed)?;
        if self.first_connected.is_some() {
            self.seen.reconnected();
        }
        self.first_connected.get_or_insert_with(Instant::now);
        self.stream = Some((endpoint, Box::pin(events)));
        Ok(describe)
    }

    /// Decides whether another connection follows.
    fn lost(&mut self, error: SessionError) -> Result<Happening, SessionError> {
        self.stream = None;
        let may_pass = match &error {
            SessionError::Token { .. } => false,
            SessionError::Endpoint(_) | SessionError::Ended { .. } => self.is_patient || self.first_connected.is_some(),
            SessionError::Subscribe { error: SubscribeError::Connect(_), .. } => {
                self.is_patient || self.first_connected.is_some()
            }
            SessionError::Subscribe { error, .. } => error.is_transient(),
        };
        if !may_pass {
            return Err(error);
        }
        self.failures = self.failures.saturating_add(1);
        let pause = RETRY.pause(self.failures, &mut rand::rng());
        self.pause = Some(pause);
        Ok(Happening::Lost { error, pause })
    }
}
