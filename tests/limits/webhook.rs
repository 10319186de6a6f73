//! A proxy of the simulated API server with an admission webhook that hangs.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::{Method, StatusCode, Uri};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::harness::Simulated;

/// A running proxy. Dropping it ends it.
pub(crate) struct Webhook {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    client: Client<HttpConnector, Body>,
    api_server: Uri,
    /// Patches of Workflows in this namespace hang.
    path: String,
    hangs: AtomicBool,
    hanging: AtomicUsize,
}

impl Webhook {
    /// Starts a proxy in which all patches of Workflows in this namespace hang.
    pub(crate) async fn start(env: &Simulated, namespace: &str) -> Self {
        let shared = Arc::new(Shared {
            client: Client::builder(TokioExecutor::new()).build_http(),
            api_server: env.sim.kube_config().cluster_url,
            path: format!("/namespaces/{namespace}/"),
            hangs: AtomicBool::new(true),
            hanging: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(handle).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, task }
    }

    /// Address for the server.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets whether patches hang from now on. Those that hang are never answered.
    pub(crate) fn hang(&self, hangs: bool) {
        self.shared.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Patches that hung so far.
    pub(crate) fn hanging(&self) -> usize {
        self.shared.hanging.load(Ordering::Relaxed)
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(State(shared): State<Arc<Shared>>, mut request: Request) -> Response {
    let hangs = shared.hangs.load(Ordering::Relaxed);
    if hangs && request.method() == Method::PATCH && request.uri().path().contains(&shared.path) {
        shared.hanging.fetch_add(1, Ordering::Relaxed);
        return std::future::pending().await;
    }
    let mut parts = shared.api_server.clone().into_parts();
    parts.path_and_query = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from_parts(parts).expect("a URI");
    match shared.client.request(request).await {
        Ok(response) => response.map(Body::new),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
