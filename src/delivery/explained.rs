//! The result of a lookup together with what it has seen, for people who ask why.

use super::LookupError;
use crate::model::{RunModels, SeenArtifact};

/// The result of a lookup, and what led to it.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The result of a lookup of the server.
    pub found: Result<RunModels, LookupError>,
    /// The record of the run, if the source of models has one.
    pub record: Option<RunRecord>,
    /// The artifacts of the run, ordered by id. Those of other types come last where there are too many.
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
    /// Its id.
    pub id: i64,
    /// The namespace that it names.
    pub namespace: Option<String>,
}
