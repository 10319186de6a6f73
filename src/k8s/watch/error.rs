//! Failures of a watch.

use kube::core::Status;

use super::split::NotAList;
use crate::k8s::{client::RequestError, metrics::WatchErrorKind};

/// The reason why a list or a watch ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    /// There is no complete list.
    #[error("list failed")]
    List(#[source] RequestError),
    /// The list has no version from which a watch could continue.
    #[error("the list has no resourceVersion")]
    NoVersion,
    /// The watch was not established.
    #[error("watch not established")]
    Start(#[source] RequestError),
    /// The API server reported an error within the watch.
    #[error("watch failed: {}: {}", .0.code, .0.message)]
    Status(Box<Status>),
    /// The watch broke.
    #[error("watch broke")]
    Stream(#[source] RequestError),
}

impl WatchError {
    /// The failure of a list whose answer has another form.
    pub(super) fn not_a_list(error: &NotAList) -> Self {
        Self::List(RequestError::Malformed(error.to_string()))
    }

    pub(super) fn kind(&self) -> WatchErrorKind {
        match self {
            Self::List(_) => WatchErrorKind::List,
            Self::NoVersion => WatchErrorKind::Other,
            _ if self.is_expired() => WatchErrorKind::Expired,
            Self::Start(_) => WatchErrorKind::Start,
            Self::Status(_) => WatchErrorKind::Status,
            Self::Stream(_) => WatchErrorKind::Stream,
        }
    }

    /// Returns the HTTP status, or 0 where there was none.
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::List(error) | Self::Start(error) | Self::Stream(error) => error.code(),
            Self::Status(status) => status.code,
            Self::NoVersion => 0,
        }
    }

    /// Returns whether the version of the list or watch is too old: 410.
    pub(super) fn is_expired(&self) -> bool {
        self.code() == 410
    }

    /// Returns whether the connection failed, or the request was not answered in time.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self, Self::List(RequestError::Unanswered(_)) | Self::Start(RequestError::Unanswered(_)))
    }

    /// Returns whether a watch may continue from its last version. Otherwise the Workflows are listed again.
    pub(super) fn is_resumable(&self) -> bool {
        match self {
            Self::List(_) | Self::NoVersion => false,
            // Behind an event that cannot be read, only a list has its change.
            Self::Stream(RequestError::Malformed(_)) => false,
            Self::Start(_) | Self::Status(_) | Self::Stream(_) => !self.is_expired(),
        }
    }

    /// Returns the usual cause of the HTTP status.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self.code() {
            400 => Some("is --selector a label selector?"),
            401 => Some("are the credentials of this server still valid?"),
            403 => Some(
                "the service account needs the verbs list, watch and patch on workflows.argoproj.io, in all namespaces or \
                 in those of --namespaces",
            ),
            404 => Some("is Argo Workflows' CustomResourceDefinition installed?"),
            _ => None,
        }
    }
}
