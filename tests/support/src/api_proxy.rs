//! A proxy of the API server that injects faults into some requests. It speaks plain HTTP and forwards everything else
//! with the rights of a cluster administrator.

use std::{
    future::pending,
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
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{Cluster, plain_kubeconfig};

/// Maximum size of a forwarded body in bytes, above that of any Workflow of these tests.
const MAX_BODY: usize = 4 << 20;

/// A fault of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiFault {
    /// The request is answered with this HTTP status and not forwarded. 429 comes with `Retry-After`.
    Rejected(u16),
    /// The request is answered with an HTML page and the status 404, as a load balancer without a backend does.
    ForeignNotFound,
    /// The request is forwarded after this time.
    Delayed(Duration),
    /// The request is neither forwarded nor answered.
    Unanswered,
    /// The request is forwarded and not answered.
    AppliedUnanswered,
}

/// The requests that a proxy injects its fault into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    /// Patches.
    Patches,
    /// Gets and lists.
    Reads,
    /// TokenReviews and SubjectAccessReviews.
    Reviews,
}

impl Requests {
    fn contain(self, request: &Request) -> bool {
        let path = request.uri().path();
        match self {
            Self::Patches => request.method() == Method::PATCH,
            Self::Reads => {
                request.method() == Method::GET && !request.uri().query().unwrap_or_default().contains("watch=")
            }
            Self::Reviews => path.ends_with("/tokenreviews") || path.ends_with("/subjectaccessreviews"),
        }
    }
}

/// A running proxy. Dropping it ends it.
pub struct ApiProxy {
    address: SocketAddr,
    folder: TempDir,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    cluster: kube::Client,
    requests: Requests,
    fault: Mutex<Option<ApiFault>>,
    /// Number of requests into which a fault was injected.
    injected: watch::Sender<usize>,
}

impl ApiProxy {
    /// Starts a proxy that injects this fault into every one of these requests.
    pub async fn start(cluster: &Cluster, requests: Requests, fault: Option<ApiFault>) -> Self {
        let shared = Arc::new(Shared {
            cluster: cluster.client().await,
            requests,
            fault: Mutex::new(fault),
            injected: watch::Sender::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().fallback(handle).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { address, folder: tempfile::tempdir().expect("a temporary folder"), shared, task }
    }

    /// Writes a kubeconfig with the address of this proxy.
    pub fn kubeconfig_file(&self) -> PathBuf {
        plain_kubeconfig(self.folder.path(), &format!("http://{}", self.address))
    }

    /// Injects this fault from now on, or none.
    pub fn set_fault(&self, fault: Option<ApiFault>) {
        *self.shared.fault.lock().expect("not poisoned") = fault;
    }

    /// Waits until the fault was injected into this number of requests.
    ///
    /// # Panics
    /// If it was not within the deadline.
    pub async fn injected(&self, count: usize, deadline: Duration) {
        let mut injected = self.shared.injected.subscribe();
        let enough = timeout(deadline, injected.wait_for(|injected| *injected >= count)).await;
        enough.unwrap_or_else(|_| panic!("fewer than {count} requests within {deadline:?}")).expect("it runs");
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let fault = *shared.fault.lock().expect("not poisoned");
    let Some(fault) = fault.filter(|_| shared.requests.contain(&request)) else {
        return forward(&shared.cluster, request).await;
    };
    let injected = || shared.injected.send_modify(|count| *count += 1);
    if fault == ApiFault::AppliedUnanswered {
        forward(&shared.cluster, request).await;
        injected();
        return pending().await;
    }
    injected();
    match fault {
        ApiFault::Rejected(code) => rejection(code),
        ApiFault::ForeignNotFound => {
            let page = Response::builder().status(StatusCode::NOT_FOUND).header(header::CONTENT_TYPE, "text/html");
            page.body(Body::from("<html><body>404 Not Found</body></html>")).expect("a response")
        }
        ApiFault::Delayed(delay) => {
            sleep(delay).await;
            forward(&shared.cluster, request).await
        }
        ApiFault::Unanswered | ApiFault::AppliedUnanswered => pending().await,
    }
}

async fn forward(cluster: &kube::Client, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.expect("a body within the limit");
    let mut forwarded =
        http::Request::builder().method(parts.method).uri(parts.uri.path_and_query().expect("a path").as_str());
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            forwarded = forwarded.header(name, value);
        }
    }
    match cluster.send(forwarded.body(body.into()).expect("a request")).await {
        Ok(response) => {
            let (mut parts, body) = response.into_parts();
            // This server chooses the transfer encoding of its own connection.
            parts.headers.remove(header::TRANSFER_ENCODING);
            Response::from_parts(parts, Body::new(body))
        }
        Err(error) => {
            let response = Response::builder().status(StatusCode::BAD_GATEWAY);
            response.body(Body::from(error.to_string())).expect("a response")
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
    response.body(Body::from(status.to_string())).expect("a response")
}
