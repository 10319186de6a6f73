//! Calls to Kubeflow's API: each waits for its turn ([`super::limit`]) and carries the account's token
//! ([`super::token`]). Never the header `kubeflow-userid`, which only Kubeflow's own gateway may send.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prost::Message;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use super::{limit::Calls, token::Token};
use crate::lookup::{
    client::{self, Shared},
    error::{CallCode, CallError},
};

/// Full name of the service.
const SERVICE: &str = "kubeflow.pipelines.backend.api.v2beta1.RunService";
/// The methods.
pub(super) const LIST_TASKS: &str = "ListTasks";
pub(super) const GET_RUN: &str = "GetRun";
/// tonic's message for an answer without a gRPC status, such as a page of a proxy: its code is a guess.
const FROM_HTTP: &str = "mapped from HTTP status code";

/// Makes a channel that connects on use.
pub(super) type Connect = Arc<dyn Fn() -> Channel + Send + Sync>;

/// A client. Clones share its connection.
#[derive(Clone)]
pub(super) struct Client {
    connect: Connect,
    connection: Arc<Mutex<Connection>>,
    pub(super) calls: Calls,
    token: Option<Token>,
}

/// The present connection, counted from 0.
struct Connection {
    number: u64,
    client: client::Client,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    pub(super) fn new(
        endpoint: &Endpoint,
        connect: Connect,
        call_timeout: Duration,
        shared: Shared,
        calls: Calls,
        token: Option<Token>,
    ) -> Self {
        let client = client::Client::new(SERVICE, endpoint, connect(), call_timeout, shared);
        Self { connect, connection: Arc::new(Mutex::new(Connection { number: 0, client })), calls, token }
    }

    /// Returns the client of the present connection.
    pub(super) fn current(&self) -> client::Client {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    /// Makes a call for a run of this namespace, and passes the message of its answer to `read`.
    pub(super) async fn call<R, T>(
        &self,
        namespace: &Arc<str>,
        method: &'static str,
        request: R,
        read: impl FnOnce(&[u8]) -> Result<T, CallError>,
    ) -> Result<T, CallError>
    where
        R: Message + 'static,
    {
        self.in_turn(namespace, request, async |client, request| client.call(namespace, method, request, read).await)
            .await
    }

    /// Makes a call whose answer is passed to `read` piece by piece.
    pub(super) async fn call_streamed<R>(
        &self,
        namespace: &Arc<str>,
        method: &'static str,
        request: R,
        max: usize,
        read: impl FnMut(&[u8]) -> Result<(), CallError>,
    ) -> Result<(), CallError>
    where
        R: Message + 'static,
    {
        self.in_turn(namespace, request, async |client, request| client.call_streamed(method, request, max, read).await)
            .await
    }

    async fn in_turn<R, T>(
        &self,
        namespace: &Arc<str>,
        request: R,
        call: impl AsyncFnOnce(client::Client, tonic::Request<R>) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let mut number = 0;
        // Boxed, because a lookup has several calls, each of which may wait for its turn.
        let made = Box::pin(async {
            let mut request = tonic::Request::new(request);
            if let Some(token) = &self.token
                && let Some(header) = token.header().await
            {
                request.metadata_mut().insert("authorization", header);
            }
            let client = {
                let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
                number = connection.number;
                connection.client.clone()
            };
            call(client, request).await.map_err(certain)
        });
        let result = self.calls.in_turn(namespace, made).await;
        match result.as_ref().err().map(|error| error.code) {
            // Without PINGs, which this server answers with the end of the connection, nothing else notices that a
            // connection is dead.
            Some(CallCode::Timeout) => self.reconnect(number),
            Some(CallCode::Grpc(Code::Unauthenticated)) => {
                if let Some(token) = &self.token {
                    token.refused();
                }
            }
            _ => {}
        }
        result
    }

    /// Replaces the connection of this number, unless that was done before.
    fn reconnect(&self, number: u64) {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.number == number {
            let client = connection.client.over((self.connect)());
            *connection = Connection { number: number + 1, client };
        }
    }
}

/// UNIMPLEMENTED and NOT_FOUND have a meaning, so they count only if the server itself answered.
fn certain(error: CallError) -> CallError {
    match error.code {
        CallCode::Grpc(Code::Unimplemented | Code::NotFound) if error.message.contains(FROM_HTTP) => {
            CallError { code: CallCode::Grpc(Code::Unavailable), ..error }
        }
        _ => error,
    }
}
