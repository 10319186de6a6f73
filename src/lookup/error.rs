//! Errors of calls and lookups: a code of a bounded set for metrics, and a message for logs.

use std::{error::Error as _, fmt::Display, time::Duration};

use futures::future::BoxFuture;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::{
    delivery::LookupError,
    telemetry::{grpc, log},
    text::one_line,
};

/// Maximum number of characters of a foreign text in a message.
const EXCERPT: usize = 300;
/// Start of prost's message for bytes that are not the expected message. tonic reports it as INTERNAL, like an error of
/// the server.
const NOT_DECODED: &str = "failed to decode Protobuf message";
/// Start of the message for a response that is not gRPC.
pub(crate) const NOT_GRPC: &str = "the response is not gRPC";

/// The failure of a call, or of a lookup as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallError {
    pub(crate) code: CallCode,
    pub(crate) message: String,
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CallCode {
    Grpc(Code),
    /// The call, or the lookup as a whole, exceeded its time.
    Timeout,
    /// The response is inconsistent, incomplete, or not of this protocol.
    Malformed,
    /// The response, or what all responses say about the run, exceeds a limit. A retry would fail again.
    TooLarge,
    /// Other lookups use the memory that this one needs.
    Overloaded,
}

impl CallCode {
    /// The code as a value of a metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Grpc(code) => grpc::names(code).label,
            Self::Timeout => "timeout",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Overloaded => "overloaded",
        }
    }

    /// The status code as OpenTelemetry spells it. For errors on this side, the one that gRPC libraries report.
    pub(crate) fn status_code(self) -> &'static str {
        let code = match self {
            Self::Grpc(code) => code,
            Self::Timeout => Code::DeadlineExceeded,
            Self::Malformed => Code::Internal,
            Self::TooLarge | Self::Overloaded => Code::ResourceExhausted,
        };
        grpc::names(code).spec
    }
}

impl From<CallError> for LookupError {
    fn from(CallError { code, message }: CallError) -> Self {
        match code {
            CallCode::TooLarge => Self::TooLarge,
            code => Self::Failed { code: code.label(), message },
        }
    }
}

impl CallError {
    pub(crate) fn timeout(what: impl Display, after: Duration) -> Self {
        Self { code: CallCode::Timeout, message: format!("{what}: no response within {after:?}") }
    }

    pub(crate) fn malformed(message: impl AsRef<str>) -> Self {
        Self { code: CallCode::Malformed, message: excerpt(message.as_ref()) }
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self { code: CallCode::TooLarge, message: message.into() }
    }

    pub(crate) fn overloaded(message: impl Into<String>) -> Self {
        Self { code: CallCode::Overloaded, message: message.into() }
    }

    pub(crate) fn status(method: impl Display, status: &Status) -> Self {
        let code = match status.code() {
            Code::Internal if [NOT_DECODED, NOT_GRPC].iter().any(|text| status.message().contains(text)) => {
                CallCode::Malformed
            }
            // Only local errors have a source: tonic reports a broken connection as UNKNOWN.
            Code::Unknown if status.source().is_some() => CallCode::Grpc(Code::Unavailable),
            code => CallCode::Grpc(code),
        };
        // "tcp connect error" alone does not distinguish a closed port from an unknown name.
        let message = match status.source().map(log::chain) {
            Some(causes) if causes.contains(status.message()) => causes,
            Some(causes) => format!("{}: {causes}", status.message()),
            None => status.message().to_owned(),
        };
        Self { code, message: excerpt(&format!("{method}: {message}")) }
    }
}

/// Awaits an answer for at most this time. `what` names it in the failure.
pub(crate) async fn within<T>(
    limit: Duration,
    what: &str,
    answer: BoxFuture<'_, Result<T, LookupError>>,
) -> Result<T, LookupError> {
    timeout(limit, answer).await.unwrap_or_else(|_elapsed| Err(CallError::timeout(what, limit).into()))
}

/// Returns the beginning of a foreign text, on one line.
pub(crate) fn excerpt(text: &str) -> String {
    let mut excerpt: String = text.chars().take(EXCERPT).collect();
    let is_cut = excerpt.len() < text.len();
    excerpt = one_line(&excerpt);
    if is_cut {
        excerpt.push('…');
    }
    excerpt
}
