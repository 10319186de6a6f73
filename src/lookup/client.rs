//! Calls to a source of models. Each has a deadline, a metric and a span, and its answer is metered ([`super::meter`])
//! or passed on piece by piece.

use std::{future::Future, marker::PhantomData, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{
    Code, Response, Status,
    client::Grpc,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstEncoder;
use tracing::{Instrument, Span, field::Empty, info_span};

use super::{
    error::{CallCode, CallError},
    meter::{Account, AnswerBudgets, MAX_ANSWER, Memory, Metered, Refusal},
    metrics::Metrics,
    pages::KnownSizes,
    require_grpc::RequireGrpc,
    streamed,
};
use crate::telemetry::{Limit, LimitHits, Traces, trace::TARGET};

/// The initial bytes of the buffers of a request and of its answer. Requests are shorter. An answer begins with its
/// length, to which its buffer grows. tonic's default is 8 KiB, for each of several calls of a thousand concurrent
/// lookups.
const BUFFER: usize = 256;

/// A client of a gRPC service. Cheap to clone; all clones share one connection and the same budgets.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Full name of the service.
    service: &'static str,
    grpc: Grpc<Metered<RequireGrpc<Channel>>>,
    channel: RequireGrpc<Channel>,
    call_timeout: Duration,
    server: Server,
    metrics: Metrics,
    pub(crate) hits: LimitHits,
    pub(crate) memory: Memory,
    pub(crate) page_sizes: KnownSizes,
}

/// The state that clients share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) memory: Memory,
    pub(crate) hits: LimitHits,
    pub(crate) metrics: Metrics,
}

/// The server's address in spans.
#[derive(Clone, Debug)]
struct Server {
    address: Arc<str>,
    port: u16,
}

impl Server {
    fn of(uri: &Uri) -> Self {
        let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let address = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        Self { address: address.into(), port: uri.port_u16().unwrap_or(default_port) }
    }
}

impl Client {
    /// A client of this service of the server at this endpoint, over this channel to it.
    pub(crate) fn new(
        service: &'static str,
        endpoint: &Endpoint,
        channel: Channel,
        call_timeout: Duration,
        shared: Shared,
    ) -> Self {
        let Shared { memory, hits, metrics } = shared;
        let budgets = AnswerBudgets::new(memory.clone(), hits.clone());
        let channel = RequireGrpc(channel);
        Self {
            service,
            grpc: Grpc::new(Metered::new(channel.clone(), budgets)).max_decoding_message_size(MAX_ANSWER),
            channel,
            call_timeout,
            server: Server::of(endpoint.uri()),
            metrics,
            hits,
            memory,
            page_sizes: KnownSizes::default(),
        }
    }

    /// The same client over a new channel.
    pub(crate) fn over(&self, channel: Channel) -> Self {
        let channel = RequireGrpc(channel);
        let budgets = AnswerBudgets::new(self.memory.clone(), self.hits.clone());
        let grpc = Grpc::new(Metered::new(channel.clone(), budgets)).max_decoding_message_size(MAX_ANSWER);
        Self { grpc, channel, ..self.clone() }
    }

    /// Makes a call for a run of this namespace, and passes the message of its answer to `read`.
    pub(crate) async fn call<R, T>(
        &self,
        namespace: &Arc<str>,
        method: &'static str,
        request: tonic::Request<R>,
        read: impl FnOnce(&[u8]) -> Result<T, CallError>,
    ) -> Result<T, CallError>
    where
        R: Message + 'static,
    {
        // Holds the bytes of the answer until it has been read.
        let account = Account::new(namespace.clone());
        // On the heap, as in `call_streamed`: otherwise the state of a lookup would contain that of each of its calls.
        let answer = Box::pin(self.unary(method, request, account.clone()));
        let call = async {
            match tokio::time::timeout(self.call_timeout, answer).await {
                Ok(Ok(response)) => read(&response.into_inner()),
                Ok(Err(status)) => Err(self.error(method, &status, &account)),
                Err(_) => Err(CallError::timeout(method, self.call_timeout)),
            }
        };
        self.observed(method, call).await
    }

