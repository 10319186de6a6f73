//! Accepts connections: within the limits, and with TLS if it is on. Handshakes take place beside the loop that
//! accepts.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::{Stream, stream};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tracing::{debug, warn};

use super::{
    admission::{Admission, ConnectionGuard},
    link::Link,
    metrics::StreamMetrics,
    server::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT},
    socket::Socket,
    tls::Tls,
};
use crate::{net::Acceptor, telemetry::LogThrottle};

/// The interval of TCP keepalive probes after the first.
const TCP_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// The time limit for a peer that accepts no bytes. As long as keepalive takes to notice a peer that sends none.
const WRITE_TIMEOUT: Duration = KEEPALIVE_INTERVAL.saturating_add(KEEPALIVE_TIMEOUT);
/// The peers of which the last logged failure of a handshake is remembered.
const REMEMBERED: usize = 1024;

/// A connection without or with TLS. The state of TLS is large, and not a part of connections without it.
type Transport = Either<TcpStream, Box<TlsStream<TcpStream>>>;
/// A connection that is ready for HTTP/2. Boxed, because tonic's task for a connection has two places for it.
pub(super) type Connection = Box<Link<Socket<Transport>>>;

/// See the module.
pub(super) struct Incoming {
    acceptor: Acceptor,
    admission: Admission,
    metrics: StreamMetrics,
    tls: Option<Tls>,
    handshakes: JoinSet<(SocketAddr, ConnectionGuard, io::Result<TlsStream<TcpStream>>)>,
    failures: LogThrottle<IpAddr>,
}

impl Incoming {
    pub(super) fn new(listener: TcpListener, admission: Admission, tls: Option<Tls>, metrics: StreamMetrics) -> Self {
        let (acceptor, failures) = (Acceptor::new(listener), LogThrottle::new(REMEMBERED));
        Self { acceptor, admission, metrics, tls, handshakes: JoinSet::new(), failures }
    }

    /// The connections. Never ends and never fails.
    pub(super) fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> + Send + 'static {
        stream::unfold(self, |mut incoming| async move { Some((Ok(incoming.next().await), incoming)) })
    }

    async fn next(&mut self) -> Connection {
        loop {
            let on_error = |error: &io::Error| {
                self.metrics.accept_errors.inc();
                warn!(%error, "cannot accept connection, retrying");
            };
            tokio::select! {
                (tcp, peer) = self.acceptor.accept(on_error) => {
                    let Some(guard) = self.admission.connect(peer) else { continue };
                    if let Err(error) = set_keepalive(&tcp) {
                        debug!(%peer, %error, "connection closed before it was served");
                        continue;
                    }
                    match &self.tls {
                        None => return self.connection(Either::Left(tcp), peer, guard),
                        Some(tls) => drop(self.handshakes.spawn(handshake(tls.clone(), tcp, peer, guard))),
                    }
                }
                Some(ended) = self.handshakes.join_next() => match ended {
                    Ok((peer, guard, Ok(stream))) => return self.connection(Either::Right(Box::new(stream)), peer, guard),
                    Err(error) => warn!(%error, "TLS handshake panicked"),
                    Ok((peer, _, Err(error))) => {
                        if self.failures.allows(peer.ip(), &error.to_string()) {
                            warn!(%peer, %error, "TLS handshake failed");
                        }
                    }
                },
            }
        }
    }

    fn connection(&self, transport: Transport, peer: SocketAddr, guard: ConnectionGuard) -> Connection {
        let observer = guard.usage_observer();
        let socket = Socket::new(transport, peer, WRITE_TIMEOUT, &self.metrics, guard);
        Box::new(Link::new(socket).with_peer_addr(peer).with_usage_observer(observer))
    }
}

/// Performs a handshake, unless the connection has to make room for another.
async fn handshake(
    tls: Tls,
    tcp: TcpStream,
    peer: SocketAddr,
    guard: ConnectionGuard,
) -> (SocketAddr, ConnectionGuard, io::Result<TlsStream<TcpStream>>) {
    let outcome = tokio::select! {
        outcome = tls.handshake(tcp) => outcome,
        () = poll_fn(|cx| guard.poll_closed(cx)) => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    (peer, guard, outcome)
}

/// Enables TCP keepalive, which tonic does not do for connections that it has not accepted itself.
fn set_keepalive(tcp: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_INTERVAL).with_interval(TCP_PROBE_INTERVAL);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}
