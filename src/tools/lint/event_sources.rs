//! Rules for EventSources.

use std::{collections::HashMap, sync::Arc};

use super::{
    Findings, Object, Subject,
    node::{Key, Node, Position, Value},
    rules,
    url::{self, Target},
    yaml,
};
use crate::{
    eventsource::config::{self, ConfigError, nearest},
    model::Subscription,
};

/// Keys of a generic entry.
const ENTRY_KEYS: [&str; 7] = ["url", "config", "insecure", "jsonBody", "metadata", "authSecret", "filter"];
/// Keys of an EventSource's spec that are no type of event.
const SPEC_KEYS: [&str; 4] = ["eventBusName", "template", "service", "replicas"];
const GENERIC: &str = "generic";
/// Entries of one subscription that are compared with a further one.
const MAX_SHARED: usize = 16;

/// An EventSource, as Sensors see it.
#[derive(Clone, Debug)]
pub struct EventSource {
    /// Its namespace. `None` if the manifest has none.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// Its events: a Sensor's dependency names one.
    pub events: Vec<Event>,
}

/// An event of an EventSource.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its name.
    pub name: Arc<str>,
    /// Its subscription to this server. `None` if it is an event of another type or server.
    pub entry: Option<Entry>,
}

/// A generic entry for this server.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The server. `None` if the url is wrong, or names no host and port.
    pub target: Option<Target>,
    /// The body is JSON.
    pub json_body: bool,
    /// The subscription. `None` if the configuration is wrong.
    pub subscription: Option<Subscription>,
    /// A token is sent.
    pub has_token: bool,
    /// The place of its configuration.
    pub at: Option<Position>,
}

/// Checks an EventSource. `is_ours` decides by the url whether an entry is for this server.
pub(super) fn check(object: &Object, is_ours: &dyn Fn(&Object, &str) -> bool, findings: &mut Findings) -> EventSource {
    let mut events = Vec::new();
    let (at, spec) = match object.root.entry("spec") {
        Some((key, spec)) => (key.at, Some(spec)),
        None => (object.root.at, None),
    };
    let entries = spec.map_or(&[][..], Node::entries);
    for (key, value) in entries {
        if key.text == GENERIC {
            events.extend(generic(object, key.at, value, is_ours, findings));
        } else if !SPEC_KEYS.contains(&key.text.as_str()) {
            let other = |(name, _): &(Key, Node)| Event { name: name.text.as_str().into(), entry: None };
            events.extend(value.entries().iter().map(other));
        }
    }
    if !entries.iter().any(|(key, _)| !SPEC_KEYS.contains(&key.text.as_str())) {
        findings.add(&object.subject, at, &rules::GENERIC, NO_GENERIC);
    } else if let Some((key, _)) = entries.iter().find(|(key, _)| key.text != GENERIC && near_generic(&key.text)) {
        let message = format!("spec has the key {}, which Argo Events ignores; did you mean generic?", key.text);
        findings.add(&object.subject, key.at, &rules::GENERIC, message);
    }
    EventSource { namespace: object.namespace.clone(), name: object.name.clone(), events }
}

const NO_GENERIC: &str = "spec.generic is missing; write `generic: {model-update: {insecure: true, url: HOST:PORT, config: …}}` \
                          below spec";

fn near_generic(key: &str) -> bool {
    nearest(key, [GENERIC]).is_some()
}

/// Checks the entries below `spec.generic`.
fn generic(
    object: &Object,
    at: Option<Position>,
    node: &Node,
    is_ours: &dyn Fn(&Object, &str) -> bool,
    findings: &mut Findings,
) -> Vec<Event> {
    if !matches!(node.value, Value::Map(_)) || node.entries().is_empty() {
        let message = format!(
            "spec.generic is {}; write the name of an event below it, such as model-update",
            empty_or_kind(node)
        );
        findings.add(&object.subject, at, &rules::GENERIC, message);
    }
    let mut events = Vec::new();
    for (key, entry) in node.entries() {
        let ours = entry.text_of("url").is_none_or(|url| is_ours(object, url));
        let entry = ours.then(|| check_entry(object, key, entry, findings));
        events.push(Event { name: key.text.as_str().into(), entry });
    }
    events
}