    /// Makes a call whose answer may have up to `max` bytes. Its message is passed to `read` piece by piece and is
    /// never in memory as a whole.
    pub(crate) async fn call_streamed<R>(
        &self,
        method: &'static str,
        request: tonic::Request<R>,
        max: usize,
        read: impl FnMut(&[u8]) -> Result<(), CallError>,
    ) -> Result<(), CallError>
    where
        R: Message + 'static,
    {
        let answer = Box::pin(streamed::call(self.channel.clone(), self.path(method), request, max, read));
        let call = async {
            let answer = tokio::time::timeout(self.call_timeout, answer).await;
            let answer = answer.unwrap_or_else(|_| Err(CallError::timeout(method, self.call_timeout)));
            if answer.as_ref().is_err_and(|error| error.code == CallCode::TooLarge) {
                self.hits.hit(Limit::MetadataAnswer);
            }
            answer
        };
        self.observed(method, call).await
    }

    /// Counts and traces a call.
    async fn observed<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let span = self.span(method);
        let result = call.instrument(span.clone()).await;
        let code = result.as_ref().err().map_or(CallCode::Grpc(Code::Ok), |error| error.code);
        self.metrics.call_ended(method, code);
        span.record("rpc.status_code", code.status_code());
        if result.is_err() {
            span.record("error.type", code.label()).record("otel.status_code", "ERROR");
        }
        result
    }

    fn path(&self, method: &str) -> PathAndQuery {
        let path = PathAndQuery::from_maybe_shared(format!("/{}/{method}", self.service));
        path.expect("the names of methods are valid in paths")
    }

    fn unary<R>(
        &self,
        method: &'static str,
        mut request: tonic::Request<R>,
        account: Account,
    ) -> impl Future<Output = Result<Response<Bytes>, Status>> + use<R>
    where
        R: Message + 'static,
    {
        let mut grpc = self.grpc.clone();
        request.extensions_mut().insert(account);
        let path = self.path(method);
        async move {
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            grpc.unary(request, path, RawCodec(PhantomData)).await
        }
    }

    fn error(&self, method: &'static str, status: &Status, account: &Account) -> CallError {
        match account.refusal() {
            Some(Refusal::TooLarge { bytes }) => {
                self.hits.hit(Limit::MetadataAnswer);
                CallError::too_large(format!("{method}: the answer has {bytes} bytes, more than {MAX_ANSWER}"))
            }
            Some(Refusal::Exhausted) => {
                CallError::overloaded(format!("{method}: too many answers wait for the memory that they need"))
            }
            None => CallError::status(method, status),
        }
    }

    /// Returns the client span of a call, if the lookup is traced.
    fn span(&self, method: &'static str) -> Span {
        if !Traces::is_within() {
            return Span::none();
        }
        info_span!(
            target: TARGET,
            "call",
            otel.name = format!("{}/{method}", self.service),
            otel.kind = "client",
            rpc.system.name = "grpc",
            rpc.method = format!("{}/{method}", self.service),
            server.address = &*self.server.address,
            server.port = self.server.port,
            rpc.status_code = Empty,
            error.type = Empty,
            otel.status_code = Empty,
        )
    }
}

/// A codec that leaves answers as they are: the adapter reads them.
#[derive(Debug)]
struct RawCodec<R>(PhantomData<R>);

impl<R: Message + 'static> Codec for RawCodec<R> {
    type Encode = R;
    type Decode = Bytes;
    type Encoder = ProstEncoder<R>;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, BUFFER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        RawDecoder
    }
}

#[derive(Debug)]
struct RawDecoder;

impl Decoder for RawDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        // Without a copy.
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, BUFFER)
    }
}
