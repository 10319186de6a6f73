//! Connections to the admin port. Kubernetes' probes must be answered whatever else is connected: a failed liveness
//! probe restarts the server for every tenant.
//!
//! Beyond a number of connections, each new one takes the place of another: of one that has sent no request, or that does
//! not read its answer. Either has a moment for that first, so that a probe in a burst of connections keeps its own place.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request};
use futures::future::OptionFuture;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::{
    net::Acceptor,
    telemetry::{Limit, LimitHits},
};

/// The limit of concurrent connections: a few probes, scrapers and people.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// The time limit for the head of a request. A probe sends it with its first packet.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(1);
/// The time limit of a connection: request and answer. A scraper reads the answer in milliseconds.
pub(super) const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The age from which a connection without a complete head makes room for another. A probe's head is there when its
/// connection is accepted, and is read at once.
const MIN_SILENCE: Duration = Duration::from_millis(50);
/// The age from which one with an answer that is not read makes room for another. An answer takes milliseconds.
const MIN_ANSWER: Duration = Duration::from_millis(250);
/// The limit of a request's head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// A connection that is being served.
struct Connection {
    task: AbortHandle,
    accepted: Instant,
    /// Set once the head of its request is complete.
    has_head: Arc<AtomicBool>,
}

/// Serves one request a connection until `stop` is cancelled. Answers in progress then have `last_answers` to complete.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: LimitHits,
    stop: CancellationToken,
    last_answers: Duration,
) {
    let mut acceptor = Acceptor::new(listener);
    let mut tasks = JoinSet::new();
    // Ended ones are removed when their task is joined.
    let mut connections: Vec<Connection> = Vec::new();
    let on_error = |error: &io::Error| warn!(%error, "cannot accept a connection to the admin port");
    loop {
        let is_full = connections.len() >= MAX_CONNECTIONS;
        let first = connections.iter().enumerate().map(|(index, other)| (other.yields_at(), index)).min();
        let first = first.filter(|_| is_full);
        let wait = first.map(|(at, _)| at).filter(|at| *at > Instant::now());
        tokio::select! {
            () = stop.cancelled() => break,
            (stream, peer) = acceptor.accept(on_error), if wait.is_none() => {
                if let Some((_, index)) = first {
                    limits.hit(Limit::AdminConnections);
                    connections.swap_remove(index).task.abort();
                }
                let has_head = Arc::<AtomicBool>::default();
                let task = tasks.spawn(connection(stream, peer, router.clone(), has_head.clone(), limits.clone()));
                connections.push(Connection { task, accepted: Instant::now(), has_head });
            }
            Some(()) = OptionFuture::from(wait.map(sleep_until)) => {}
            Some(_) = tasks.join_next() => connections.retain(|connection| !connection.task.is_finished()),
        }
    }
    // Dropping the set aborts the rest.
    timeout(last_answers, async { while tasks.join_next().await.is_some() {} }).await.ok();
}

impl Connection {
    /// The time from which it makes room for another.
    fn yields_at(&self) -> Instant {
        self.accepted + if self.has_head.load(Ordering::Relaxed) { MIN_ANSWER } else { MIN_SILENCE }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, has_head: Arc<AtomicBool>, limits: LimitHits) {
    let noted = has_head.clone();
    let service = router.map_request(move |mut request: Request<Incoming>| {
        noted.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.map(Body::new)
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut served = pin!(timeout(CONNECTION_TIMEOUT, served));
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = sleep(HEAD_TIMEOUT) => {
            if !has_head.load(Ordering::Relaxed) {
                limits.hit(Limit::AdminHead);
                debug!(%peer, limit_ms = HEAD_TIMEOUT.as_millis(), "closed silent connection to the admin port");
                return;
            }
            served.await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, %error, "connection to the admin port failed"),
        Err(_) => debug!(%peer, limit_s = CONNECTION_TIMEOUT.as_secs(), "connection to the admin port timed out"),
    }
}
