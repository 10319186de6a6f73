//! The accept loop of the servers in this program. A leaf that every module may use.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::backoff::Backoff;

/// Pauses after errors of `accept`. The usual error is a lack of file descriptors, which only the end of another
/// connection resolves.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(2) };

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
                    return (stream, peer);
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