fn empty_or_kind(node: &Node) -> &'static str {
    if matches!(node.value, Value::Map(_)) { "empty" } else { node.kind() }
}

/// Checks one entry.
fn check_entry(object: &Object, key: &Key, entry: &Node, findings: &mut Findings) -> Entry {
    let event = &key.text;
    let mut add = |at: Option<Position>, rule, message: String| {
        findings.add(&object.subject, at.or(key.at), rule, format!("{event}: {message}"));
    };
    if !matches!(entry.value, Value::Map(_)) {
        add(
            entry.at,
            &rules::WRONG_TYPE,
            format!("is {}, not a mapping; write url, insecure and config below it", entry.kind()),
        );
        return Entry { target: None, json_body: false, subscription: None, has_token: false, at: key.at };
    }
    for (key, _) in entry.entries() {
        if !ENTRY_KEYS.contains(&key.text.as_str()) {
            let mend = match nearest(&key.text, ENTRY_KEYS) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("remove it, or write one of {}", ENTRY_KEYS.join(", ")),
            };
            add(
                key.at,
                &rules::UNKNOWN_KEY,
                format!("Argo Events ignores the key {}; {mend}", config::quoted(&key.text)),
            );
        }
    }
    let mut flag = |name: &str| match entry.entry(name) {
        None => None,
        Some((_, Node { value: Value::Bool(value), .. })) => Some(*value),
        Some((_, node)) => {
            let kind = node.kind();
            add(
                node.at,
                &rules::WRONG_TYPE,
                format!("{name} is {kind}, not true or false; write `{name}: true` without quotes"),
            );
            // No second finding about its value.
            Some(true)
        }
    };
    let json_body = flag("jsonBody").unwrap_or(false);
    let insecure = flag("insecure");
    if insecure != Some(true) {
        let at = entry.entry("insecure").and_then(|(key, _)| key.at);
        let state = if insecure.is_none() { "missing, so false" } else { "false" };
        let message = format!(
            "insecure is {state}: Argo Events then supplies no credentials, and cannot connect; write `insecure: true` (for \
             encryption use a mesh)"
        );
        add(at, &rules::INSECURE, message);
    }
    let mut text = |name: &str, rule, example: &str| match entry.entry(name) {
        Some((_, node)) if node.text().is_some_and(|text| !text.is_empty()) => Some(node),
        Some((_, node)) if node.is_null() || node.text().is_some() => {
            add(node.at, rule, format!("{name} is empty; write {example}"));
            None
        }
        Some((_, node)) => {
            let message = match (name, &node.value) {
                ("config", Value::Map(_)) => {
                    "config is a mapping, not text; write `config: |`, and the keys indented below it".to_owned()
                }
                _ => format!("{name} is {}, not text; write {example}", node.kind()),
            };
            add(node.at, &rules::WRONG_TYPE, message);
            None
        }
        None => {
            add(None, rule, format!("{name} is missing; write {example}"));
            None
        }
    };
    let url = text("url", &rules::URL, "`url: HOST:PORT` of the server's Service");
    let config = text("config", &rules::CONFIG, "`config: |`, and below it `kfpNamespace: <namespace of the runs>`");
    let target = url.and_then(|node| match url::target(node.text().unwrap_or_default()) {
        Ok(target) => target,
        Err(problem) => {
            add(node.at, &rules::URL, format!("url {problem}"));
            None
        }
    });
    let secret = entry.entry("authSecret");
    if let Some((key, secret)) = secret
        && !["name", "key"].iter().all(|part| secret.text_of(part).is_some_and(|text| !text.is_empty()))
    {
        add(
            key.at,
            &rules::AUTH_SECRET,
            "authSecret needs the name of a Secret and a key in it; write `{name: …, key: token}`".to_owned(),
        );
    }
    let subscription = config.and_then(|node| check_config(object, event, node, findings));
    let at = config.and_then(|node| node.at).or(key.at);
    Entry { target, json_body, subscription, has_token: secret.is_some(), at }
}

