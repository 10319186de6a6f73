//! From what can go wrong in a call to a [`LookupError`] whose code is bounded and whose message is fit for a log.

use std::error::Error as _;

use tonic::{Code, Status};

use crate::delivery::LookupError;

/// A call, or a whole lookup, took longer than it may.
pub(super) const TIMEOUT: &str = "timeout";
/// There was an answer, and it makes no sense.
pub(super) const MALFORMED: &str = "malformed";

/// How many characters of somebody else's text go into a message.
const EXCERPT: usize = 300;
/// How prost begins what it says of octets that are not the message expected. tonic passes it on as INTERNAL, which
/// would hide that the answer came, and was garbage.
const NOT_DECODED: &str = "failed to decode Protobuf message";
/// How an answer is described that is not even gRPC.
pub(super) const NOT_GRPC: &str = "what answers is no gRPC server";

pub(super) fn timeout(what: &str, after: std::time::Duration) -> LookupError {
    LookupError::Failed { code: TIMEOUT, message: format!("{what}: no answer within {after:?}") }
}

pub(super) fn malformed(message: impl AsRef<str>) -> LookupError {
    LookupError::Failed { code: MALFORMED, message: excerpt(message.as_ref()) }
}

/// What was found out here, under the code that gRPC has for such things.
pub(super) fn failed(code: Code, message: &str) -> LookupError {
    LookupError::Failed { code: name(code), message: message.to_owned() }
}

pub(super) fn refused(method: &str, status: &Status) -> LookupError {
    let code = match status.code() {
        Code::Internal if [NOT_DECODED, NOT_GRPC].iter().any(|words| status.message().contains(words)) => MALFORMED,
        // Only what went wrong on this side has a cause: tonic calls a connection that broke UNKNOWN.
        Code::Unknown if status.source().is_some() => name(Code::Unavailable),
        code => name(code),
    };
    let mut message = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        // "tcp connect error" alone does not say whether the port is closed or the name unknown.
        let text = error.to_string();
        if !message.contains(&text) {
            message = if message.is_empty() { text } else { format!("{message}: {text}") };
        }
        cause = error.source();
    }
    LookupError::Failed { code, message: excerpt(&format!("{method}: {message}")) }
}

/// The code of an error for a metric's label.
pub(super) fn label(error: &LookupError) -> &'static str {
    match error {
        LookupError::Failed { code, .. } => code,
        LookupError::NoContext | LookupError::ForeignContext { .. } => name(Code::Ok),
    }
}

/// The name of a gRPC status code in lower case.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// The beginning of somebody else's text, on one line.
pub(super) fn excerpt(text: &str) -> String {
    let mut excerpt: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(EXCERPT).collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt
}
