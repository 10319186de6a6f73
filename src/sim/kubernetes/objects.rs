//! The Workflows, and what has lately happened to them: a small etcd. Synchronous, without I/O.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use jiff::Timestamp;
use kube::core::Selector;
use rand::RngExt;
use serde_json::{Value, json};

use super::{
    super::random_uuid,
    Refusal,
    object::{API_VERSION, KIND, Object, invalid, merge},
    selector::is_subdomain,
};

/// How many changes are remembered. A watch that begins before them, or falls behind them, is told 410.
const HISTORY: usize = 10_000;
/// The version at the start. What an API server needs for itself comes before the first Workflow.
const FIRST: u64 = 200;
/// The letters that the API server ends generated names with: no vowels, so no words.
const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The Workflows by `namespace/name`: in this order they are listed.
type Live = BTreeMap<String, Arc<Object>>;

/// What a list or a watch covers: a namespace, or all of them.
pub(super) type Scope = Option<String>;

/// All Workflows, at one version.
#[derive(Debug)]
pub(super) struct Objects {
    version: u64,
    live: Live,
    changes: VecDeque<Change>,
    /// The changes up to this version are forgotten.
    compacted: u64,
}

#[derive(Debug)]
struct Change {
    version: u64,
    key: String,
    before: Option<Arc<Object>>,
    after: Option<Arc<Object>>,
}

/// What a watch is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventType {
    Added,
    Modified,
    Deleted,
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Arc<Object>>,
    pub(super) version: u64,
    /// Where the next page begins.
    pub(super) next: Option<Continue>,
    /// How many objects come after this page. Not known where a selector is set.
    pub(super) remaining: Option<usize>,
}

/// Where a list goes on, and at which version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Continue {
    pub(super) version: u64,
    /// The last key that was looked at.
    pub(super) after: String,
}

impl Default for Objects {
    fn default() -> Self {
        Self { version: FIRST, live: Live::new(), changes: VecDeque::new(), compacted: FIRST }
    }
}

impl Objects {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Result<Arc<Object>, Refusal> {
        self.live.get(&key(namespace, name)).cloned().ok_or_else(|| Refusal::not_found(name))
    }

    pub(super) fn create(&mut self, namespace: &str, mut value: Value) -> Result<Arc<Object>, Refusal> {
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let metadata = metadata.ok_or_else(|| Refusal::bad_request("the object provided has no metadata"))?;
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        if !text("namespace").is_empty() && text("namespace") != namespace {
            return Err(other_namespace());
        }
        let (mut name, prefix) = (text("name"), text("generateName"));
        if name.is_empty() && prefix.is_empty() {
            let why = "Required value: name or generateName is required";
            return Err(Refusal::invalid("", "FieldValueRequired", "metadata.name", why));
        }
        if name.is_empty() {
            let mut random = rand::rng();
            let ending = (0..5).map(|_| char::from(GENERATED[random.random_range(..GENERATED.len())]));
            name = prefix.chars().chain(ending).collect();
        }
        if !is_subdomain(&name) {
            return Err(invalid(&name, "metadata.name", &name, "a lowercase RFC 1123 subdomain is required"));
        }
        let key = key(namespace, &name);
        if self.live.contains_key(&key) {
            return Err(Refusal::already_exists(&name));
        }
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        for (field, value) in [
            ("name", json!(name)),
            ("namespace", json!(namespace)),
            ("uid", json!(random_uuid())),
            ("creationTimestamp", json!(now.to_string())),
            ("generation", json!(1)),
        ] {
            metadata.insert(field.to_owned(), value);
        }
        check_kind(&value, &name)?;
        Ok(self.put(key, None, Object::new(value)?))
    }

    /// Applies a merge patch. `metadata.uid` and `metadata.resourceVersion` in it are preconditions.
    pub(super) fn patch(&mut self, namespace: &str, name: &str, patch: &Value) -> Result<Arc<Object>, Refusal> {
        if !patch.is_object() {
            return Err(Refusal::bad_request("error decoding patch: it is not an object"));
        }
        let before = self.get(namespace, name)?;
        let mut value = before.value().clone();
        merge(&mut value, patch);
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let metadata = metadata.ok_or_else(|| Refusal::bad_request("metadata is not an object"))?;
        let asked = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default();
        if asked("name") != name {
            let asked = asked("name");
            return Err(Refusal::bad_request(format!(
                "the name of the object ({asked}) does not match the name on the URL ({name})"
            )));
        }
        if asked("namespace") != namespace {
            return Err(other_namespace());
        }
        match asked("resourceVersion") {
            "" => return Err(invalid(name, "metadata.resourceVersion", "0", "must be specified for an update")),
            version if version != before.text("resourceVersion") => return Err(Refusal::conflict(name)),
            _ => {}
        }
        match asked("uid") {
            uid if uid.is_empty() || uid == before.text("uid") => {}
            uid => return Err(invalid(name, "metadata.uid", uid, "field is immutable")),
        }
        // These are the API server's own; whatever a patch says of them is passed over.
        for field in ["uid", "creationTimestamp", "generation", "deletionTimestamp"] {
            match before.metadata().get(field) {
                Some(own) => metadata.insert(field.to_owned(), own.clone()),
                None => metadata.remove(field),
            };
        }
        check_kind(&value, name)?;
        let mut after = Object::new(value)?;
        if after == *before {
            return Ok(before);
        }
        if after.differs_beside_metadata(&before) {
            let generation = before.metadata()["generation"].as_u64().unwrap_or_default() + 1;
            after = after.with("generation", generation.into());
        }
        Ok(self.put(key(namespace, name), Some(before), after))
    }