/// Checks a configuration with the server's parser.
fn check_config(object: &Object, event: &str, node: &Node, findings: &mut Findings) -> Option<Subscription> {
    let text = node.text()?;
    match config::parse(event, text.as_bytes()) {
        Ok(subscription) => Some(subscription),
        Err(error) => {
            let inside = place(&error, text);
            let at = node.block.map(|block| block.position(inside)).or(node.at);
            findings.add(&object.subject, at, rules::of_config(&error), format!("{event}: {error}"));
            None
        }
    }
}

/// The place of an error in the configuration's text.
fn place(error: &ConfigError, text: &str) -> Position {
    let beginning = |line: u64| {
        let line = usize::try_from(line).unwrap_or(1).max(1);
        let blanks = text.lines().nth(line - 1).map_or(0, |line| line.len() - line.trim_start_matches(' ').len());
        Position { line, column: blanks + 1 }
    };
    match error {
        ConfigError::NotYaml { line, .. }
        | ConfigError::DuplicateKey { line, .. }
        | ConfigError::SeveralDocuments { line }
        | ConfigError::TooComplex { line } => beginning(*line),
        ConfigError::Value { key, .. } => key_place(text, |found| found == *key).unwrap_or_else(|| beginning(1)),
        // The parser reports the first unknown key in the order of the alphabet, and shows an excerpt of it.
        ConfigError::UnknownKey { key, .. } => {
            key_place(text, |found| config::quoted(found) == *key).unwrap_or_else(|| beginning(1))
        }
        _ => Position::START,
    }
}

fn key_place(text: &str, is_meant: impl Fn(&str) -> bool) -> Option<Position> {
    let root = yaml::parse(text, 0).ok()?;
    root.entries().iter().find(|(key, _)| is_meant(&key.text))?.0.at
}

/// An entry with its EventSource and its event.
type Seen<'a> = (&'a EventSource, &'a Event, &'a Entry);

/// Checks that different entries do not share a subscription by accident.
pub(super) fn check_shared(sources: &[(EventSource, Subject)], findings: &mut Findings) {
    let mut seen: HashMap<(&str, &str), Vec<Seen<'_>>> = HashMap::new();
    for (source, subject) in sources {
        for event in &source.events {
            let Some(entry) = &event.entry else { continue };
            let Some(subscription) = entry.subscription.as_ref().filter(|found| found.remember) else { continue };
            let shares = |(other, other_event, other_entry): &&Seen<'_>| {
                let same_object = (&other.namespace, &other.name) == (&source.namespace, &source.name);
                // With tokens, the server scopes the names of different namespaces.
                let scoped = entry.has_token && other_entry.has_token && other.namespace != source.namespace;
                let same_entry = same_object && other_event.name == event.name;
                !(same_entry || scoped)
            };
            let others = seen.entry((&*subscription.namespace, subscription.name.as_str())).or_default();
            if let Some((other, other_event, _)) = others.iter().find(shares) {
                let message = format!(
                    "{}: shares the subscription {} of the runs in {} with {} (event {}), so that each event reaches only one of \
                     them; write a different `subscription` in one of the two",
                    event.name,
                    subscription.name,
                    subscription.namespace,
                    display(other),
                    other_event.name
                );
                findings.add(subject, entry.at, &rules::SHARED_SUBSCRIPTION, message);
            }
            // Of many entries that share one, the first few are enough to find another.
            if others.len() < MAX_SHARED {
                others.push((source, event, entry));
            }
        }
    }
}

fn display(source: &EventSource) -> String {
    match &source.namespace {
        Some(namespace) => format!("EventSource {namespace}/{}", source.name),
        None => format!("EventSource {}", source.name),
    }
}
