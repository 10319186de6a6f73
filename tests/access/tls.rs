//! TLS of the program: deliveries, certificates of clients, reloads, silent peers, and memory.

use std::{fs, net::SocketAddr, os::unix::fs::symlink, path::Path, time::Duration};

use futures::future::try_join_all;
use test_support::{CATCH_UP, Peers, RunningServer, SOON, TcpProxy, TestEnv, eventually, report};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    process::Command,
    time::{Instant, timeout},
};
use tonic::Code;

use crate::{
    Env,
    certificates::{Authority, Tunnel, flags},
    subscriber::{Events, connect, end, next, subscribe, subscribe_on},
};

/// The time limit of a handshake, and the interval at which files are read.
const TEN_SECONDS: Duration = Duration::from_secs(10);

/// Writes a certificate of this authority and starts a server with it and these further flags.
async fn server(env: &TestEnv, folder: &Path, authority: &Authority, more: &[&str]) -> RunningServer {
    authority.issue().write(folder);
    let tls = flags(folder);
    env.start_server(&[], &[&[&*tls[0], &tls[1]], more].concat()).await
}

/// The acknowledgements of HTTP/2 that prove a delivery work under TLS as without.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn events_over_tls_are_confirmed_once_they_are_read() {
    let peers = Peers::find().await;
    let env = TestEnv::start(peers).await;
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = server(&env, folder.path(), &authority, &[]).await;
    let tunnel = Tunnel::start(server.listen, authority, None).await;
    let mut client = peers.grpc_go_client(tunnel.address, &env.config()).start();
    for number in 0..20 {
        env.succeed(&format!("run-{number}")).await;
        assert!(client.payload(SOON).await.contains(&format!("gs://root/run-{number}\"")));
    }
    for number in 0..20 {
        env.marked(&format!("run-{number}"), 1).await;
    }
    // A frozen client does not read, so its event is not confirmed.
    client.pause();
    env.succeed("frozen").await;
    server.metric_is("modelupdate_events_sent_total", &[], 21.0).await;
    let marked = timeout(Duration::from_secs(2), env.marked("frozen", 1)).await;
    assert!(marked.is_err(), "confirmed, although the client is frozen");
    client.kill();
    let mut successor = peers.grpc_go_client(tunnel.address, &env.config()).start();
    assert!(successor.payload(CATCH_UP).await.contains("gs://root/frozen\""), "delivered to the next stream");
    env.marked("frozen", 1).await;
}

