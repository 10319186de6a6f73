//! Findings: what is wrong, where, and what to write instead.

use std::sync::Arc;

use super::{Position, Rule, Severity};

/// The most findings. A repository with more has one cause for most of them.
pub const MAX_FINDINGS: usize = 1_000;
/// Characters of a message: names in it may be of any length.
const MAX_MESSAGE: usize = 1_000;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule that found it.
    pub rule: &'static Rule,
    /// Its weight, usually that of the rule.
    pub severity: Severity,
    /// The file with the problem. `None` for an object of a cluster.
    pub file: Option<Arc<str>>,
    /// The place in the file.
    pub at: Option<Position>,
    /// The object with the problem, as `EventSource team-a/model-updates`. `None` for a file as a whole.
    pub object: Option<Arc<str>>,
    /// The problem and the mend, in a sentence.
    pub message: String,
}

/// Findings in the order of their places, at most [`MAX_FINDINGS`].
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    /// The findings that were not kept.
    omitted: usize,
}

/// The subject of findings: an object, or a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The file.
    pub file: Option<Arc<str>>,
    /// The object in it.
    pub object: Option<Arc<str>>,
}

impl Findings {
    /// Adds a finding with the weight of its rule.
    pub fn add(&mut self, subject: &Subject, at: Option<Position>, rule: &'static Rule, message: impl Into<String>) {
        self.add_as(rule.severity, subject, at, rule, message);
    }

    /// Adds a finding with another weight.
    pub fn add_as(
        &mut self,
        severity: Severity,
        subject: &Subject,
        at: Option<Position>,
        rule: &'static Rule,
        message: impl Into<String>,
    ) {
        if self.list.len() == MAX_FINDINGS {
            self.omitted += 1;
            return;
        }
        let Subject { file, object } = subject.clone();
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        self.list.push(Finding { rule, severity, file, at, object, message });
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns whether no more findings are kept.
    pub fn is_full(&self) -> bool {
        self.list.len() == MAX_FINDINGS
    }

    /// The findings by place, and the number of those that were not kept. `files` is the order of the files.
    pub fn sorted(self, files: &[Arc<str>]) -> (Vec<Finding>, usize) {
        let mut list = self.list;
        let order = |file: &Arc<str>| files.iter().position(|known| known == file);
        list.sort_by_cached_key(|finding| (finding.file.as_ref().and_then(order), finding.at));
        list.dedup();
        (list, self.omitted)
    }
}
