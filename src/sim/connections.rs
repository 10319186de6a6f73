//! Accepts connections for both servers, and ends them with their simulation.

use std::{io, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};
use tracing::debug;

/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves each connection by `serve`. Never ends; dropped, it takes all connections along.
pub(super) async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = hyper::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = next(&listener) => match accepted {
                Ok(stream) => {
                    connections.spawn(serve(stream));
                }
                Err(error) => {
                    debug!("the simulation could not accept a connection: {error}");
                    sleep(PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => if let Ok(Err(error)) = ended {
                debug!("a connection to the simulation broke: {error}");
            },
        }
    }
}

async fn next(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
