//! The admin server over real connections.

mod status;

use prometheus_client::metrics::gauge::Gauge;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use super::{
    connections::{CONNECTION_TIMEOUT, HEAD_TIMEOUT, MAX_CONNECTIONS},
    *,
};
use crate::{
    delivery::{DeliveryStatus, fake},
    net,
    telemetry::{self, Limit},
};

struct Running {
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    readiness: Readiness,
    limits: LimitHits,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = net::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn admin() -> Admin {
    Admin {
        registry: telemetry::registry(),
        readiness: Readiness::default(),
        heartbeat: Heartbeat::default(),
        log: log::Handle::default(),
        limits: LimitHits::default(),
        has_status: true,
        hosts: ["status.example.com".parse().unwrap()].into_iter().collect(),
        access: Access::default(),
        delivery: fake::status(DeliveryStatus::default()),
        store: Arc::default(),
        scopes: vec![Scope::All],
        namespaces: Vec::new(),
        selector: "a=b".to_owned(),
        trace_url: None,
        clock: WallClock::default(),
        started: Instant::now(),
        facts: vec![("selector", "a<b".into())],
    }
}

async fn running() -> Running {
    running_with(Heartbeat::default(), None).await
}

async fn running_with(heartbeat: Heartbeat, metrics: Option<(TcpListener, SocketAddr)>) -> Running {
    running_on(listener(), Admin { heartbeat, ..admin() }, metrics)
}

fn running_on(
    (listener, address): (TcpListener, SocketAddr),
    admin: Admin,
    metrics: Option<(TcpListener, SocketAddr)>,
) -> Running {
    let (readiness, limits, stop) = (admin.readiness.clone(), admin.limits.clone(), CancellationToken::new());
    let (metrics_listener, metrics) = metrics.unzip();
    let last_answers = Duration::from_millis(500);
    let task = tokio::spawn(serve(listener, metrics_listener, admin, stop.clone(), last_answers));
    Running { address, metrics, readiness, limits, stop, task }
}

async fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    request(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n")).await
}

async fn request(address: SocketAddr, request: &str) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn readiness_lists_blockers_and_liveness_ignores_them() {
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
async fn metrics_have_the_accepted_format() {
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
async fn a_failing_scope_is_named_although_the_server_is_ready() {
    let server = running().await;
    let (a, b) =
        (server.readiness.scope("watch of a", "not listed"), server.readiness.scope("watch of b", "forbidden"));
    assert!(get(server.address, "/readyz", "").await.starts_with("HTTP/1.1 503"));
    let answer = get(server.address, "/conditions", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nwatch of a: not listed\nwatch of b: forbidden\n"), "{answer}");
    a.release();
    let answer = get(server.address, "/readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok\nwatch of b: forbidden\n"), "{answer}");
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn liveness_ends_with_the_heartbeat() {
    let heartbeat = Heartbeat::default();
    let server = running_with(heartbeat.clone(), None).await;
    assert!(get(server.address, "/livez", "").await.starts_with("HTTP/1.1 200"));
    tokio::time::advance(MAX_HEARTBEAT_AGE).await;
    let answer = get(server.address, "/livez", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("delivery: no turn of the task for 30 s"),
        "{answer}"
    );
    heartbeat.beat();
    assert!(get(server.address, "/livez", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn metrics_may_have_a_listener_of_their_own() {
    let server = running_with(Heartbeat::default(), Some(listener())).await;
    let metrics = server.metrics.unwrap();
    assert!(get(metrics, "/metrics", "").await.contains("modelupdate_build_info"));
    assert!(get(metrics, "/livez", "").await.starts_with("HTTP/1.1 404"));
    assert!(get(server.address, "/metrics", "").await.starts_with("HTTP/1.1 404"));
    assert!(get(server.address, "/livez", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_log_level_can_be_changed() {
    let server = running().await;
    assert!(get(server.address, "/loglevel", "").await.ends_with("\r\n\r\ninfo\n"));
    let put_at = async |host: &str, level: &str| {
        let length = level.len();
        let head = format!("PUT /loglevel HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n");
        request(server.address, &(head + level)).await
    };
    let put = async |level: &str| put_at("localhost:8080", level).await;
    assert!(put("debug,kube=info\n").await.ends_with("\r\n\r\ndebug,kube=info\n"));
    assert!(get(server.address, "/loglevel", "").await.ends_with("\r\n\r\ndebug,kube=info\n"));
    assert!(put_at("evil.example", "trace").await.starts_with("HTTP/1.1 421"), "a web site");
    assert!(put("inof").await.starts_with("HTTP/1.1 400"));
    assert!(put(&"x".repeat(MAX_BODY + 1)).await.starts_with("HTTP/1.1 413"));
    assert!(get(server.address, "/loglevel", "").await.ends_with("debug,kube=info\n"), "a refusal changes nothing");
}

/// Addresses of other Pods, as the router sees them: without a mesh, and behind the sidecar of Istio.
#[tokio::test]
async fn the_log_level_is_changed_from_the_pod_only() {
    for peer in [[192, 0, 2, 1], [127, 0, 0, 6]] {
        let peer = ConnectInfo(SocketAddr::from((peer, 1)));
        let served = Served { readers: Readers::new(Access::default()), admin: admin() };
        let headers = HeaderMap::new();
        let response = set_log_level(State(Arc::new(served)), peer, headers, "trace".to_owned()).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{peer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_disconnected() {
    let server = running().await;
    for begin in ["", "GET /livez HTTP/1.1\r\nhost"] {
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        silent.write_all(begin.as_bytes()).await.unwrap();
        // Paused time advances whenever every task waits.
        let start = tokio::time::Instant::now();
        assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
        assert!(start.elapsed() <= HEAD_TIMEOUT + Duration::from_millis(100), "{:?}", start.elapsed());
    }
    assert_eq!(server.limits.count(Limit::AdminHead), 2);
}

/// Whatever is connected: each probe is answered at once.
#[tokio::test]
async fn silent_connections_delay_no_probe() {
    let server = running().await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let probe = timeout(HEAD_TIMEOUT, get(server.address, "/livez", "")).await.expect("an answer in time");
    assert!(probe.starts_with("HTTP/1.1 200"), "{probe}");
    assert!(server.limits.count(Limit::AdminConnections) >= 400 - MAX_CONNECTIONS as u64);
}

/// Their requests are complete, and they do not read the answers.
#[tokio::test]
async fn clients_that_do_not_read_delay_no_probe() {
    let mut registry = telemetry::registry();
    registry.register("large", "x".repeat(256 * 1024), Gauge::<i64>::default());
    let listener = listener();
    // The kernel holds what does not fit into the buffers of both sides: less than the answer.
    SockRef::from(&listener.0).set_send_buffer_size(4096).unwrap();
    let server = running_on(listener, Admin { registry, ..admin() }, None);
    let mut silent = Vec::new();
    for _ in 0..100 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut connection = socket.connect(server.address).await.unwrap();
        connection.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        silent.push(connection);
    }
    let probe = timeout(HEAD_TIMEOUT, get(server.address, "/livez", "")).await.expect("an answer in time");
    assert!(probe.starts_with("HTTP/1.1 200"), "{probe}");
    assert!(server.limits.count(Limit::AdminConnections) >= 100 - MAX_CONNECTIONS as u64);
}

/// A client that sends its request slowly, but does send it, is served.
#[tokio::test]
async fn a_slow_head_within_the_limit_is_served() {
    let server = running().await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    for part in ["GET /livez", " HTTP/1.1\r\n", "host: x\r\n\r\n"] {
        connection.write_all(part.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    timeout(CONNECTION_TIMEOUT, connection.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_stop_ends_the_server() {
    let server = running().await;
    assert!(get(server.address, "/livez", "").await.starts_with("HTTP/1.1 200"));
    server.stop.cancel();
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
    TcpStream::connect(server.address).await.unwrap_err();
}
