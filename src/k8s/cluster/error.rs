//! Failures of requests to a cluster, by what their reader can do.

use std::error::Error;

use crate::telemetry::log::chain;

/// The reason why a request to a cluster failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// There is no usable kubeconfig or service account.
    #[error("{0}")]
    Config(String),
    /// The API server does not answer.
    #[error("the API server {server} cannot be reached: {message}")]
    Unreachable {
        /// Its address.
        server: String,
        /// The problem.
        message: String,
    },
    /// The API server does not know the credentials (401).
    #[error("the API server refuses the credentials: {message}; log in again, or choose others with --context")]
    Unauthenticated {
        /// The API server's message.
        message: String,
    },
    /// A right is missing (403).
    #[error("a right is missing: {message}")]
    Forbidden {
        /// The API server's message: it names the user, the verb, the resource and the namespace.
        message: String,
    },
    /// There is no such object, or the cluster does not have its kind (404).
    #[error("not found: {message}")]
    NotFound {
        /// The API server's message.
        message: String,
    },
    /// Another refusal.
    #[error("the API server answers {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The API server's message.
        message: String,
    },
    /// The answer is larger than a command reads.
    #[error("the answer to {path} is too large; choose one namespace with -n")]
    TooLarge {
        /// The path of the request.
        path: String,
    },
    /// The answer is none of the API.
    #[error("the answer to {path} is not valid: {message}")]
    Malformed {
        /// The path of the request.
        path: String,
        /// The problem.
        message: String,
    },
}

impl ClusterError {
    pub(super) fn config(error: &(dyn Error + 'static)) -> Self {
        Self::Config(chain(error))
    }

    /// The error of an answer with this HTTP status.
    pub(super) fn refused(path: &str, status: u16, message: String) -> Self {
        match status {
            401 => Self::Unauthenticated { message },
            403 => Self::Forbidden { message },
            404 if message.is_empty() => Self::NotFound { message: path.to_owned() },
            404 => Self::NotFound { message: format!("{message} ({path})") },
            status => Self::Refused { status, message },
        }
    }

    /// Returns whether a list cannot be read for a reason that may not hold for one namespace: a right is missing, or it is
    /// too large, which any team can make that of all namespaces.
    pub fn is_unreadable(&self) -> bool {
        self.is_forbidden() || matches!(self, Self::TooLarge { .. })
    }

    /// Returns whether a right is missing.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }
}
