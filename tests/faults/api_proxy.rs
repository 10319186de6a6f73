//! Stands before the real API server, speaks plain HTTP, and passes everything on as cluster administrator: but patches it
//! answers as it is told.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

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
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};

/// More than a Workflow of these tests has.
const BODY: usize = 4 << 20;

/// What becomes of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patches {
    /// It goes through.
    Pass,
    /// It is answered so, and goes no further. With 429 the answer says after how many seconds to come again.
    Refused(u16),
    /// It goes no further, and nobody answers.
    Unanswered,
    /// It goes through, and nobody answers.
    AppliedUnanswered,
}

/// See the module. Ends when it is dropped.
pub(crate) struct ApiProxy {
    address: SocketAddr,
    folder: TempDir,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    cluster: kube::Client,
    patches: watch::Sender<Patches>,
    /// How many patches have met the fate that was chosen, those that pass not counted.
    struck: watch::Sender<usize>,
}

impl ApiProxy {
    pub(crate) async fn before(cluster: &Cluster) -> Self {
        let shared = Arc::new(Shared {
            cluster: cluster.client().await,
            patches: watch::Sender::new(Patches::Pass),
            struck: watch::Sender::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(handle).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, folder: tempfile::tempdir().unwrap(), shared, task }
    }

    /// A kubeconfig by which a program comes through here.
    pub(crate) fn kubeconfig_file(&self) -> PathBuf {
        plain_kubeconfig(self.folder.path(), &format!("http://{}", self.address))
    }

    /// From now on patches fare so.
    pub(crate) fn let_patches(&self, fate: Patches) {
        self.shared.patches.send_replace(fate);
    }

    /// Waits until so many patches have been refused or left unanswered.
    pub(crate) async fn struck(&self, patches: usize, deadline: Duration) {
        let mut struck = self.shared.struck.subscribe();
        let enough = timeout(deadline, struck.wait_for(|count| *count >= patches)).await;
        enough.unwrap_or_else(|_| panic!("{patches} patches should have come")).unwrap();
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let patches = *shared.patches.borrow();
    if request.method() != Method::PATCH || patches == Patches::Pass {
        return forward(&shared.cluster, request).await;
    }
    let answer = match patches {
        Patches::Refused(code) => Some(refusal(code)),
        Patches::AppliedUnanswered => {
            forward(&shared.cluster, request).await;
            None
        }
        Patches::Pass | Patches::Unanswered => None,
    };
    shared.struck.send_modify(|count| *count += 1);
    match answer {
        Some(answer) => answer,
        None => std::future::pending().await,
    }
}

async fn forward(cluster: &kube::Client, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY).await.unwrap();
    let mut onward = http::Request::builder().method(parts.method).uri(parts.uri.path_and_query().unwrap().as_str());
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            onward = onward.header(name, value);
        }
    }
    match cluster.send(onward.body(body.into()).unwrap()).await {
        Ok(answer) => {
            let (mut parts, body) = answer.into_parts();
            // How the body is cut into pieces is our own affair.
            parts.headers.remove(header::TRANSFER_ENCODING);
            Response::from_parts(parts, Body::new(body))
        }
        Err(error) => {
            let answer = Response::builder().status(StatusCode::BAD_GATEWAY);
            answer.body(Body::from(error.to_string())).unwrap()
        }
    }
}

/// As the API server's own code refuses.
fn refusal(code: u16) -> Response {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": format!("refused with {code} by a test"), "reason": "Test", "code": code,
    });
    let mut answer = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
    if code == 429 {
        answer = answer.header(header::RETRY_AFTER, "1");
    }
    answer.body(Body::from(status.to_string())).unwrap()
}