    /// Deletes one; returns it as it was last.
    pub(super) fn delete(&mut self, namespace: &str, name: &str) -> Result<Arc<Object>, Refusal> {
        let key = key(namespace, name);
        let before = self.live.remove(&key).ok_or_else(|| Refusal::not_found(name))?;
        self.version += 1;
        self.remember(Change { version: self.version, key, before: Some(before.clone()), after: None });
        Ok(before)
    }

    fn put(&mut self, key: String, before: Option<Arc<Object>>, object: Object) -> Arc<Object> {
        self.version += 1;
        let after = Arc::new(object.with("resourceVersion", self.version.to_string().into()));
        self.live.insert(key.clone(), after.clone());
        self.remember(Change { version: self.version, key, before, after: Some(after.clone()) });
        after
    }

    fn remember(&mut self, change: Change) {
        self.changes.push_back(change);
        if self.changes.len() > HISTORY {
            self.compacted = self.changes.pop_front().map_or(self.compacted, |oldest| oldest.version);
        }
    }

    /// Forgets all changes, as etcd does of old ones every five minutes.
    pub(super) fn compact(&mut self) {
        self.changes.clear();
        self.compacted = self.version;
    }

    /// Lists at most `limit` objects that match. A page ends early only where the objects do; whether there are more
    /// that match is not looked at, so that the last page of a selection may be empty.
    pub(super) fn list(
        &self,
        scope: &Scope,
        selector: &Selector,
        limit: Option<usize>,
        from: Option<Continue>,
    ) -> Result<Page, Refusal> {
        let version = from.as_ref().map_or(self.version, |from| from.version);
        let live = self.as_of(version)?;
        let after = from.map(|from| from.after);
        let mut rest = within(&live, scope, after.as_deref()).peekable();
        let mut page = Page { items: Vec::new(), version, next: None, remaining: None };
        while let Some((key, object)) = rest.next() {
            if !object.matches(selector) {
                continue;
            }
            page.items.push(object.clone());
            if limit == Some(page.items.len()) {
                page.next = rest.peek().map(|_| Continue { version, after: key.clone() });
                page.remaining = (page.next.is_some() && selector.selects_all()).then(|| rest.count());
                break;
            }
        }
        Ok(page)
    }

    /// The objects as they were at a version, as far back as changes are remembered.
    fn as_of(&self, version: u64) -> Result<Cow<'_, Live>, Refusal> {
        if version < self.compacted || version > self.version {
            return Err(Refusal::expired_page());
        }
        let mut live = Cow::Borrowed(&self.live);
        for change in self.changes.iter().rev().take_while(|change| change.version > version) {
            match &change.before {
                Some(before) => live.to_mut().insert(change.key.clone(), before.clone()),
                None => live.to_mut().remove(&change.key),
            };
        }
        Ok(live)
    }

    /// What a watch with this selector is told of what happened after a version, in that order. An object that enters
    /// the selection is added, one that leaves it is deleted, in its last form inside.
    pub(super) fn since(
        &self,
        version: u64,
        scope: &Scope,
        selector: &Selector,
    ) -> Result<Vec<(EventType, Arc<Object>)>, Refusal> {
        if version < self.compacted {
            return Err(Refusal::expired(version, self.compacted));
        }
        let begin = self.changes.partition_point(|change| change.version <= version);
        let matching = |object: &Option<Arc<Object>>| object.clone().filter(|object| object.matches(selector));
        let event = |change: &Change| match (matching(&change.before), matching(&change.after)) {
            (None, None) => None,
            (None, Some(after)) => Some((EventType::Added, after)),
            (Some(_), Some(after)) => Some((EventType::Modified, after)),
            (Some(before), None) => {
                let version = change.version.to_string();
                Some((EventType::Deleted, Arc::new(Object::clone(&before).with("resourceVersion", version.into()))))
            }
        };
        let prefix = scope.as_ref().map(|namespace| key(namespace, ""));
        let inside = |change: &&Change| prefix.as_ref().is_none_or(|prefix| change.key.starts_with(prefix));
        Ok(self.changes.range(begin..).filter(inside).filter_map(event).collect())
    }
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn within<'a>(
    live: &'a Live,
    scope: &Scope,
    after: Option<&str>,
) -> impl Iterator<Item = (&'a String, &'a Arc<Object>)> {
    let prefix = scope.as_ref().map(|namespace| key(namespace, "")).unwrap_or_default();
    let begin = match after {
        Some(after) if *after >= *prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix.as_str()),
    };
    let range = live.range::<str, _>((begin, Bound::Unbounded));
    range.take_while(move |(key, _)| key.starts_with(&prefix))
}

fn other_namespace() -> Refusal {
    Refusal::bad_request("the namespace of the provided object does not match the namespace sent on the request")
}

fn check_kind(value: &Value, name: &str) -> Result<(), Refusal> {
    for (field, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let found = value[field].as_str().unwrap_or_default();
        if found != wanted {
            return Err(invalid(name, field, found, &format!("must be {wanted}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
