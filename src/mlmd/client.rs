//! Calls to ML Metadata. Each has a deadline, a metric and a span, and its answer is metered ([`super::meter`]).

use std::{future::Future, marker::PhantomData, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{
    Code, Response, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder},
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstEncoder;
use tracing::{Instrument, Span, field::Empty, info_span};

use super::{
    Options,
    budget::Budget,
    error::{CallCode, CallError},
    meter::{Account, AnswerBudgets, MAX_ANSWER, Metered, Refusal},
    metrics::{LookupMetrics, Method},
    pages::KnownSizes,
    reader::KEPT,
    require_grpc::RequireGrpc,
};
use crate::telemetry::{Limit, LimitHits, Traces, trace::TARGET};

/// Full name of the service.
const SERVICE: &str = "ml_metadata.MetadataStoreService";

/// A client of ML Metadata. Cheap to clone; all clones share one connection and the same budgets.
#[derive(Clone, Debug)]
pub(super) struct Client {
    grpc: Grpc<Metered<RequireGrpc<Channel>>>,
    call_timeout: Duration,
    server: Server,
    metrics: LookupMetrics,
    pub(super) hits: LimitHits,
    /// The data that lookups keep until they end.
    pub(super) kept: Budget,
    pub(super) page_sizes: KnownSizes,
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
    /// A client of the server at this endpoint, over this channel to it.
    pub(super) fn new(endpoint: &Endpoint, channel: Channel, options: &Options, metrics: LookupMetrics) -> Self {
        let hits = options.limit_hits.clone();
        let transport = Metered::new(RequireGrpc(channel), AnswerBudgets::new(hits.clone()));
        Self {
            grpc: Grpc::new(transport).max_decoding_message_size(MAX_ANSWER),
            call_timeout: options.call_timeout,
            server: Server::of(endpoint.uri()),
            metrics,
            hits,
            kept: Budget::new(KEPT),
            page_sizes: KnownSizes::default(),
        }
    }

    /// Makes a call for a run of this namespace, and passes the message of its answer to `read`.
    pub(super) async fn call<R, T>(
        &self,
        namespace: &Arc<str>,
        method: Method,
        request: R,
        read: impl FnOnce(&[u8]) -> Result<T, CallError>,
    ) -> Result<T, CallError>
    where
        R: Message + 'static,
    {
        let span = self.span(method);
        // Holds the bytes of the answer until it has been read.
        let account = Account::new(namespace.clone());
        let answer = self.unary(method, request, account.clone());
        let result = match tokio::time::timeout(self.call_timeout, answer).instrument(span.clone()).await {
            Ok(Ok(response)) => read(&response.into_inner()),
            Ok(Err(status)) => Err(self.error(method, &status, &account)),
            Err(_) => Err(CallError::timeout(method, self.call_timeout)),
        };
        let code = result.as_ref().err().map_or(CallCode::Grpc(Code::Ok), |error| error.code);
        self.metrics.call_ended(method, code);
        span.record("rpc.status_code", code.status_code());
        if result.is_err() {
            span.record("error.type", code.label()).record("otel.status_code", "ERROR");
        }
        result
    }

    fn unary<R>(
        &self,
        method: Method,
        request: R,
        account: Account,
    ) -> impl Future<Output = Result<Response<Bytes>, Status>> + use<R>
    where
        R: Message + 'static,
    {
        let mut grpc = self.grpc.clone();
        let mut request = tonic::Request::new(request);
        request.extensions_mut().insert(account);
        let path = PathAndQuery::from_maybe_shared(format!("/{SERVICE}/{method}"));
        let path = path.expect("the names of methods are valid in paths");
        async move {
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            grpc.unary(request, path, RawCodec(PhantomData)).await
        }
    }

    fn error(&self, method: Method, status: &Status, account: &Account) -> CallError {
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
    fn span(&self, method: Method) -> Span {
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
            server.address = &*self.server.address,
            server.port = self.server.port,
            rpc.status_code = Empty,
            error.type = Empty,
            otel.status_code = Empty,
        )
    }
}

/// A codec that leaves answers as they are: [`super::convert`] reads them.
#[derive(Debug)]
struct RawCodec<R>(PhantomData<R>);

impl<R: Message + 'static> Codec for RawCodec<R> {
    type Encode = R;
    type Decode = Bytes;
    type Encoder = ProstEncoder<R>;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
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
}
