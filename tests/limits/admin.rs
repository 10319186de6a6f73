//! Clients of the admin port, and of the port for metrics.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::future::join_all;
use model_update_eventsource::telemetry::Limit;
use test_support::{RunningServer, plain_http, report};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    exclusive,
    harness::{Observation, Simulated},
};

const CONNECTIONS: usize = 400;
/// Pause before a closed connection is opened again.
const PAUSE: Duration = Duration::from_millis(100);
/// Duration of the attack.
const ATTACK: Duration = Duration::from_secs(4);
/// Time limit of a scrape.
const SCRAPE: Duration = Duration::from_secs(1);

/// Keeps silent connections to this address open until the set is dropped.
fn keep_silent_connections(address: SocketAddr) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connections.spawn(async move {
            loop {
                if let Ok(mut connection) = TcpStream::connect(address).await {
                    // Until the server closes it. An error means the same.
                    connection.read_u8().await.ok();
                }
                sleep(PAUSE).await;
            }
        });
    }
    connections
}

/// Returns the longest duration of a scrape during the attack.
async fn slowest_scrape(metrics: SocketAddr) -> Duration {
    let (start, mut slowest) = (Instant::now(), Duration::ZERO);
    while start.elapsed() < ATTACK {
        let asked = Instant::now();
        let page = timeout(SCRAPE, plain_http::get(&format!("http://{metrics}/metrics"))).await;
        assert!(page.expect("in time").expect("metrics").contains("modelupdate_limit_hits_total"));
        slowest = slowest.max(asked.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    slowest
}

/// Attacks one port, and scrapes the one for metrics meanwhile.
async fn attack(
    what: &'static str,
    env: &Simulated,
    server: &RunningServer,
    attacked: SocketAddr,
    metrics: SocketAddr,
) {
    let observation = Observation::start(what, server, env.tenant()).await;
    let connections = keep_silent_connections(attacked);
    let slowest = slowest_scrape(metrics).await;
    drop(connections);
    let page = plain_http::get(&format!("http://{metrics}/metrics")).await.expect("metrics");
    let label = format!("modelupdate_limit_hits_total{{limit=\"{}\"}} ", Limit::AdminConnections.as_str());
    let hits: usize = page.lines().find_map(|line| line.strip_prefix(&label)?.parse().ok()).expect("a number");
    report(format_args!("limits: {what}: slowest scrape {slowest:.0?}, {hits} connections closed for others"));
    assert!(hits >= CONNECTIONS / 2, "{hits}");
    observation.finish().await.assert_unharmed();
}

/// Probes and scrapes are answered whatever else is connected.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_delay_neither_probes_nor_scrapes() {
    let _exclusive = exclusive().await;
    let env = Simulated::start().await;
    let server = env.server(&[]).await;
    attack("row 6: 400 silent connections to the admin port", &env, &server, server.admin, server.admin).await;
}

/// They share a snapshot of the delivery task.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_the_status_delay_no_event() {
    let _exclusive = exclusive().await;
    let env = Simulated::start().await;
    let server = env.server(&[]).await;
    let observation = Observation::start("row 6: 8 clients that request the status", &server, env.tenant()).await;
    let (url, end) = (format!("http://{}/statusz.json", server.admin), Instant::now() + ATTACK);
    let client = async || {
        let mut answers = 0;
        while Instant::now() < end {
            answers += usize::from(plain_http::get(&url).await.is_ok());
        }
        answers
    };
    let answers: usize = join_all((0..8).map(|_| client())).await.into_iter().sum();
    report(format_args!("limits: {answers} answers with the status in {ATTACK:.0?}"));
    assert!(answers > 100, "{answers}");
    observation.finish().await.assert_unharmed();
}

/// Metrics have a port of their own, which is attacked.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_to_the_metrics_port_are_closed() {
    let _exclusive = exclusive().await;
    let env = Simulated::start().await;
    let server = env.server(&["--metrics-listen=127.0.0.1:0"]).await;
    let line = server.process.logged("serving").await;
    let metrics: SocketAddr = line["metrics"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    assert!(server.get("/metrics").await.is_err_and(|answer| answer.contains("404")), "not on the admin port");
    assert!(plain_http::get(&format!("http://{metrics}/livez")).await.is_err_and(|answer| answer.contains("404")));
    attack("row 6: 400 silent connections to the metrics port", &env, &server, metrics, metrics).await;
}
