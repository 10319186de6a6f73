//! Subscribers with a bearer token.

use std::net::{IpAddr, SocketAddr};

use test_support::{
    SOON,
    generic::{Event, EventSource, eventing_client::EventingClient},
};
use tokio::time::timeout;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// A stream of events.
pub(crate) type Events = Streaming<Event>;

/// Subscribes on a connection of its own.
pub(crate) async fn subscribe(server: SocketAddr, token: Option<&str>, config: &str) -> Result<Events, Status> {
    subscribe_on(connect(server, None).await, token, config).await
}

/// Connects, from this address of the machine.
pub(crate) async fn connect(server: SocketAddr, from: Option<IpAddr>) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap().local_address(from);
    timeout(SOON, endpoint.connect()).await.expect("in time").expect("the server listens")
}

/// Subscribes on a connection.
pub(crate) async fn subscribe_on(channel: Channel, token: Option<&str>, config: &str) -> Result<Events, Status> {
    let message = EventSource { name: "model-update".to_owned(), config: config.as_bytes().to_vec() };
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let response = timeout(SOON, EventingClient::new(channel).start_event_source(request)).await;
    response.expect("a response in time").map(tonic::Response::into_inner)
}

/// Returns the payload of the next event.
pub(crate) async fn next(events: &mut Events) -> String {
    let event = timeout(SOON, events.message()).await.expect("in time").expect("no error").expect("an event");
    String::from_utf8(event.payload).unwrap()
}

/// Waits for the end of a stream without events.
pub(crate) async fn end(events: &mut Events) -> Status {
    timeout(SOON, events.message()).await.expect("in time").expect_err("the stream ends with a status")
}

/// Returns `Ok` for an accepted stream, else the code of its refusal.
pub(crate) fn code<T>(outcome: &Result<T, Status>) -> Code {
    outcome.as_ref().map_or_else(Status::code, |_| Code::Ok)
}
