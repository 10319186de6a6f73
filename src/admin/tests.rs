//! The admin server over real connections.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;
use crate::telemetry;

struct Running {
    address: SocketAddr,
    readiness: Readiness,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn running() -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (readiness, stop) = (Readiness::default(), CancellationToken::new());
    let admin = Admin {
        registry: telemetry::registry().0,
        readiness: readiness.clone(),
        store: Arc::default(),
        subscribers: Gauge::default(),
        started: Instant::now(),
        facts: vec![("selector", "a<b".into())],
    };
    let task = tokio::spawn(serve(listener, admin, stop.clone(), Duration::from_millis(500)));
    Running { address, readiness, stop, task }
}

async fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn readiness_lists_what_still_blocks_and_liveness_does_not_care() {
    let server = running().await;
    assert!(get(server.address, "/readyz", "").await.starts_with("HTTP/1.1 200"));
    let watch = server.readiness.condition("watch", "the first list\nis not complete");
    let drain = server.readiness.condition("drain", "shutting down");
    let answer = get(server.address, "/readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("\r\n\r\ndrain: shutting down\nwatch: the first list is not complete\n"), "{answer}");
    assert!(get(server.address, "/livez", "").await.starts_with("HTTP/1.1 200"));
    drop((watch, drain));
    assert!(get(server.address, "/readyz", "").await.ends_with("\r\n\r\nok\n"));
}

#[tokio::test]
async fn metrics_come_in_the_format_that_is_accepted() {
    let server = running().await;
    let plain = get(server.address, "/metrics", "").await;
    assert!(plain.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{plain}");
    assert!(plain.contains("\n# TYPE modelupdate_build_info gauge\nmodelupdate_build_info{version="), "{plain}");
    assert!(plain.contains("\n# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total "), "{plain}");
    assert!(plain.contains("\nprocess_resident_memory_bytes "), "{plain}");
    let open = get(server.address, "/metrics", "accept: application/openmetrics-text; version=1.0.0\r\n").await;
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{open}");
    assert!(open.ends_with("# EOF\n"), "{open}");
}

#[tokio::test]
async fn the_status_page_shows_the_facts_as_text() {
    let server = running().await;
    let page = get(server.address, "/", "").await;
    assert!(page.contains("<th>selector</th><td>a&lt;b</td>"), "{page}");
    assert!(page.contains("<th>subscribers</th><td>0</td>"), "{page}");
    assert!(page.contains("href=\"metrics\""), "{page}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut_off() {
    let server = running().await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    // The clock of this test runs ahead whenever everybody waits.
    let began = tokio::time::Instant::now();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    assert!(began.elapsed() <= CONNECTION + Duration::from_secs(1));
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() {
    let server = running().await;
    assert!(get(server.address, "/livez", "").await.starts_with("HTTP/1.1 200"));
    server.stop.cancel();
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
    TcpStream::connect(server.address).await.unwrap_err();
}
