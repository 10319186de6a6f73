//! Names of a cluster for shell completions: as many as a person chooses from, with the rights of the person.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::mpsc::{self, Receiver, Sender},
};

use super::{explain::subscriptions, list_widely};
use crate::k8s::{Cluster, ClusterError, WorkflowQuery};

/// Names that are offered. A shell asks before it shows as many.
pub const MAX_NAMES: usize = 300;

/// Names that begin as the person has typed, sent as they are found.
#[derive(Debug)]
pub struct Offers {
    begin: String,
    offered: HashSet<String>,
    sender: Sender<String>,
}

impl Offers {
    /// Offers of names with this begin, and the place where they arrive.
    pub fn new(begin: &str) -> (Self, Receiver<String>) {
        let (sender, receiver) = mpsc::channel();
        (Self { begin: begin.to_owned(), offered: HashSet::new(), sender }, receiver)
    }

    /// Offers a name. Breaks when there are enough.
    pub fn add(&mut self, name: &str) -> ControlFlow<()> {
        let fits = name.starts_with(&*self.begin) && is_plain(name);
        if fits && self.offered.insert(name.to_owned()) && self.sender.send(name.to_owned()).is_err() {
            // Nothing waits for it any more.
            return ControlFlow::Break(());
        }
        if self.offered.len() < MAX_NAMES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Offers all of these names.
    pub fn extend<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> ControlFlow<()> {
        names.into_iter().try_for_each(|name| self.add(name))
    }
}

/// Returns whether shells insert a name as it is, without quotes.
pub fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:/@+,%".contains(c);
    !name.is_empty() && name.chars().all(is_plain)
}

/// Offers the namespaces of the cluster.
///
/// # Errors
/// See [`ClusterError`].
pub async fn namespaces(cluster: &Cluster, mut offers: Offers) -> Result<(), ClusterError> {
    cluster.each_name("/api/v1/namespaces", |name| offers.add(name)).await
}

/// Offers the Workflows of a query.
///
/// # Errors
/// See [`ClusterError`].
pub async fn workflows(cluster: &Cluster, query: WorkflowQuery<'_>, mut offers: Offers) -> Result<(), ClusterError> {
    cluster.workflow_pages(query, |page| offers.extend(page.iter().map(|found| &*found.workflow.name))).await
}

/// Offers the subscriptions of EventSources and of marks on the Workflows of a query.
///
/// # Errors
/// See [`ClusterError`].
pub async fn subscriptions(
    cluster: &Cluster,
    query: WorkflowQuery<'_>,
    mut offers: Offers,
) -> Result<(), ClusterError> {
    // A person may have the right to one of both.
    if let Ok((event_sources, _)) = list_widely(cluster, "eventsources", query.namespace).await {
        let (entries, _) = subscriptions::entries(&event_sources);
        let subscriptions = entries.iter().map(|entry| entry.subscription());
        let of_namespace = subscriptions.filter(|it| query.namespace.is_none_or(|wanted| *it.namespace == *wanted));
        if offers.extend(of_namespace.map(|it| it.name.as_str())).is_break() {
            return Ok(());
        }
    }
    cluster
        .workflow_pages(query, |page| {
            offers.extend(page.iter().flat_map(|found| &found.workflow.marks).map(|mark| mark.subscription.as_str()))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_begin_as_typed_and_end() {
        let (mut offers, names) = Offers::new("te");
        for name in ["team-a", "other", "team-a", "te am", "te$x", "team\nb", "team-b"] {
            assert!(offers.add(name).is_continue());
        }
        assert_eq!(names.try_iter().collect::<Vec<_>>(), ["team-a", "team-b"]);
        let many: Vec<_> = (0..2 * MAX_NAMES).map(|number| format!("te{number}")).collect();
        assert!(offers.extend(many.iter().map(String::as_str)).is_break());
        assert_eq!(names.try_iter().count(), MAX_NAMES - 2);
        drop(names);
        let (mut offers, names) = Offers::new("");
        drop(names);
        assert!(offers.add("x").is_break(), "nothing waits");
    }
}
