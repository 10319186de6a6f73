//! Clients that send half of a request, or do not read.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use futures::{StreamExt as _, future::join_all, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use test_support::generic::{Event, EventSource, eventing_client::EventingClient};
use tonic::{
    Status, Streaming,
    body::Body,
    transport::{Channel, Endpoint, Error},
};
use tower::{Service as _, ServiceExt as _};

/// A connection for requests that stop one byte before their end.
pub(crate) struct Unfinished(Channel);

impl Unfinished {
    pub(crate) async fn connect(server: SocketAddr) -> Result<Self, Error> {
        Endpoint::from_shared(format!("http://{server}"))?.connect().await.map(Self)
    }

    /// Sends several requests with a message of this size, and waits until the server ends them.
    pub(crate) async fn send(&self, bytes: u32, requests: usize) {
        let send = async |_| {
            let mut prefix = vec![0];
            prefix.extend(bytes.to_be_bytes());
            let pieces = (0..bytes - 1).step_by(16 * 1024);
            let pieces = pieces.map(move |sent| Bytes::from(vec![b' '; (bytes - 1 - sent).min(16 * 1024) as usize]));
            let pieces = stream::iter(std::iter::once(Bytes::from(prefix)).chain(pieces));
            let frames = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece))).chain(stream::pending());
            let request = http::Request::post("/generic.Eventing/StartEventSource")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Body::new(StreamBody::new(frames)))
                .expect("a request");
            let mut channel = self.0.clone();
            if let Ok(channel) = channel.ready().await {
                drop(channel.call(request).await);
            }
        };
        join_all((0..requests).map(send)).await;
    }
}

/// Opens a stream with this flow-control window, which the caller does not read.
pub(crate) async fn unread_stream(
    server: SocketAddr,
    subscription: &str,
    namespace: &str,
    window: u32,
) -> Streaming<Event> {
    open_unread(server, subscription, namespace, window).await.expect("a stream")
}

/// As [`unread_stream`], if the server admits it.
pub(crate) async fn open_unread(
    server: SocketAddr,
    subscription: &str,
    namespace: &str,
    window: u32,
) -> Result<Streaming<Event>, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{server}")).expect("a URL");
    let channel = endpoint.initial_stream_window_size(window).connect().await;
    open_stream(channel.map_err(|error| Status::from_error(error.into()))?, subscription, namespace).await
}

/// Opens a stream on this connection.
pub(crate) async fn open_stream(
    channel: Channel,
    subscription: &str,
    namespace: &str,
) -> Result<Streaming<Event>, Status> {
    let config = format!("kfpNamespace: {namespace}").into_bytes();
    let request = EventSource { name: subscription.to_owned(), config };
    Ok(EventingClient::new(channel).start_event_source(request).await?.into_inner())
}
