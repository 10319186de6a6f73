//! The stream of a person: its configuration, from a file and from flags, and the events that it has seen.
//!
//! Such a stream remembers nothing on the server: a new connection begins with what succeeds from then on. So after a
//! disconnect the next one asks for past runs as well, and what was seen before is left out. [`session`] connects.

pub mod session;

use std::{collections::HashSet, time::Duration};

use serde_json::{Map, Value, json};

use crate::{
    eventsource::config::{self, ConfigError},
    model::{IncludeField, Subscription},
};

/// The `EventSource.name` of such streams.
pub const EVENT_SOURCE: &str = "subscribe";
/// Remembered events, more than people read; later ones may be repeated after a disconnect.
const MAX_SEEN: usize = 10_000;
/// The characters of a UUID.
const EVENT_ID: usize = 36;

const NAMESPACE: &str = "kfpNamespace";
const SUBSCRIPTION: &str = "subscription";
const MAX_AGE: &str = "maxAge";
const REMEMBER: &str = "remember";
const INCLUDE: &str = "include";

/// The flags that fill keys of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `kfpNamespace`.
    pub namespace: Option<String>,
    /// A subscription that remembers deliveries.
    pub remember: Option<String>,
    /// The age of past runs.
    pub since: Option<Duration>,
    /// Other keys, with the names of their flags.
    pub keys: Vec<(&'static str, &'static str, Value)>,
}

/// The reason why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagsError {
    /// A flag and the file contradict each other.
    #[error("{flag} contradicts --config, which has `{key}: {value}`; remove one of the two")]
    Contradiction {
        /// The flag.
        flag: &'static str,
        /// The key of the configuration.
        key: &'static str,
        /// Its value in the file.
        value: String,
    },
    /// The file has `remember: true`.
    #[error("--config has `remember: true`; name the subscription with --remember NAME, or remove the key")]
    Remember,
    /// No namespace is known.
    #[error("no namespace; write -n NAMESPACE, or kfpNamespace in --config")]
    NoNamespace,
    /// The server would refuse the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The configuration of a person's stream.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    keys: Map<String, Value>,
    subscription: Subscription,
    /// The age of past runs at the first connection.
    since: Option<Duration>,
    /// The file limits the age itself.
    has_own_age: bool,
    /// The ids of events are for this program only.
    hides_event_ids: bool,
}

impl StreamConfig {
    /// Merges the file and the flags.
    ///
    /// # Errors
    /// They contradict each other, or the server would refuse the result.
    pub fn new(file: Option<&[u8]>, flags: &Flags, default_namespace: Option<&str>) -> Result<Self, FlagsError> {
        let mut keys = file.map(config::read_keys).transpose()?.unwrap_or_default();
        if let Some(namespace) = &flags.namespace {
            fill(&mut keys, NAMESPACE, "--namespace", json!(namespace))?;
        } else if !keys.contains_key(NAMESPACE) {
            keys.insert(NAMESPACE.to_owned(), json!(default_namespace.ok_or(FlagsError::NoNamespace)?));
        }
        for (key, flag, value) in &flags.keys {
            fill(&mut keys, key, flag, value.clone())?;
        }
        match (&flags.remember, keys.get(REMEMBER)) {
            (Some(name), _) => {
                fill(&mut keys, REMEMBER, "--remember", json!(true))?;
                fill(&mut keys, SUBSCRIPTION, "--remember", json!(name))?;
            }
            (None, Some(Value::Bool(true))) => return Err(FlagsError::Remember),
            (None, _) => drop(keys.entry(REMEMBER).or_insert(json!(false))),
        }
        let has_own_age = keys.contains_key(MAX_AGE);
        if let (Some(since), Some(age)) = (flags.since, keys.get(MAX_AGE)) {
            let own = age.as_str().and_then(|text| humantime::parse_duration(text).ok());
            if own != Some(since) {
                return Err(contradiction("--since", MAX_AGE, age));
            }
        }
        let remembers = keys.get(REMEMBER) == Some(&json!(true));
        let hides_event_ids = !remembers && add_event_id(&mut keys);
        let subscription = parse(&keys)?;
        let mut config = Self { subscription, keys, since: flags.since, has_own_age, hides_event_ids };
        config.subscription.max_age = config.subscription.max_age.or(flags.since);
        Ok(config)
    }

    /// The namespace of the runs.
    pub fn namespace(&self) -> &str {
        &self.subscription.namespace
    }

