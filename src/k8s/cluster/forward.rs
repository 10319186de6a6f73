//! A port of this machine that leads to a port of a Pod, through the API server: like `kubectl port-forward`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::Portforwarder};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::{Cluster, ClusterError};
use crate::{net::Acceptor, telemetry::log::chain};

/// Connections at one time. A command makes one or two; a client that leaks them is stopped here.
const MAX_CONNECTIONS: usize = 64;

/// The time for the reason of a connection's end.
const REASON: Duration = Duration::from_secs(1);

/// A forwarded port. It ends when this is dropped.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    pod: Target,
    last_error: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct Target {
    namespace: String,
    name: String,
    port: u16,
}

impl Forward {
    pub(super) async fn start(cluster: &Cluster, namespace: &str, pod: &str, port: u16) -> Result<Self, ClusterError> {
        let target = Target { namespace: namespace.to_owned(), name: pod.to_owned(), port };
        // Shows missing rights at once. It is not kept for the first client: servers close connections that stay silent.
        drop(connect(cluster, &target).await?);
        let local = |error: std::io::Error| ClusterError::Config(format!("no port of 127.0.0.1 is free: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(local)?;
        let address = listener.local_addr().map_err(local)?;
        let last_error = Arc::default();
        let task = tokio::spawn(serve(cluster.clone(), target.clone(), listener, Arc::clone(&last_error)));
        Ok(Self { address, pod: target, last_error, task })
    }

    /// The local address, on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The Pod and its port, for messages.
    pub fn target(&self) -> String {
        let Target { namespace, name, port } = &self.pod;
        format!("Pod {namespace}/{name}, port {port}")
    }

    /// The reason why the latest connection failed, for example that nothing listens on the Pod's port.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Makes a connection to the Pod's port.
async fn connect(cluster: &Cluster, pod: &Target) -> Result<Portforwarder, ClusterError> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.kube.clone(), &pod.namespace);
    let connected = cluster.timed(pods.portforward(&pod.name, &[pod.port])).await?;
    connected.map_err(|error| match &error {
        kube::Error::UpgradeConnection(_) => ClusterError::Refused {
            status: 0,
            message: format!(
                "no port-forward to the Pod {}/{}: {}; a proxy in between may not allow WebSockets",
                pod.namespace,
                pod.name,
                chain(&error)
            ),
        },
        error => cluster.kube_error(error),
    })
}

async fn serve(cluster: Cluster, pod: Target, listener: TcpListener, last_error: Arc<Mutex<Option<String>>>) {
    let mut acceptor = Acceptor::new(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (local, _) = acceptor.accept(|_| ()), if connections.len() < MAX_CONNECTIONS => {
                let (cluster, pod, last_error) = (cluster.clone(), pod.clone(), last_error.clone());
                connections.spawn(async move {
                    let carried = carry(&cluster, &pod, local).await;
                    if let Err(error) = carried {
                        *last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection to its end. A failure closes it.
async fn carry(cluster: &Cluster, pod: &Target, mut local: TcpStream) -> Result<(), String> {
    let mut forwarder = connect(cluster, pod).await.map_err(|error| error.to_string())?;
    let (Some(mut remote), Some(failed)) = (forwarder.take_stream(pod.port), forwarder.take_error(pod.port)) else {
        return Err("the port-forward has no stream".to_owned());
    };
    let mut failed = pin!(failed);
    let copied = tokio::select! {
        // Either side may break off, which its client sees.
        copied = copy_bidirectional(&mut local, &mut remote) => copied,
        Some(message) = &mut failed => return Err(message),
    };
    // The reason of an end arrives beside it.
    match timeout(REASON, failed).await {
        Ok(Some(message)) => Err(message),
        Ok(None) | Err(_) => copied.map(drop).map_err(|error| error.to_string()),
    }
}
