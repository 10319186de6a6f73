//! The service, its checks and its faults.

use std::{
    convert::Infallible,
    future::pending,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use prost::Message;
use tonic::{Code, Request, Response, Status, body::Body, metadata::MetadataMap, server::NamedService};

use super::{KfpCall, KfpFault, Shared, State, Users};
use crate::kfp_api::{
    GetRunRequest, ListTasksRequest, ListTasksResponse, Run,
    get_run_request::ViewMode,
    run_service_server::{RunService, RunServiceServer},
};

const LIST_TASKS: &str = "ListTasks";
const GET_RUN: &str = "GetRun";
/// Tasks of a page without a size, and of the largest page.
const DEFAULT_PAGE: usize = 20;
const MAX_PAGE: usize = 200;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Service(pub(super) Arc<Shared>);

impl Service {
    async fn answer<T: Message>(
        &self,
        method: &'static str,
        page_size: i32,
        metadata: &MetadataMap,
        answer: impl FnOnce(&mut State) -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        let authorization = metadata.get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let fault = self.0.lock().faults.get(method).copied();
        let result = match fault {
            Some(KfpFault::Status(code)) => Err(Status::new(code, format!("injected {code:?}"))),
            _ => answer(&mut self.0.lock()),
        };
        let bytes = result.as_ref().map_or(0, Message::encoded_len);
        self.0.calls.send_modify(|calls| calls.push(KfpCall { method, page_size, authorization, bytes }));
        match fault {
            Some(KfpFault::Hang) => pending().await,
            Some(KfpFault::Delay(time)) => tokio::time::sleep(time).await,
            _ => {}
        }
        result.map(Response::new)
    }
}

#[tonic::async_trait]
impl RunService for Service {
    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let page_size = request.page_size;
        self.answer(LIST_TASKS, page_size, &metadata, |state| {
            if !state.has_tasks {
                let service = "kubeflow.pipelines.backend.api.v2beta1.RunService";
                return Err(Status::unimplemented(format!("unknown method {LIST_TASKS} for service {service}")));
            }
            match state.review(&request.run_id, &metadata) {
                // Without users, the run is not looked up.
                Err(status) if status.code() == Code::NotFound && matches!(state.users, Users::One) => {
                    return Ok(ListTasksResponse::default());
                }
                reviewed => reviewed?,
            }
            state.page(&request)
        })
        .await
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Result<Response<Run>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.answer(GET_RUN, 0, &metadata, |state| {
            state.review(&request.run_id, &metadata)?;
            let stored = &state.runs[&request.run_id];
            let mut run = stored.run.clone();
            // An older server accepts the unknown field.
            if request.view() == ViewMode::Full && state.has_tasks {
                run.tasks = stored.tasks.clone();
            }
            Ok(run)
        })
        .await
    }
}

impl State {
    /// Checks a request for a run. The run is looked up before the request is authenticated.
    fn review(&self, run_id: &str, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(run) = self.runs.get(run_id) else {
            return Err(Status::not_found(format!("Run {run_id} not found")));
        };
        let Users::Many(users) = &self.users else { return Ok(()) };
        if metadata.contains_key("kubeflow-userid") {
            // Istio's policy refuses the header from others than Kubeflow's gateway.
            return Err(Status::permission_denied("RBAC: access denied"));
        }
        let token = metadata.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let user = token.and_then(|token| users.iter().find(|user| user.token == token));
        let user = user.ok_or_else(|| Status::unauthenticated("Failed to authorize with API: Unauthenticated"))?;
        if user.namespaces.contains(&run.namespace) {
            return Ok(());
        }
        Err(Status::permission_denied(format!("user is not authorized to get runs in {}", run.namespace)))
    }

    fn page(&mut self, request: &ListTasksRequest) -> Result<ListTasksResponse, Status> {
        // A token has the position, the order and the filter of its listing.
        let listing = format!("{}|{}", request.order_by, request.filter);
        let first = match &*request.page_token {
            "" => 0,
            token => {
                if let Some(KfpFault::RestartPaging(left)) = self.faults.get_mut(LIST_TASKS)
                    && *left > 0
                {
                    *left -= 1;
                    return Err(Status::failed_precondition("PAGINATION_RESTART_REQUIRED"));
                }
                let (position, of) = token.split_once('|').ok_or_else(|| Status::invalid_argument("page_token"))?;
                if of != listing {
                    return Err(Status::invalid_argument("order_by and filter differ from those of the page token"));
                }
                position.parse().map_err(|_| Status::invalid_argument("page_token"))?
            }
        };
        let size = match usize::try_from(request.page_size) {
            Err(_) => return Err(Status::invalid_argument("page_size is negative")),
            Ok(0) => DEFAULT_PAGE,
            Ok(size) => size.min(MAX_PAGE),
        };
        let mut tasks = self.runs.get(&request.run_id).map_or_else(Vec::new, |run| run.tasks.clone());
        tasks.sort_by(|a, b| {
            let time = |task: &crate::kfp_api::PipelineTask| task.create_time.map(|time| time.seconds);
            (time(a), &a.task_id).cmp(&(time(b), &b.task_id))
        });
        let total = tasks.len();
        let page: Vec<_> = tasks.into_iter().skip(first).take(size).collect();
        let end = first + page.len();
        Ok(ListTasksResponse {
            tasks: page,
            next_page_token: if end < total { format!("{end}|{listing}") } else { String::new() },
            total_size: i32::try_from(total).expect("a run of a test"),
        })
    }
}

/// The service behind a proxy that may answer in its place.
#[derive(Clone, Debug)]
pub(super) struct Faulty {
    pub(super) inner: RunServiceServer<Service>,
    pub(super) shared: Arc<Shared>,
}

impl NamedService for Faulty {
    const NAME: &'static str = <RunServiceServer<Service> as NamedService>::NAME;
}

impl tower::Service<http::Request<Body>> for Faulty {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(KfpFault::Http(status)) = self.shared.lock().faults.get(&*method) {
            let response = http::Response::builder().status(*status).header("content-type", "text/html");
            let response = response.body(Body::empty()).expect("a response");
            return async { Ok(response) }.boxed();
        }
        self.inner.call(request).boxed()
    }
}
