//! Proxies that treat the connection as HTTP/2, as those of meshes do with a port that is declared as gRPC: they acknowledge
//! events in place of the subscriber. The program says so.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use http::{HeaderValue, Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model_update_eventsource::sim::Sim;
use test_support::{
    NewWorkflow, Run, RunningServer, SOON, ServerProcess, Task, TcpProxy, eventually,
    generic::{Event, EventSource},
    plain_kubeconfig,
};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Streaming, body::Body, transport::Endpoint};
use tower::{Service as _, ServiceExt as _};

use crate::server::{connect, next, within};

const LINE: &str = "subscriber is behind a proxy, which acknowledges its events";
const MARK: &str = "published.pipelines.kubeflow.org/model-update";

/// A proxy with one connection to the server.
struct HttpProxy {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl HttpProxy {
    /// Starts a proxy that connects from this address of loopback, and adds this header to every request.
    async fn start(server: SocketAddr, from: [u8; 4], header: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap();
        let endpoint = endpoint.local_address(Some(IpAddr::V4(Ipv4Addr::from(from))));
        let upstream = within(endpoint.connect()).await.unwrap();
        let forward = service_fn(move |request: Request<Incoming>| {
            let mut upstream = upstream.clone();
            async move {
                let mut request = request.map(Body::new);
                request.headers_mut().insert(header, HeaderValue::from_static("proxy"));
                let response: Response<Body> = upstream.ready().await.unwrap().call(request).await.unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = http2::Builder::new(TokioExecutor::new());
                let connection = connection.serve_connection(TokioIo::new(stream), forward.clone());
                // Ends with an error if the subscriber disappears.
                tokio::spawn(async { drop(connection.await) });
            }
        });
        Self { address, _task: AbortOnDropHandle::new(task) }
    }
}

/// The program on a simulation.
async fn serve(sim: &Sim) -> (RunningServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = plain_kubeconfig(folder.path(), &sim.kube_config().cluster_url.to_string());
    let process = ServerProcess::start(&kubeconfig, &sim.metadata_url(), &["--confirm-after=100ms"]);
    let server = process.listening().await;
    server.ready().await;
    (server, folder)
}

async fn subscribe(address: SocketAddr) -> Streaming<Event> {
    let mut client = connect(address).await;
    let request = EventSource { name: "model-update".to_owned(), config: b"kfpNamespace: demo".to_vec() };
    within(client.start_event_source(request)).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_behind_proxies_are_counted_and_peers_logged_once() {
    let sim = Sim::start().await.unwrap();
    let (server, _folder) = serve(&sim).await;
    let _direct = subscribe(server.listen).await;
    server.metric_is("modelupdate_subscribers", &[], 1.0).await;
    server.metric_is("modelupdate_proxied_streams_total", &[], 0.0).await;

    let envoy = HttpProxy::start(server.listen, [127, 0, 0, 2], "x-envoy-attempt-count").await;
    let _first = (subscribe(envoy.address).await, subscribe(envoy.address).await);
    let other = HttpProxy::start(server.listen, [127, 0, 0, 3], "via").await;
    let _second = subscribe(other.address).await;
    server.metric_is("modelupdate_proxied_streams_total", &[], 3.0).await;
    eventually(SOON, "a line for each peer", async || {
        let log = server.process.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut logged: Vec<_> = lines
            .filter(|line| line["message"] == LINE)
            .map(|line| {
                let peer: SocketAddr = line["peer"].as_str().unwrap().parse().unwrap();
                (peer.ip().to_string(), line["header"].as_str().unwrap().to_owned())
            })
            .collect();
        logged.sort();
        let expected = [("127.0.0.2", "x-envoy-"), ("127.0.0.3", "via")];
        let expected = expected.map(|(peer, header)| (peer.to_owned(), header.to_owned()));
        if logged == expected { Ok(()) } else { Err(logged) }
    })
    .await;
    server.stop().await;
}

/// A proxy reads an event that its subscriber does not read: docs/mesh.md.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_acknowledges_what_its_subscriber_has_not_read() {
    let sim = Sim::start().await.unwrap();
    let (server, _folder) = serve(&sim).await;
    let proxy = HttpProxy::start(server.listen, [127, 0, 0, 1], "x-forwarded-for").await;
    let to_subscriber = TcpProxy::start(proxy.address).await;
    let mut events = subscribe(to_subscriber.address).await;
    server.metric_is("modelupdate_subscribers", &[], 1.0).await;
    to_subscriber.pause_responses();
    sim.create_workflow("demo", NewWorkflow::tfx_v1("run", "penguin")).unwrap();
    sim.put_task(&Run::tfx_v1("penguin", "run"), Task::pusher("gs://models/1"));
    sim.set_phase("demo", "run", "Succeeded").unwrap();
    eventually(SOON, "the mark", async || {
        sim.workflow("demo", "run").unwrap()["metadata"]["annotations"][MARK].is_string()
    })
    .await;
    to_subscriber.resume();
    assert!(String::from_utf8(next(&mut events).await.payload).unwrap().contains("gs://models/1"));
    server.stop().await;
}
