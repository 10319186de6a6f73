//! The calls to ML Metadata that a lookup is made of. Each has a deadline and is counted, each listing is read to its
//! last page, and each answer is plain data or an error.

use std::{collections::HashSet, future::Future, time::Duration};

use tonic::{
    Code, Response, Status,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use tracing::{Instrument, Span, field::Empty, info_span};

use super::{
    Error, Options, convert,
    error::{label, malformed, name, refused, timeout},
    only_grpc::OnlyGrpc,
    proto::{self, metadata_store_service_client::MetadataStoreServiceClient},
    rules::{Attributed, Context, Event, Execution, Form},
};
use crate::{
    delivery::LookupError,
    telemetry::{Traces, metrics::LookupMetrics, trace::TARGET},
};

/// The service's full name.
const SERVICE: &str = "ml_metadata.MetadataStoreService";

/// How many rows a page has; no server gives more.
const PAGE: i32 = 100;
/// How many pages a listing may have. A run has a few artifacts; a hundred thousand are a store gone wrong.
const MAX_PAGES: usize = 1000;
/// How many artifacts are asked for at once in the one listing that has no pages.
const EVENTS_OF: usize = 100;
/// The largest answer taken. Pages are small, but a property may hold a whole document.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// How long the connection may be silent while a call is under way before it is asked for a sign of life. ML
/// Metadata's gRPC library takes pings on an idle connection, or many without an answer in between, for an attack.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long the sign of life may take. A dead connection is given up before the call on it is.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of ML Metadata. Cheap to clone; all clones share one connection.
#[derive(Clone, Debug)]
pub(super) struct Client {
    service: MetadataStoreServiceClient<OnlyGrpc<Channel>>,
    call_timeout: Duration,
    metrics: LookupMetrics,
}

/// A URL that names a server and nothing else.
pub(super) fn uri(url: &str) -> Result<http::Uri, Error> {
    let invalid = |why| Error::Url { why };
    let uri: http::Uri = url.parse().map_err(|_| invalid("it does not parse"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid("it does not begin with http:// or https://"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(invalid("it holds a user or a password, which ML Metadata has no use for"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(invalid("it names no host"));
    }
    if uri.path_and_query().is_some_and(|path| path != "/") {
        return Err(invalid("it has a path or a query; only scheme, host and port are wanted"));
    }
    Ok(uri)
}

/// How to reach the server under this URL. Connects to nothing.
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
        let service = MetadataStoreServiceClient::new(OnlyGrpc(channel)).max_decoding_message_size(MAX_ANSWER);
        Self { service, call_timeout: options.call_timeout, metrics }
    }

    /// The context of this form and name, where there is one.
    pub(super) async fn run_context(&self, form: Form, name: &str) -> Result<Option<Context>, LookupError> {
        let request = proto::GetContextByTypeAndNameRequest {
            type_name: Some(form.context_type().to_owned()),
            context_name: Some(name.to_owned()),
        };
        let mut service = self.service.clone();
        let answer = service.get_context_by_type_and_name(request);
        self.call("GetContextByTypeAndName", answer, |answer| {
            let Some(context) = answer.context.map(convert::context).transpose()? else { return Ok(None) };
            if context.name == name { Ok(Some(context)) } else { Err(malformed("a context of another name came")) }
        })
        .await
        .or_else(absent)
    }

    /// Every artifact that is attributed to the context.
    pub(super) async fn artifacts(&self, context: i64, mut each: impl FnMut(Attributed)) -> Result<(), LookupError> {
        const METHOD: &str = "GetArtifactsByContext";
        let mut pages = Pages::default();
        while let Some(options) = pages.next(METHOD)? {
            let request = proto::GetArtifactsByContextRequest { context_id: Some(context), options: Some(options) };
            let mut service = self.service.clone();
            let (artifacts, token) = self
                .call(METHOD, service.get_artifacts_by_context(request), |answer| {
                    Ok((all(answer.artifacts, convert::artifact)?, answer.next_page_token))
                })
                .await?;
            artifacts.into_iter().for_each(&mut each);
            pages.turn(token);
        }
        Ok(())
    }

    /// Every execution that is associated with the context.
    pub(super) async fn executions(&self, context: i64, mut each: impl FnMut(Execution)) -> Result<(), LookupError> {
        const METHOD: &str = "GetExecutionsByContext";
        let mut pages = Pages::default();
        while let Some(options) = pages.next(METHOD)? {
            let request = proto::GetExecutionsByContextRequest { context_id: Some(context), options: Some(options) };
            let mut service = self.service.clone();
            let (executions, token) = self
                .call(METHOD, service.get_executions_by_context(request), |answer| {
                    Ok((all(answer.executions, convert::execution)?, answer.next_page_token))
                })
                .await?;
            executions.into_iter().for_each(&mut each);
            pages.turn(token);
        }
        Ok(())
    }

    /// Every event of these artifacts, in whatever run.
    pub(super) async fn events(&self, artifacts: &[i64]) -> Result<Vec<Event>, LookupError> {
        let mut events = Vec::new();
        for artifact_ids in artifacts.chunks(EVENTS_OF) {
            let request = proto::GetEventsByArtifactIDsRequest { artifact_ids: artifact_ids.to_vec() };
            let mut service = self.service.clone();
            let answer = service.get_events_by_artifact_i_ds(request);
            events.extend(self.call("GetEventsByArtifactIDs", answer, |a| all(a.events, convert::event)).await?);
        }
        Ok(events)
    }

    /// The contexts above this one.
    pub(super) async fn parents(&self, context: i64) -> Result<Vec<Context>, LookupError> {
        let request = proto::GetParentContextsByContextRequest { context_id: Some(context) };
        let mut service = self.service.clone();
        let answer = service.get_parent_contexts_by_context(request);
        self.call("GetParentContextsByContext", answer, |answer| all(answer.contexts, convert::context)).await
    }

    /// The contexts of an execution.
    pub(super) async fn contexts_of(&self, execution: i64) -> Result<Vec<Context>, LookupError> {
        let request = proto::GetContextsByExecutionRequest { execution_id: Some(execution) };
        let mut service = self.service.clone();
        let answer = service.get_contexts_by_execution(request);
        self.call("GetContextsByExecution", answer, |answer| all(answer.contexts, convert::context)).await
    }

    /// The id of a type of artifacts, where the store knows the type.
    pub(super) async fn artifact_type(&self, name: &str) -> Result<Option<i64>, LookupError> {
        let request = proto::GetArtifactTypeRequest { type_name: Some(name.to_owned()) };
        let mut service = self.service.clone();
        let answer = service.get_artifact_type(request);
        self.call("GetArtifactType", answer, |answer| {
            answer.artifact_type.map(|known| convert::present(known.id, "a type without an id")).transpose()
        })
        .await
        .or_else(absent)
    }

    /// One call: its deadline, its metric, and the conversion of its answer.
    async fn call<T, U>(
        &self,
        method: &'static str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
        convert: impl FnOnce(T) -> Result<U, LookupError>,
    ) -> Result<U, LookupError> {
        let span = call_span(method);
        let result = match tokio::time::timeout(self.call_timeout, answer).instrument(span.clone()).await {
            Ok(Ok(response)) => convert(response.into_inner()),
            Ok(Err(status)) => Err(refused(method, &status)),
            Err(_) => Err(timeout(method, self.call_timeout)),
        };
        let code = result.as_ref().err().map_or(name(Code::Ok), label);
        self.metrics.called(method, code);
        span.record("rpc.status_code", code);
        if result.is_err() {
            span.record("error.type", code).record("otel.status_code", "ERROR");
        }
        result
    }
}

/// The client's span of a call, where the lookup is traced.
fn call_span(method: &'static str) -> Span {
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

/// NOT_FOUND is an answer where a thing is asked for by its name: so servers say that nobody has used its type yet.
fn absent<T>(error: LookupError) -> Result<Option<T>, LookupError> {
    match error {
        LookupError::Failed { code, .. } if code == name(Code::NotFound) => Ok(None),
        error => Err(error),
    }
}

fn all<T, U>(wire: Vec<T>, convert: fn(T) -> Result<U, LookupError>) -> Result<Vec<U>, LookupError> {
    wire.into_iter().map(convert).collect()
}

/// Goes through the pages of a listing, and not for ever.
#[derive(Debug, Default)]
struct Pages {
    /// The tokens of the pages after the first.
    asked: HashSet<String>,
    next: Option<String>,
    finished: bool,
}

impl Pages {
    /// What to ask for next, unless the last page has been read.
    fn next(&mut self, method: &str) -> Result<Option<proto::ListOperationOptions>, LookupError> {
        if self.finished {
            return Ok(None);
        }
        if let Some(token) = &self.next
            && !self.asked.insert(token.clone())
        {
            return Err(malformed(format!("{method}: the same page came twice, so there is no last one")));
        }
        if self.asked.len() >= MAX_PAGES {
            return Err(malformed(format!("{method}: still no last page after {MAX_PAGES}")));
        }
        Ok(Some(proto::ListOperationOptions { max_result_size: Some(PAGE), next_page_token: self.next.clone() }))
    }

    /// A page was read; it named the next one or none.
    fn turn(&mut self, token: Option<String>) {
        self.next = token.filter(|token| !token.is_empty());
        self.finished = self.next.is_none();
    }
}
