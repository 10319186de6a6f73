//! The names of gRPC status codes, in the three spellings in use.

use tonic::Code;

/// The names of one status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeNames {
    /// The spelling of the gRPC specification and of OpenTelemetry: `INVALID_ARGUMENT`.
    pub spec: &'static str,
    /// The spelling of grpc-go, and so of most dashboards: `InvalidArgument`.
    pub go: &'static str,
    /// The value of a metric's label: `invalid_argument`.
    pub label: &'static str,
}

/// Returns the names of a status code.
pub const fn names(code: Code) -> CodeNames {
    let (spec, go, label) = match code {
        Code::Ok => ("OK", "OK", "ok"),
        Code::Cancelled => ("CANCELLED", "Canceled", "cancelled"),
        Code::Unknown => ("UNKNOWN", "Unknown", "unknown"),
        Code::InvalidArgument => ("INVALID_ARGUMENT", "InvalidArgument", "invalid_argument"),
        Code::DeadlineExceeded => ("DEADLINE_EXCEEDED", "DeadlineExceeded", "deadline_exceeded"),
        Code::NotFound => ("NOT_FOUND", "NotFound", "not_found"),
        Code::AlreadyExists => ("ALREADY_EXISTS", "AlreadyExists", "already_exists"),
        Code::PermissionDenied => ("PERMISSION_DENIED", "PermissionDenied", "permission_denied"),
        Code::ResourceExhausted => ("RESOURCE_EXHAUSTED", "ResourceExhausted", "resource_exhausted"),
        Code::FailedPrecondition => ("FAILED_PRECONDITION", "FailedPrecondition", "failed_precondition"),
        Code::Aborted => ("ABORTED", "Aborted", "aborted"),
        Code::OutOfRange => ("OUT_OF_RANGE", "OutOfRange", "out_of_range"),
        Code::Unimplemented => ("UNIMPLEMENTED", "Unimplemented", "unimplemented"),
        Code::Internal => ("INTERNAL", "Internal", "internal"),
        Code::Unavailable => ("UNAVAILABLE", "Unavailable", "unavailable"),
        Code::DataLoss => ("DATA_LOSS", "DataLoss", "data_loss"),
        Code::Unauthenticated => ("UNAUTHENTICATED", "Unauthenticated", "unauthenticated"),
    };
    CodeNames { spec, go, label }
}
