//! Calls to ML Metadata. Each has a deadline and a metric, each listing is read to its last page, and each response is
//! converted to plain data or to an error.

use std::{collections::HashSet, future::Future, time::Duration};

use tonic::{
    Code, Response, Status,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use tracing::{Instrument, Span, field::Empty, info_span};

use super::{
    Error, Options, convert,
    error::{CallCode, CallError},
    metrics::{LookupMetrics, Method},
    proto::{self, metadata_store_service_client::MetadataStoreServiceClient},
    require_grpc::RequireGrpc,
    rules::{Context, ContextArtifact, Event, Execution, RunFlavor},
};
use crate::telemetry::{Traces, trace::TARGET};

/// Full name of the service.
const SERVICE: &str = "ml_metadata.MetadataStoreService";

/// Rows of a page, the maximum of the server.
const PAGE_SIZE: i32 = 100;
/// Maximum number of pages of a listing. A run has a few artifacts; a listing of 100,000 is an error of the store.
const MAX_PAGES: usize = 1000;
/// Artifacts in one request for events, the only listing without pages.
const ARTIFACTS_PER_REQUEST: usize = 100;
/// Maximum size of a response in bytes. Pages are small, but a property may contain a whole document.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;
/// Silence of the connection, while a call is in flight, after which HTTP/2 sends a PING. ML Metadata's gRPC library
/// closes connections with PINGs while idle, or with many PINGs between two responses.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Time for the PING's acknowledgement. Shorter than a call's deadline, so that a dead connection is replaced first.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of ML Metadata. Cheap to clone; all clones share one connection.
#[derive(Clone, Debug)]
pub(super) struct Client {
    service: MetadataStoreServiceClient<RequireGrpc<Channel>>,
    call_timeout: Duration,
    metrics: LookupMetrics,
}

/// Parses a URL that consists of scheme, host and port.
pub(super) fn uri(url: &str) -> Result<http::Uri, Error> {
    let invalid = |reason| Error::Url { reason };
    let uri: http::Uri = url.parse().map_err(|_| invalid("it does not parse"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid("it does not begin with http:// or https://"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(invalid("it contains a user or a password, which ML Metadata does not use"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(invalid("it has no host"));
    }
    if uri.path_and_query().is_some_and(|path| path != "/") {
        return Err(invalid("it has a path or a query; only scheme, host and port are allowed"));
    }
    Ok(uri)
}

/// Returns the endpoint of the server under this URL, without connecting.
pub(super) fn endpoint(url: &str, options: &Options) -> Result<Endpoint, Error> {
    let uri = uri(url)?;
    let tls = uri.scheme_str() == Some("https");
    let endpoint = Endpoint::from(uri)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE))
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(false);
    Ok(if tls { endpoint.tls_config(ClientTlsConfig::new().with_native_roots())? } else { endpoint })
}

impl Client {
    pub(super) fn new(channel: Channel, options: &Options, metrics: LookupMetrics) -> Self {
        let service = MetadataStoreServiceClient::new(RequireGrpc(channel)).max_decoding_message_size(MAX_RESPONSE);
        Self { service, call_timeout: options.call_timeout, metrics }
    }

    /// Returns the run's context of this flavor and name, if it exists.
    pub(super) async fn run_context(&self, flavor: RunFlavor, name: &str) -> Result<Option<Context>, CallError> {
        let request = proto::GetContextByTypeAndNameRequest {
            type_name: Some(flavor.context_type().to_owned()),
            context_name: Some(name.to_owned()),
        };
        let mut service = self.service.clone();
        let response = service.get_context_by_type_and_name(request);
        self.call(Method::GetContextByTypeAndName, response, |response| {
            let Some(context) = response.context.map(convert::context).transpose()? else { return Ok(None) };
            if context.name == name {
                Ok(Some(context))
            } else {
                Err(CallError::malformed("the response contains a context of another name"))
            }
        })
        .await
        .or_else(not_found_as_none)
    }

    /// Passes every artifact that is attributed to the context.
    pub(super) async fn artifacts(&self, context: i64, mut each: impl FnMut(ContextArtifact)) -> Result<(), CallError> {
        let mut pages = Pages::of(Method::GetArtifactsByContext);
        while let Some(options) = pages.next()? {
            let request = proto::GetArtifactsByContextRequest { context_id: Some(context), options: Some(options) };
            let mut service = self.service.clone();
            let response = service.get_artifacts_by_context(request);
            let convert = |page: proto::GetArtifactsByContextResponse| {
                Ok((all(page.artifacts, convert::artifact)?, page.next_page_token))
            };
            let (artifacts, token) = self.call(pages.method, response, convert).await?;
            artifacts.into_iter().for_each(&mut each);
            pages.turn(token);
        }
        Ok(())
    }

    /// Passes every execution that is associated with the context.
    pub(super) async fn executions(&self, context: i64, mut each: impl FnMut(Execution)) -> Result<(), CallError> {
        let mut pages = Pages::of(Method::GetExecutionsByContext);
        while let Some(options) = pages.next()? {
            let request = proto::GetExecutionsByContextRequest { context_id: Some(context), options: Some(options) };
            let mut service = self.service.clone();
            let response = service.get_executions_by_context(request);
            let convert = |page: proto::GetExecutionsByContextResponse| {
                Ok((all(page.executions, convert::execution)?, page.next_page_token))
            };
            let (executions, token) = self.call(pages.method, response, convert).await?;
            executions.into_iter().for_each(&mut each);
            pages.turn(token);
        }
        Ok(())
    }

    /// Returns every event of these artifacts, in all runs.
    pub(super) async fn events(&self, artifacts: &[i64]) -> Result<Vec<Event>, CallError> {
        let mut events = Vec::new();
        for artifact_ids in artifacts.chunks(ARTIFACTS_PER_REQUEST) {
            let request = proto::GetEventsByArtifactIDsRequest { artifact_ids: artifact_ids.to_vec() };
            let mut service = self.service.clone();
            let response = service.get_events_by_artifact_i_ds(request);
            let convert = |response: proto::GetEventsByArtifactIDsResponse| all(response.events, convert::event);
            events.extend(self.call(Method::GetEventsByArtifactIDs, response, convert).await?);
        }
        Ok(events)
    }

    /// Returns the parents of a context.
    pub(super) async fn parents(&self, context: i64) -> Result<Vec<Context>, CallError> {
        let request = proto::GetParentContextsByContextRequest { context_id: Some(context) };
        let mut service = self.service.clone();
        let response = service.get_parent_contexts_by_context(request);
        self.call(Method::GetParentContextsByContext, response, |response| all(response.contexts, convert::context))
            .await
    }

    /// Returns the contexts of an execution.
    pub(super) async fn contexts_of(&self, execution: i64) -> Result<Vec<Context>, CallError> {
        let request = proto::GetContextsByExecutionRequest { execution_id: Some(execution) };
        let mut service = self.service.clone();
        let response = service.get_contexts_by_execution(request);
        self.call(Method::GetContextsByExecution, response, |response| all(response.contexts, convert::context)).await
    }

    /// Returns the id of an artifact type, if the store has the type.
    pub(super) async fn artifact_type(&self, name: &str) -> Result<Option<i64>, CallError> {
        let request = proto::GetArtifactTypeRequest { type_name: Some(name.to_owned()) };
        let mut service = self.service.clone();
        let response = service.get_artifact_type(request);
        self.call(Method::GetArtifactType, response, |response| {
            response.artifact_type.map(|known| convert::id(known.id, "a type without an id")).transpose()
        })
        .await
        .or_else(not_found_as_none)
    }

    /// Runs a call with its deadline, its metric, its span, and the conversion of its response.
    async fn call<T, U>(
        &self,
        method: Method,
        response: impl Future<Output = Result<Response<T>, Status>>,
        convert: impl FnOnce(T) -> Result<U, CallError>,
    ) -> Result<U, CallError> {
        let span = call_span(method);
        let result = match tokio::time::timeout(self.call_timeout, response).instrument(span.clone()).await {
            Ok(Ok(response)) => convert(response.into_inner()),
            Ok(Err(status)) => Err(CallError::status(method, &status)),
            Err(_) => Err(CallError::timeout(method, self.call_timeout)),
        };
        let code = result.as_ref().err().map_or(CallCode::Grpc(Code::Ok), |error| error.code);
        self.metrics.call_ended(method, code);
        span.record("rpc.status_code", code.label());
        if result.is_err() {
            span.record("error.type", code.label()).record("otel.status_code", "ERROR");
        }
        result
    }
}

/// Returns the client span of a call, if the lookup is traced.
fn call_span(method: Method) -> Span {
    if !Traces::is_within() {
        return Span::none();
    }
    info_span!(
        target: TARGET,
        "call",
        otel.name = format!("{SERVICE}/{method}"),
        otel.kind = "client",
        rpc.system.name = "grpc",
        rpc.method = format!("{SERVICE}/{method}"),
        rpc.status_code = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// Reads NOT_FOUND as "absent" in requests by name: servers return it while the name's type has not been used yet.
fn not_found_as_none<T>(error: CallError) -> Result<Option<T>, CallError> {
    if error.code == CallCode::Grpc(Code::NotFound) { Ok(None) } else { Err(error) }
}

fn all<T, U>(wire: Vec<T>, convert: fn(T) -> Result<U, CallError>) -> Result<Vec<U>, CallError> {
    wire.into_iter().map(convert).collect()
}

/// The pages of a listing, bounded in number.
#[derive(Debug)]
struct Pages {
    method: Method,
    /// Tokens of the pages after the first that have been requested.
    requested: HashSet<String>,
    next: Option<String>,
    finished: bool,
}

impl Pages {
    fn of(method: Method) -> Self {
        Self { method, requested: HashSet::new(), next: None, finished: false }
    }

    /// Returns the options of the next request, or `None` after the last page.
    fn next(&mut self) -> Result<Option<proto::ListOperationOptions>, CallError> {
        if self.finished {
            return Ok(None);
        }
        let method = self.method;
        if let Some(token) = &self.next
            && !self.requested.insert(token.clone())
        {
            return Err(CallError::malformed(format!(
                "{method}: the token of a page repeats, so the listing is endless"
            )));
        }
        if self.requested.len() >= MAX_PAGES {
            return Err(CallError::malformed(format!("{method}: more than {MAX_PAGES} pages")));
        }
        Ok(Some(proto::ListOperationOptions { max_result_size: Some(PAGE_SIZE), next_page_token: self.next.clone() }))
    }

    /// Takes the token of the next page from a response.
    fn turn(&mut self, token: Option<String>) {
        self.next = token.filter(|token| !token.is_empty());
        self.finished = self.next.is_none();
    }
}
