//! The names of gRPC status codes, in the three spellings that this program's users know.

use tonic::Code;

/// One status code's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeNames {
    /// As the gRPC specification and OpenTelemetry write it: `INVALID_ARGUMENT`.
    pub spec: &'static str,
    /// As grpc-go writes it, and so most dashboards: `InvalidArgument`.
    pub go: &'static str,
    /// As a value of a metric's label: `invalid_argument`.
    pub label: &'static str,
}

/// The names of a status code.
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
