//! The subscriptions that a run may be for: those of EventSources, of the server's streams, and of marks.

use std::{collections::HashSet, fmt, sync::Arc};

use serde_json::Value;

use crate::{
    eventsource::config,
    model::{ArtifactTypes, Include, PipelineFilter, Statuses, Subscription, SubscriptionName, Workflow},
    tools::names::NamedSubscription,
};

/// The name of a subscription that is assumed because none is known.
const ASSUMED: &str = "default";
/// Subscriptions of a namespace that are explained, more than any team has.
const MAX_SUBSCRIPTIONS: usize = 64;

/// A subscription, and its source.
#[derive(Clone, Debug)]
pub struct Known {
    /// The subscription. Its filters are the defaults where they are not known.
    pub subscription: Subscription,
    /// The place from which it is known.
    pub source: Source,
}

/// The place from which a subscription is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The configuration of an EventSource.
    EventSource {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A stream of the server. Its filters are not known.
    Server,
    /// A mark on a Workflow. Its filters are not known.
    Mark,
    /// The name was given. Its filters are not known.
    Given,
    /// Nothing is known.
    Assumed,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EventSource { namespace, name } => write!(f, "EventSource {namespace}/{name}"),
            Self::Server => f.write_str("server"),
            Self::Mark => f.write_str("mark"),
            Self::Given => f.write_str("given"),
            Self::Assumed => f.write_str("assumed"),
        }
    }
}

impl Source {
    /// Returns whether the filters of the subscription are known.
    pub fn has_filters(&self) -> bool {
        matches!(self, Self::EventSource { .. })
    }
}

/// The generic entry of an EventSource with a configuration for this server.
#[derive(Clone, Debug)]
pub struct Entry {
    namespace: String,
    name: String,
    subscription: Subscription,
}

impl Entry {
    /// The subscription that it has.
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }
}

/// Reads the entries of EventSources. Returns also what is wrong with those that seem to be for this server.
pub fn entries(event_sources: &[Value]) -> (Vec<Entry>, Vec<String>) {
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for object in event_sources {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        for (event, entry) in object["spec"]["generic"].as_object().into_iter().flatten() {
            let Some(config) = entry["config"].as_str() else { continue };
            match config::parse(event, config.as_bytes()) {
                Ok(subscription) if subscription.remember => {
                    entries.push(Entry { namespace: namespace.clone(), name: name.clone(), subscription });
                }
                Ok(_) => {}
                // Other servers have generic EventSources, too.
                Err(error) if config.contains("kfpNamespace") => {
                    problems
                        .push(format!("EventSource {namespace}/{name}, event {event}: {error}; the server refuses it"));
                }
                Err(_) => {}
            }
        }
    }
    (entries, problems)
}

/// A subscription with open streams, as the server reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The namespace of the runs.
    pub namespace: String,
    /// The name, with its scope.
    pub name: String,
    /// Only the newest run of a pipeline is sent.
    pub latest_only: bool,
}

/// The subscriptions of a namespace, from all places.
#[derive(Clone, Debug)]
pub struct Subscriptions {
    known: Vec<Known>,
    only: Option<NamedSubscription>,
    namespace: Arc<str>,
}

impl Subscriptions {
    /// The subscriptions of this namespace, narrowed to one name if it is given. `marks` are names of marks, which show
    /// whether the server gives names a scope.
    pub fn of(
        namespace: &str,
        entries: &[Entry],
        streams: &[Stream],
        marks: &HashSet<String>,
        only: Option<&NamedSubscription>,
    ) -> Self {
        let namespace: Arc<str> = namespace.into();
        let streams: Vec<&Stream> = streams.iter().filter(|stream| *stream.namespace == *namespace).collect();
        let is_seen = |name: &SubscriptionName| {
            marks.contains(name.as_str()) || streams.iter().any(|stream| stream.name == name.as_str())
        };
        let mut known: Vec<Known> = Vec::new();
        for Entry { namespace: place, name, subscription } in entries {
            if subscription.namespace != namespace {
                continue;
            }
            let scoped = subscription.clone().scoped(place);
            let subscription = if is_seen(&scoped.name) { scoped } else { subscription.clone() };
            let source = Source::EventSource { namespace: place.clone(), name: name.clone() };
            known.push(Known { subscription, source });
        }
        for stream in streams {
            let name = SubscriptionName::from_annotation(stream.name.as_str().into());
            if !known.iter().any(|known| known.subscription.name == name) {
                let subscription = Subscription { latest_only: stream.latest_only, ..unfiltered(&namespace, name) };
                known.push(Known { subscription, source: Source::Server });
            }
        }
        if let Some(only) = only {
            known.retain(|known| only.is_name_of(&known.subscription.name));
            if known.is_empty() {
                known.push(Known { subscription: unfiltered(&namespace, only.to_mark()), source: Source::Given });
            }
        }
        known.truncate(MAX_SUBSCRIPTIONS);
        Self { known, only: only.cloned(), namespace }
    }

    /// The subscriptions that are not only known from a mark.
    pub fn known(&self) -> &[Known] {
        &self.known
    }

    /// The subscriptions that a run may be for. Those that are known only from a mark are for the runs that have it.
    pub fn for_run(&self, run: &Workflow) -> Vec<Known> {
        let mut all = self.known.clone();
        for mark in &run.marks {
            let names = |known: &Known| {
                known.subscription.name == mark.subscription
                    || known.subscription.unscoped.as_ref() == Some(&mark.subscription)
            };
            let subscription = unfiltered(&self.namespace, mark.subscription.clone());
            let is_wanted = self.only.as_ref().is_none_or(|only| only.is_name_of(&subscription.name));
            if is_wanted && run.is_marked_for(&mark.subscription) && !all.iter().any(names) {
                all.push(Known { subscription, source: Source::Mark });
            }
        }
        // The mark of a name with a scope is the mark that was asked for.
        if all.len() > 1 {
            all.retain(|known| known.source != Source::Given);
        }
        if all.is_empty() {
            let name = SubscriptionName::from_annotation(ASSUMED.into());
            all.push(Known { subscription: unfiltered(&self.namespace, name), source: Source::Assumed });
        }
        all
    }
}

/// A subscription with the defaults of the configuration.
fn unfiltered(namespace: &Arc<str>, name: SubscriptionName) -> Subscription {
    Subscription {
        namespace: namespace.clone(),
        name,
        unscoped: None,
        pipelines: PipelineFilter::default(),
        artifact_types: Arc::new(ArtifactTypes::default()),
        max_age: None,
        latest_only: false,
        statuses: Statuses::default(),
        remember: true,
        include: Include::default(),
    }
}

#[cfg(test)]
mod tests;
