//! A stand-in for a kubelet: it forwards ports of one Pod, as the API server asks for it, to addresses of this machine.
//!
//! The API server passes a client's WebSocket on to the kubelet of the Pod's node. Its frames begin with a channel: an even
//! one for data, the odd one behind it for errors. Each channel begins with the number of its port.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use k8s_openapi::api::core::v1 as api;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use test_support::Cluster;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};

/// The protocol of the frames.
const PROTOCOL: &str = "v4.channel.k8s.io";
const DATA: u8 = 0;
const ERROR: u8 = 1;

/// A Pod on a node whose kubelet runs in this process.
pub(crate) struct Pod<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) labels: serde_json::Value,
    /// The names, numbers and real addresses of its ports.
    pub(crate) ports: Vec<(&'static str, u16, SocketAddr)>,
}

impl Pod<'_> {
    /// Starts the kubelet and creates the node and the Pod, which is ready.
    pub(crate) async fn start(self, cluster: &Cluster) {
        let targets = self.ports.iter().map(|(_, port, address)| (*port, *address)).collect();
        let kubelet = serve(targets).await;
        let node = format!("node-{}", kubelet.port());
        let client = cluster.client().await;
        let (create, patch) = (PostParams::default(), PatchParams::default());
        let object = json!({
            "metadata": {"name": node},
            "status": {
                "addresses": [{"type": "InternalIP", "address": kubelet.ip()}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}},
            },
        });
        let nodes: Api<api::Node> = Api::all(client.clone());
        nodes.create(&create, &serde_json::from_value(object.clone()).expect("a node")).await.expect("a node");
        nodes.patch_status(&node, &patch, &Patch::Merge(&object)).await.expect("its status");
        let ports: Vec<_> =
            self.ports.iter().map(|(name, port, _)| json!({"name": name, "containerPort": port})).collect();
        let pod = json!({
            "metadata": {"name": self.name, "labels": self.labels},
            "spec": {"nodeName": node, "containers": [{"name": "server", "image": "none", "ports": ports}]},
        });
        let pods: Api<api::Pod> = Api::namespaced(client, self.namespace);
        pods.create(&create, &serde_json::from_value(pod).expect("a Pod")).await.expect("a Pod");
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        pods.patch_status(self.name, &patch, &Patch::Merge(&ready)).await.expect("its status");
    }
}

/// Serves port-forwards over TLS with a self-signed certificate, as kubelets do.
async fn serve(targets: Vec<(u16, SocketAddr)>) -> SocketAddr {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
    let certificates = vec![signed.cert.der().clone()];
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let targets = Arc::new(targets);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, targets) = (acceptor.clone(), targets.clone());
            tokio::spawn(async move {
                // A client that breaks off ends its own connection only.
                if let Ok(stream) = acceptor.accept(socket).await {
                    forward(stream, &targets).await;
                }
            });
        }
    });
    address
}

async fn forward(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, targets: &[(u16, SocketAddr)]) {
    let mut port = 0_u16;
    #[expect(clippy::result_large_err, reason = "the type of the library")]
    let handshake = |request: &Request, mut response: Response| {
        let query = request.uri().query().unwrap_or_default();
        let ports = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "ports" || key == "port");
        port = ports.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        response.headers_mut().insert("sec-websocket-protocol", PROTOCOL.parse().expect("a header"));
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(stream, handshake).await else { return };
    let [low, high] = port.to_le_bytes();
    for channel in [DATA, ERROR] {
        socket.send(Message::binary(vec![channel, low, high])).await.expect("the API server reads");
    }
    let target = targets.iter().find(|(number, _)| *number == port);
    let connected = match target {
        Some((_, address)) => TcpStream::connect(address).await.map_err(|error| error.to_string()),
        None => Err(format!("nothing listens on port {port}")),
    };
    let mut tcp = match connected {
        Ok(tcp) => tcp,
        Err(error) => {
            let mut frame = vec![ERROR];
            frame.extend_from_slice(error.as_bytes());
            let _closed = socket.send(Message::binary(frame)).await;
            return;
        }
    };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            read = tcp.read(&mut buffer) => match read {
                Ok(count) if count > 0 => {
                    let frame = [&[DATA], &buffer[..count]].concat();
                    if socket.send(Message::binary(frame)).await.is_err() {
                        return;
                    }
                }
                _ => return close(socket).await,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Binary(frame))) if frame.first() == Some(&DATA) => {
                    if tcp.write_all(&frame[1..]).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                _ => return,
            },
        }
    }
}

/// Ends a WebSocket as a kubelet does, with a handshake: without it, the client may lose the last data.
async fn close<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) {
    let handshake = async {
        let _closed = socket.close(None).await;
        while let Some(Ok(_)) = socket.next().await {}
    };
    let _in_time = timeout(Duration::from_secs(5), handshake).await;
}
