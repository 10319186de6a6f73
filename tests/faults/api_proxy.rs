//! A proxy of the API server that injects faults into patches, or delays lists. It speaks plain HTTP and forwards everything else with
//! the rights of a cluster administrator.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use http::{Method, StatusCode, header};
use serde_json::json;
use tempfile::TempDir;
use test_support::{Cluster, plain_kubeconfig};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Maximum size of a forwarded body in bytes, above that of any Workflow of these tests.
const MAX_BODY: usize = 4 << 20;

/// A fault of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchFault {
    /// The patch is answered with this HTTP status and not forwarded. 429 comes with `Retry-After`.
    Rejected(u16),
    /// The patch is answered with an HTML page and the status 404, as a load balancer without a backend does.
    ForeignNotFound,
    /// The patch is neither forwarded nor answered.
    Unanswered,
    /// The patch is forwarded and not answered.
    AppliedUnanswered,
}

/// A running proxy. Dropping it ends it.
pub(crate) struct ApiProxy {
    address: SocketAddr,
    folder: TempDir,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    cluster: kube::Client,
    fault: Mutex<Option<PatchFault>>,
    /// Time until the answer to a list begins.
    list_delay: Duration,
    /// Number of patches into which a fault was injected.
    injected: watch::Sender<usize>,
}

impl ApiProxy {
    /// Starts a proxy that injects this fault into every patch.
    pub(crate) async fn start(cluster: &Cluster, fault: PatchFault) -> Self {
        Self::start_with(cluster, Some(fault), Duration::ZERO).await
    }

    /// Starts a proxy that begins to answer each list after this time.
    pub(crate) async fn with_slow_lists(cluster: &Cluster, list_delay: Duration) -> Self {
        Self::start_with(cluster, None, list_delay).await
    }

    async fn start_with(cluster: &Cluster, fault: Option<PatchFault>, list_delay: Duration) -> Self {
        let shared = Arc::new(Shared {
            cluster: cluster.client().await,
            fault: Mutex::new(fault),
            list_delay,
            injected: watch::Sender::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(handle).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, folder: tempfile::tempdir().unwrap(), shared, task }
    }

    /// Writes a kubeconfig with the address of this proxy.
    pub(crate) fn kubeconfig_file(&self) -> PathBuf {
        plain_kubeconfig(self.folder.path(), &format!("http://{}", self.address))
    }

    /// Forwards patches from now on.
    pub(crate) fn clear_fault(&self) {
        *self.shared.fault.lock().unwrap() = None;
    }

    /// Waits until the fault was injected into this number of patches.
    pub(crate) async fn injected(&self, patches: usize, deadline: Duration) {
        let mut injected = self.shared.injected.subscribe();
        let enough = timeout(deadline, injected.wait_for(|count| *count >= patches)).await;
        enough.unwrap_or_else(|_| panic!("fewer than {patches} patches within {deadline:?}")).unwrap();
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    if request.method() == Method::GET && !query.contains("watch=") {
        sleep(shared.list_delay).await;
    }
    let fault = *shared.fault.lock().unwrap();
    let Some(fault) = fault.filter(|_| request.method() == Method::PATCH) else {
        return forward(&shared.cluster, request).await;
    };
    if fault == PatchFault::AppliedUnanswered {
        forward(&shared.cluster, request).await;
    }
    shared.injected.send_modify(|count| *count += 1);
    match fault {
        PatchFault::Rejected(code) => rejection(code),
        PatchFault::ForeignNotFound => {
            let page = Response::builder().status(StatusCode::NOT_FOUND).header(header::CONTENT_TYPE, "text/html");
            page.body(Body::from("<html><body>404 Not Found</body></html>")).unwrap()
        }
        PatchFault::Unanswered | PatchFault::AppliedUnanswered => std::future::pending().await,
    }
}

async fn forward(cluster: &kube::Client, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap();
    let mut forwarded = http::Request::builder().method(parts.method).uri(parts.uri.path_and_query().unwrap().as_str());
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            forwarded = forwarded.header(name, value);
        }
    }
    match cluster.send(forwarded.body(body.into()).unwrap()).await {
        Ok(response) => {
            let (mut parts, body) = response.into_parts();
            // This server chooses the transfer encoding of its own connection.
            parts.headers.remove(header::TRANSFER_ENCODING);
            Response::from_parts(parts, Body::new(body))
        }
        Err(error) => {
            let response = Response::builder().status(StatusCode::BAD_GATEWAY);
            response.body(Body::from(error.to_string())).unwrap()
        }
    }
}

/// Returns a `Status` object as the API server writes it.
fn rejection(code: u16) -> Response {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": format!("rejected with {code} by a test"), "reason": "Test", "code": code,
    });
    let mut response = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
    if code == 429 {
        response = response.header(header::RETRY_AFTER, "1");
    }
    response.body(Body::from(status.to_string())).unwrap()
}