    /// The name under which deliveries are remembered. `None`: they are not.
    pub fn remembered_as(&self) -> Option<&str> {
        self.subscription.remember.then(|| self.subscription.name.as_str())
    }

    /// The age of the past runs that the stream begins with.
    pub fn past(&self) -> Option<Duration> {
        self.subscription.max_age
    }

    /// The text for a connection: the first one, or one of a later time, which also asks for the runs since the first.
    pub fn text(&self, since_first: Option<Duration>) -> String {
        Value::Object(self.keys_at(since_first)).to_string()
    }

    fn keys_at(&self, since_first: Option<Duration>) -> Map<String, Value> {
        let mut keys = self.keys.clone();
        if self.has_own_age {
            return keys;
        }
        let age = match (self.subscription.remember, since_first) {
            (false, Some(passed)) => Some(self.since.unwrap_or_default() + passed),
            _ => self.since,
        };
        if let Some(age) = age {
            // Times of ends have whole seconds.
            let seconds = age.as_secs() + u64::from(age.subsec_nanos() > 0);
            keys.insert(MAX_AGE.to_owned(), json!(format!("{}s", seconds.max(1))));
        }
        keys
    }

    /// Returns the payload to show, and the id of its event.
    pub fn read_event<'a>(&self, payload: &'a str) -> (String, Option<&'a str>) {
        let Some((start, id)) = event_id(payload) else { return (payload.to_owned(), None) };
        let shown = if self.hides_event_ids { format!("{}}}", &payload[..start]) } else { payload.to_owned() };
        (shown, Some(id))
    }
}

fn parse(keys: &Map<String, Value>) -> Result<Subscription, ConfigError> {
    config::parse(EVENT_SOURCE, Value::Object(keys.clone()).to_string().as_bytes())
}

/// Sets a key that the file does not have.
fn fill(keys: &mut Map<String, Value>, key: &'static str, flag: &'static str, value: Value) -> Result<(), FlagsError> {
    match keys.get(key) {
        Some(own) if *own != value => Err(contradiction(flag, key, own)),
        Some(_) => Ok(()),
        None => {
            keys.insert(key.to_owned(), value);
            Ok(())
        }
    }
}

fn contradiction(flag: &'static str, key: &'static str, own: &Value) -> FlagsError {
    let value = own.as_str().map_or_else(|| own.to_string(), ToOwned::to_owned);
    FlagsError::Contradiction { flag, key, value }
}

/// Adds the ids of events to the payload. Returns whether they were not there. Malformed values are left to their parser.
fn add_event_id(keys: &mut Map<String, Value>) -> bool {
    let id = json!(IncludeField::EventId.key());
    match keys.get_mut(INCLUDE) {
        None => keys.insert(INCLUDE.to_owned(), json!([id])).is_none(),
        // An empty list is an error.
        Some(Value::Array(fields)) if !fields.is_empty() && !fields.contains(&id) => {
            fields.push(id);
            true
        }
        Some(_) => false,
    }
}

/// Returns the place of the event's id in a payload, which has it at its end, and the id.
fn event_id(payload: &str) -> Option<(usize, &str)> {
    let key = format!(",\"{}\":\"", IncludeField::EventId.key());
    let inner = payload.strip_suffix("\"}")?;
    let id = inner.len().checked_sub(EVENT_ID)?;
    let start = id.checked_sub(key.len())?;
    (inner.is_char_boundary(id) && inner.is_char_boundary(start) && inner[start..id] == key)
        .then(|| (start, &inner[id..]))
}

/// The events of earlier connections, which a later one may repeat.
#[derive(Debug, Default)]
pub struct Seen {
    current: HashSet<String>,
    earlier: HashSet<String>,
}

impl Seen {
    /// Records an event. Returns whether it is none of an earlier connection. Within one connection, an equal event is
    /// another one: the run has ended again.
    pub fn is_new(&mut self, id: &str) -> bool {
        let is_new = !self.earlier.remove(id);
        if self.current.len() < MAX_SEEN {
            self.current.insert(id.to_owned());
        }
        is_new
    }

    /// Begins another connection.
    pub fn reconnected(&mut self) {
        let room = MAX_SEEN.saturating_sub(self.earlier.len());
        self.earlier.extend(self.current.drain().take(room));
    }
}

#[cfg(test)]
mod tests;
