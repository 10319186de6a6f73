//! The result of a lookup together with what it has seen, for people who ask why.

use std::fmt;

use super::LookupError;
use crate::model::{RunModels, SeenArtifact};

/// A source of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// Kubeflow's API.
    Kfp,
    /// ML Metadata.
    Mlmd,
}

impl ModelSource {
    /// The word for it, as in `--artifacts`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kfp => "kfp",
            Self::Mlmd => "mlmd",
        }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kfp => "Kubeflow's API",
            Self::Mlmd => "ML Metadata",
        })
    }
}

/// The result of a lookup, and what led to it.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The source whose answer it is, or that could not be asked.
    pub source: ModelSource,
    /// The result of a lookup of the server.
    pub found: Result<RunModels, LookupError>,
    /// The record of the run, if the source of models has one.
    pub record: Option<RunRecord>,
    /// The artifacts of the run: by id in ML Metadata, by the creation of their tasks in Kubeflow's API. Those of other
    /// types give way where there are too many.
    pub artifacts: Vec<SeenArtifact>,
    /// Number of further artifacts, which are not listed.
    pub left_out: usize,
}

/// The record of a run in the source of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// The kind of the record, such as the type of a context in ML Metadata.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its id, if it has one beside the name.
    pub id: Option<i64>,
    /// The namespace that it names.
    pub namespace: Option<String>,
}
