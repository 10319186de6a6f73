//! Listening sockets and the accept loop of the servers in this program. A leaf that every module may use.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::backoff::Backoff;

/// Pauses after errors of `accept`. The usual error is a lack of file descriptors, which only the end of another
/// connection resolves.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(2) };

/// Connections that wait to be accepted, in the kernel.
const BACKLOG: i32 = 1024;

/// Listens on an address. `[::]` means all IPv6 and IPv4 addresses, whatever the system's default, and for all IPv4
/// addresses where IPv6 is off. To be called within a Tokio runtime.
///
/// # Errors
/// The address is not available.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let is_any_v6 = address.is_ipv6() && address.ip().is_unspecified();
    match bind(address, is_any_v6) {
        Err(error) if is_any_v6 && is_without_ipv6(&error) => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), false)
        }
        bound => bound,
    }
}

fn bind(address: SocketAddr, dual_stack: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if dual_stack {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Returns whether the error means that the system has no IPv6: the family is unknown, or no interface has an address.
fn is_without_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Accepts connections from a listener, with pauses while that fails.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    failures: u32,
}

impl Acceptor {
    /// An acceptor for this listener.
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, failures: 0 }
    }

    /// Returns the next connection, without Nagle's delay. Each error of the listener is passed to `on_error` and
    /// followed by a pause. Cancel safe.
    pub async fn accept(&mut self, mut on_error: impl FnMut(&io::Error)) -> (TcpStream, SocketAddr) {
        loop {
            let accepted = self.listener.accept().await;
            match accepted {
                Ok((stream, peer)) => {
                    self.failures = 0;
                    // Fails only where the peer has already closed the connection, which the first read reports.
                    stream.set_nodelay(true).ok();
                    // On a dual-stack socket, IPv4 peers have IPv6 addresses.
                    return (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
                }
                Err(error) => {
                    on_error(&error);
                    self.failures = self.failures.saturating_add(1);
                    let pause = BACKOFF.pause(self.failures, &mut rand::rng());
                    sleep(pause).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[tokio::test]
    async fn the_unspecified_ipv6_address_accepts_ipv4() {
        let listener = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (_, peer) = Acceptor::new(listener).accept(|error| panic!("{error}")).await;
        assert_eq!(peer, client.local_addr().unwrap(), "the peer has its IPv4 address");
    }

    #[tokio::test]
    async fn an_explicit_address_is_taken_as_it_is() {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(address.ip(), Ipv4Addr::LOCALHOST);
        assert!(listen(address).is_err(), "the port is in use");
    }
}
