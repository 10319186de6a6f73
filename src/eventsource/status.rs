//! The statuses by which the server refuses requests and ends streams. Each has a message for people, and details of
//! `google.rpc` for programs.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::config::ConfigError;
use crate::{access::Refusal, delivery::CloseReason, telemetry::Limit};

/// The domain of the reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "modelupdate";
/// The field of the request with the configuration.
const CONFIG: &str = "config";

fn refused(code: Code, reason: &str, metadata: &[(&str, &str)], message: String) -> Status {
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let metadata = metadata.collect::<std::collections::HashMap<_, _>>();
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
}

/// The configuration is invalid.
pub(super) fn invalid_config(error: &ConfigError) -> Status {
    let message = error.to_string();
    let (field, key) = match error.key() {
        Some(key) => (format!("{CONFIG}.{key}"), key),
        None => (CONFIG.to_owned(), ""),
    };
    let metadata = (!key.is_empty()).then(|| ("key".to_owned(), key.to_owned()));
    let metadata = metadata.into_iter().collect::<std::collections::HashMap<_, _>>();
    let mut details = ErrorDetails::with_error_info(error.reason(), DOMAIN, metadata);
    details.add_bad_request_violation(field, &message);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The server does not serve this namespace.
pub(super) fn namespace_not_served(namespace: &str) -> Status {
    refused(
        Code::PermissionDenied,
        "NAMESPACE_NOT_SERVED",
        &[("key", "kfpNamespace"), ("namespace", namespace)],
        format!(
            "kfpNamespace {namespace:?} is not served here; write one of the namespaces in the server's flag \
             --namespaces, or have this one added there"
        ),
    )
}

/// Access control has refused the subscription, or withdrawn its permission.
pub(super) fn access_refused(refusal: &Refusal) -> Status {
    let (code, reason) = match refusal {
        Refusal::NoToken => (Code::Unauthenticated, "TOKEN_MISSING"),
        Refusal::InvalidToken { .. } => (Code::Unauthenticated, "TOKEN_INVALID"),
        Refusal::Denied { .. } => (Code::PermissionDenied, "NAMESPACE_DENIED"),
        Refusal::Unavailable { .. } => (Code::Unavailable, "REVIEW_UNAVAILABLE"),
    };
    refused(code, reason, &[], refusal.to_string())
}

/// The server is shutting down. Clients reconnect.
pub(super) fn shutting_down() -> Status {
    refused(Code::Unavailable, "SHUTTING_DOWN", &[], "the server is shutting down".to_owned())
}

/// The reason for which delivery has ended a stream.
pub(super) fn closed(reason: CloseReason) -> Status {
    match reason {
        CloseReason::ShuttingDown => shutting_down(),
        CloseReason::MaxConnectionAge => refused(
            Code::Unavailable,
            "MAX_CONNECTION_AGE",
            &[],
            "the stream has reached its maximum age (--max-connection-age), nothing was open for it; connect again"
                .to_owned(),
        ),
        CloseReason::TooManyRuns => limit(
            Limit::PendingRuns,
            &[],
            "too many runs are pending for the streams of this namespace, and this stream is the last that was opened; find \
             out why their events are not delivered, or use fewer subscriptions"
                .to_owned(),
        ),
        CloseReason::NotReading => limit(
            Limit::UnacknowledgedBytes,
            &[],
            "the subscriber does not read its events, and other subscribers need the memory that they occupy; find out \
             what stops the subscriber, which receives these events again when it reconnects"
                .to_owned(),
        ),
    }
}

/// More streams or calls than a limit allows.
pub(super) fn too_many(which: Limit, what: &str, open: usize, maximum: usize, mend: &str) -> Status {
    let message = format!("{open} of at most {maximum} {what} are open; {mend}");
    limit(which, &[("open", &open.to_string()), ("maximum", &maximum.to_string())], message)
}

/// A request that is larger than the limit, or that needs more memory than is left for requests.
pub(super) fn too_large(message: String) -> Status {
    limit(Limit::RequestSize, &[], message)
}

/// A request that did not arrive in time.
pub(super) fn too_slow(seconds: u64) -> Status {
    let message = format!(
        "the request was not complete within {seconds} s; send the message and the end of the request at once, and look \
         for a slow or broken connection"
    );
    limit(Limit::RequestTime, &[("seconds", &seconds.to_string())], message)
}

fn limit(which: Limit, metadata: &[(&str, &str)], message: String) -> Status {
    let metadata = [&[("limit", which.as_str())], metadata].concat();
    refused(Code::ResourceExhausted, &format!("LIMIT_{}", which.as_str().to_ascii_uppercase()), &metadata, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventsource::config;

    /// The limits of `google.rpc.ErrorInfo` for a reason.
    fn is_reason(text: &str) -> bool {
        text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    }

    #[test]
    fn an_invalid_configuration_names_the_field_and_the_kind() {
        for (text, field, reason) in [
            ("kfpNamespace: a\nmaxAge: soon", "config.maxAge", "CONFIG_INVALID_VALUE"),
            ("kfpNamespace: a\nstatus: [failed]", "config.status", "CONFIG_UNKNOWN_KEY"),
            ("", "config", "CONFIG_EMPTY"),
        ] {
            let status = invalid_config(&config::parse("x", text.as_bytes()).unwrap_err());
            assert_eq!(status.code(), Code::InvalidArgument);
            let details = status.get_error_details();
            let violations = &details.bad_request().unwrap().field_violations;
            assert_eq!((violations.len(), &*violations[0].field), (1, field));
            assert_eq!(violations[0].description, status.message());
            let info = details.error_info().unwrap();
            assert_eq!((&*info.reason, &*info.domain), (reason, "modelupdate"));
            assert_eq!(info.metadata.get("key").map(String::as_str), field.strip_prefix("config."));
        }
    }

    #[test]
    fn every_other_refusal_has_a_reason_too() {
        let full = too_many(Limit::StreamsPerPeer, "streams of this address", 7, 7, "close some");
        assert_eq!(full.message(), "7 of at most 7 streams of this address are open; close some");
        for (status, code, reason, limit) in [
            (full, Code::ResourceExhausted, "LIMIT_STREAMS_PER_PEER", Some("streams_per_peer")),
            (too_large("large".to_owned()), Code::ResourceExhausted, "LIMIT_REQUEST_SIZE", Some("request_size")),
            (too_slow(10), Code::ResourceExhausted, "LIMIT_REQUEST_TIME", Some("request_time")),
            (
                closed(CloseReason::NotReading),
                Code::ResourceExhausted,
                "LIMIT_UNACKNOWLEDGED_BYTES",
                Some("unacknowledged_bytes"),
            ),
            (closed(CloseReason::TooManyRuns), Code::ResourceExhausted, "LIMIT_PENDING_RUNS", Some("pending_runs")),
            (closed(CloseReason::ShuttingDown), Code::Unavailable, "SHUTTING_DOWN", None),
            (closed(CloseReason::MaxConnectionAge), Code::Unavailable, "MAX_CONNECTION_AGE", None),
            (namespace_not_served("team-b"), Code::PermissionDenied, "NAMESPACE_NOT_SERVED", None),
        ] {
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((status.code(), &*info.reason, &*info.domain), (code, reason, "modelupdate"));
            assert_eq!(info.metadata.get("limit").map(String::as_str), limit, "{reason}");
            assert!(is_reason(reason), "{reason}");
        }
    }
}