/// An event that a client has not read when its connection is cut, or that is sent after the client's side has ended, goes to
/// the next stream.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_broken_connection_with_tls_confirms_nothing() {
    let peers = Peers::find().await;
    let env = TestEnv::start(peers).await;
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = server(&env, folder.path(), &authority, &[]).await;
    let tunnel = Tunnel::start(server.listen, authority, None).await;
    let cut = |proxy: &TcpProxy| proxy.cut();
    for (name, pause, end) in [
        ("cut", TcpProxy::pause_responses as fn(&TcpProxy), cut as fn(&TcpProxy)),
        ("half-closed", TcpProxy::pause, TcpProxy::half_close),
    ] {
        let proxy = TcpProxy::start(tunnel.address).await;
        let mut client = peers.grpc_go_client(proxy.address, &env.config()).start();
        let read = format!("{name}-read");
        env.succeed(&read).await;
        assert!(client.payload(SOON).await.contains(&read));
        env.marked(&read, 1).await;
        let sent = server.metric("modelupdate_events_sent_total", &[]).await;
        pause(&proxy);
        env.succeed(name).await;
        server.metric_is("modelupdate_events_sent_total", &[], sent + 1.0).await;
        assert!(timeout(Duration::from_secs(2), env.marked(name, 1)).await.is_err(), "{name}: confirmed unread");
        end(&proxy);
        let mut successor = peers.grpc_go_client(tunnel.address, &env.config()).start();
        assert!(successor.payload(CATCH_UP).await.contains(&format!("gs://root/{name}\"")));
        env.marked(name, 1).await;
        successor.kill();
        server.metric_is("modelupdate_subscribers", &[], 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn with_a_client_ca_only_its_clients_subscribe() {
    let env = TestEnv::start(Peers::find().await).await;
    let (folder, clients) = (tempfile::tempdir().unwrap(), Authority::new());
    let client_ca = folder.path().join("ca.crt");
    fs::write(&client_ca, clients.pem()).unwrap();
    let authority = Authority::new();
    let client_ca = format!("--tls-client-ca={}", client_ca.display());
    let server = server(&env, folder.path(), &authority, &[&client_ca]).await;
    let refused = async |client| match authority.connect(server.listen, client).await {
        // With TLS 1.3 the client learns of the refusal with its first read.
        Ok(mut connection) => timeout(SOON, connection.read_to_end(&mut Vec::new())).await.expect("it ends").is_err(),
        Err(_) => true,
    };
    assert!(refused(None).await, "without a certificate");
    assert!(refused(Some(&Authority::new().issue())).await, "with one of another authority");
    server.process.logged("TLS handshake failed").await;

    let tunnel = Tunnel::start(server.listen, authority, Some(clients.issue())).await;
    let mut events = subscribe(tunnel.address, None, &env.config()).await.unwrap();
    env.succeed("run").await;
    assert!(next(&mut events).await.contains("gs://root/run"));
    env.marked("run", 1).await;
}

/// The kubelet exchanges a link to the folder of a Secret's files. Open streams stay.
async fn new_connections_use_exchanged_certificates() {
    let env = TestEnv::start(Peers::find().await).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (first, second) = (Authority::new(), Authority::new());
    for (name, authority) in [("1", &first), ("2", &second)] {
        fs::create_dir(path(name)).unwrap();
        authority.issue().write(&path(name));
    }
    symlink("1", path("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(file), path(file)).unwrap();
    }
    let tls = flags(folder.path());
    let server = env.start_server(&[], &[&tls[0], &tls[1]]).await;
    assert!(second.connect(server.listen, None).await.is_err(), "not yet");
    let tunnel = Tunnel::start(server.listen, first, None).await;
    let mut open = subscribe(tunnel.address, None, &env.config()).await.unwrap();

    symlink("2", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    let exchanged = Instant::now();
    eventually(TEN_SECONDS * 2, "the new certificate", async || second.connect(server.listen, None).await).await;
    report(format!("TLS: a new certificate was used {:.1?} after its files were exchanged", exchanged.elapsed()));
    server.metric_is("modelupdate_tls_reloads_total", &["result=\"ok\""], 1.0).await;
    env.succeed("run").await;
    assert!(next(&mut open).await.contains("gs://root/run"), "the stream with the former certificate is open");
    env.marked("run", 1).await;
}

/// Peers that begin no handshake neither delay others nor stay.
async fn silent_peers_delay_no_other_and_are_closed() {
    let env = Env::start().await;
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.issue().write(folder.path());
    let tls = flags(folder.path());
    let server = env.server(&[&tls[0], &tls[1]]).await;
    let connected = Instant::now();
    let mut silent = try_join_all((0..200).map(|_| TcpStream::connect(server.listen))).await.unwrap();
    let tunnel = Tunnel::start(server.listen, authority, None).await;
    let started = Instant::now();
    let _open = subscribe(tunnel.address, None, &env.config()).await.unwrap();
    report(format!("TLS: subscribed in {:.1?} beside 200 silent connections", started.elapsed()));
    assert!(started.elapsed() < TEN_SECONDS / 2, "{:?}", started.elapsed());
    for peer in &mut silent {
        timeout(TEN_SECONDS * 2, peer.read_to_end(&mut Vec::new())).await.expect("closed").unwrap();
    }
    assert!(connected.elapsed() >= TEN_SECONDS / 2, "{:?}", connected.elapsed());
    server.metric_is("modelupdate_connections", &[], 1.0).await;
}

/// Both wait for ten seconds.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn certificates_are_exchanged_and_silent_peers_are_closed() {
    tokio::join!(new_connections_use_exchanged_certificates(), silent_peers_delay_no_other_and_are_closed());
}

/// Opens idle streams, each on a connection of its own, and returns the growth of memory a stream, in KiB.
async fn memory_of_streams(server: &RunningServer, address: SocketAddr, config: &str, streams: u64) -> u64 {
    let open = async || subscribe_on(connect(address, None).await, None, config).await.unwrap();
    let _first: Events = open().await;
    let before = server.resident_kib();
    let mut opened = Vec::new();
    while (opened.len() as u64) < streams {
        opened.extend(futures::future::join_all((0..20).map(|_| open())).await);
    }
    server.metric_is("modelupdate_subscribers", &[], (streams + 1) as f64).await;
    (server.resident_kib() - before) / streams
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_memory_of_a_connection_with_tls_is_bounded() {
    const STREAMS: u64 = 200;
    let env = Env::start().await;
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.issue().write(folder.path());
    let tls = flags(folder.path());
    let flags = ["--max-streams-per-namespace=1000"];
    let plain = env.server(&flags).await;
    let encrypted = env.server(&[&[&*tls[0], &tls[1]], &flags[..]].concat()).await;
    let tunnel = Tunnel::start(encrypted.listen, authority, None).await;
    let without = memory_of_streams(&plain, plain.listen, &env.config(), STREAMS).await;
    let with = memory_of_streams(&encrypted, tunnel.address, &env.config(), STREAMS).await;
    report(format!("memory of an idle stream on its own connection: {without} KiB without TLS, {with} KiB with TLS"));
    assert!(with <= 64, "{with} KiB with TLS");
}

/// A token over TLS is reviewed as without.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn tokens_and_tls_work_together() {
    let env = Env::start().await;
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.issue().write(folder.path());
    let tls = flags(folder.path());
    let server = env.server(&["--auth=token", "--auth-cache-allow=1s", &tls[0], &tls[1]]).await;
    // Health needs no token.
    let ca = folder.path().join("ca.crt");
    fs::write(&ca, authority.pem()).unwrap();
    let (url, ca) = (format!("https://{}", server.listen), ca.to_str().unwrap());
    let program = env!("CARGO_BIN_EXE_model-update-eventsource");
    let health = Command::new(program).args(["health", "--server", &url, "--ca", ca]).output().await.unwrap();
    assert!(health.status.success(), "{health:?}");

    let tunnel = Tunnel::start(server.listen, authority, None).await;
    let account = env.account("tls").await;
    let grant = env.grant(&account, "subscribe").await;
    let token = env.cluster.token(&account, &[]).await;
    let mut events = subscribe(tunnel.address, Some(&token), &env.config()).await.unwrap();
    env.cluster.revoke(grant).await;
    assert_eq!(end(&mut events).await.code(), Code::PermissionDenied);
}
