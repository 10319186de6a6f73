//! The methods of ML Metadata that lookups call.

use std::fmt;

/// A method, named as in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::enum_variant_names, reason = "the names of the protocol")]
pub(super) enum Method {
    GetArtifactType,
    GetArtifactsByContext,
    GetContextByTypeAndName,
    GetContextsByExecution,
    GetEventsByArtifactIDs,
    GetEventsByExecutionIDs,
    GetExecutionsByContext,
    GetParentContextsByContext,
}

impl Method {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::GetArtifactType => "GetArtifactType",
            Self::GetArtifactsByContext => "GetArtifactsByContext",
            Self::GetContextByTypeAndName => "GetContextByTypeAndName",
            Self::GetContextsByExecution => "GetContextsByExecution",
            Self::GetEventsByArtifactIDs => "GetEventsByArtifactIDs",
            Self::GetEventsByExecutionIDs => "GetEventsByExecutionIDs",
            Self::GetExecutionsByContext => "GetExecutionsByContext",
            Self::GetParentContextsByContext => "GetParentContextsByContext",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
