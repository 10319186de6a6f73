//! The stored Workflows and their recent changes. Synchronous, without I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use jiff::Timestamp;
use kube::core::{Selector, SelectorExt, Status};
use rand::RngExt;
use serde_json::{Value, json};

use super::super::{builders::merge, random_uuid};

/// The limit of remembered changes. A watch from before the oldest of them fails with 410.
const HISTORY: usize = 10_000;
/// The version of the empty storage. A real API server has stored objects of its own before the first Workflow.
const FIRST: u64 = 200;
/// The characters of generated names.
const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

type Stored = Result<Arc<Value>, Box<Status>>;

/// All Workflows, at one version.
pub(in crate::sim) struct Objects {
    pub(super) version: u64,
    /// By `namespace/name`, the order of lists.
    live: BTreeMap<String, Arc<Value>>,
    changes: VecDeque<Change>,
    /// The version of the latest forgotten change.
    forgotten: u64,
}

struct Change {
    version: u64,
    key: String,
    before: Option<Arc<Value>>,
    after: Option<Arc<Value>>,
}

/// The Workflows that a list or watch selects.
#[derive(Clone)]
pub(super) struct Selection {
    /// `None`: all namespaces.
    pub(super) namespace: Option<String>,
    pub(super) selector: Selector,
}

/// A page of a list.
pub(super) struct Page {
    pub(super) items: Vec<Arc<Value>>,
    pub(super) version: u64,
    /// The token of the next page.
    pub(super) next: Option<String>,
}

impl Selection {
    fn prefix(&self) -> String {
        self.namespace.as_ref().map_or_else(String::new, |namespace| key(namespace, ""))
    }

    fn matches(&self, object: &Value) -> bool {
        let labels = serde_json::from_value(object["metadata"]["labels"].clone());
        self.selector.matches(&labels.unwrap_or_default())
    }
}

impl Default for Objects {
    fn default() -> Self {
        Self { version: FIRST, live: BTreeMap::new(), changes: VecDeque::new(), forgotten: FIRST }
    }
}

impl Objects {
    pub(in crate::sim) fn get(&self, namespace: &str, name: &str) -> Stored {
        self.live.get(&key(namespace, name)).cloned().ok_or_else(|| not_found(name))
    }

    pub(in crate::sim) fn create(&mut self, namespace: &str, mut object: Value) -> Stored {
        let metadata = &mut object["metadata"];
        if let Some(prefix) = metadata["generateName"].as_str().filter(|_| metadata["name"].is_null()) {
            let mut random = rand::rng();
            let suffix = (0..5).map(|_| char::from(GENERATED[random.random_range(..GENERATED.len())]));
            metadata["name"] = prefix.chars().chain(suffix).collect::<String>().into();
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        if self.live.contains_key(&key(namespace, &name)) {
            let message = format!("workflows.argoproj.io {name:?} already exists");
            return Err(failure(409, "AlreadyExists", &message, details(&name, "workflows")));
        }
        let created = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        for (field, value) in [("namespace", namespace), ("uid", &random_uuid()), ("creationTimestamp", &created)] {
            metadata[field] = value.into();
        }
        Ok(self.put(key(namespace, &name), None, object))
    }

    /// Applies a merge patch. `metadata.uid` and `metadata.resourceVersion` in it are preconditions.
    pub(in crate::sim) fn patch(&mut self, namespace: &str, name: &str, patch: &Value) -> Stored {
        let before = self.get(namespace, name)?;
        let mut object = Value::clone(&before);
        merge(&mut object, patch);
        let changed = |field| object["metadata"][field] != before["metadata"][field];
        if changed("resourceVersion") {
            let message = format!(
                "Operation cannot be fulfilled on workflows.argoproj.io {name:?}: the object has been modified; please \
                 apply your changes to the latest version and try again"
            );
            return Err(failure(409, "Conflict", &message, details(name, "workflows")));
        }
        if changed("uid") {
            let why = format!("Invalid value: {}: field is immutable", object["metadata"]["uid"]);
            let message = format!("Workflow.argoproj.io {name:?} is invalid: metadata.uid: {why}");
            let mut details = details(name, "Workflow");
            details["causes"] = json!([{"reason": "FieldValueInvalid", "message": why, "field": "metadata.uid"}]);
            return Err(failure(422, "Invalid", &message, details));
        }
        Ok(self.put(key(namespace, name), Some(before), object))
    }

    pub(in crate::sim) fn delete(&mut self, namespace: &str, name: &str) -> Stored {
        let before = self.get(namespace, name)?;
        self.remember(key(namespace, name), Some(before.clone()), None);
        Ok(before)
    }

    fn put(&mut self, key: String, before: Option<Arc<Value>>, mut object: Value) -> Arc<Value> {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.retain(|_, value| *value != json!({}));
        }
        match before {
            Some(before) if *before == object => before,
            before => {
                object["metadata"]["resourceVersion"] = (self.version + 1).to_string().into();
                let after = Arc::new(object);
                self.remember(key, before, Some(after.clone()));
                after
            }
        }
    }

    fn remember(&mut self, key: String, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        self.version += 1;
        match &after {
            Some(after) => self.live.insert(key.clone(), after.clone()),
            None => self.live.remove(&key),
        };
        self.changes.push_back(Change { version: self.version, key, before, after });
        if self.changes.len() > HISTORY {
            self.forgotten = self.changes.pop_front().map_or(self.forgotten, |oldest| oldest.version);
        }
    }

    /// Lists at most `limit` matching Workflows. As in a real API server, the last page of a selection may be empty.
    pub(super) fn list(
        &self,
        selection: &Selection,
        limit: Option<usize>,
        token: Option<&str>,
    ) -> Result<Page, Box<Status>> {
        let (version, last) = match token {
            None => (self.version, ""),
            Some(token) => token
                .split_once(':')
                .and_then(|(version, last)| Some((version.parse().ok()?, last)))
                .ok_or_else(|| bad_request("invalid continue token"))?,
        };
        if version != self.version {
            let message = "The provided continue parameter is too old to display a consistent list result. You must \
                           start a new list without the continue parameter.";
            return Err(failure(410, "Expired", message, Value::Null));
        }
        let prefix = selection.prefix();
        let begin = if last.is_empty() { Bound::Included(prefix.as_str()) } else { Bound::Excluded(last) };
        let behind = self.live.range::<str, _>((begin, Bound::Unbounded));
        let mut rest = behind.take_while(|(key, _)| key.starts_with(&prefix)).peekable();
        let mut page = Page { items: Vec::new(), version, next: None };
        while let Some((key, object)) = rest.next() {
            if selection.matches(object) {
                page.items.push(object.clone());
            }
            if limit == Some(page.items.len()) {
                page.next = rest.peek().map(|_| format!("{version}:{key}"));
                break;
            }
        }
        Ok(page)
    }

    /// Returns the watch events after a version. A Workflow that enters the selection is `ADDED`; one that leaves it is
    /// `DELETED`, with its last content inside and the version of the change.
    pub(super) fn events_since(
        &self,
        version: u64,
        selection: &Selection,
    ) -> Result<Vec<(&'static str, Arc<Value>)>, Box<Status>> {
        if version < self.forgotten {
            let message = format!("too old resource version: {version} ({})", self.forgotten);
            return Err(failure(410, "Expired", &message, Value::Null));
        }
        let prefix = selection.prefix();
        let begin = self.changes.partition_point(|change| change.version <= version);
        let matching = |object: &Option<Arc<Value>>| object.clone().filter(|object| selection.matches(object));
        let event = |change: &Change| match (matching(&change.before), matching(&change.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(("ADDED", after)),
            (Some(_), Some(after)) => Some(("MODIFIED", after)),
            (Some(before), None) => {
                let mut last = Value::clone(&before);
                last["metadata"]["resourceVersion"] = change.version.to_string().into();
                Some(("DELETED", Arc::new(last)))
            }
        };
        Ok(self.changes.range(begin..).filter(|change| change.key.starts_with(&prefix)).filter_map(event).collect())
    }
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn not_found(name: &str) -> Box<Status> {
    let message = format!("workflows.argoproj.io {name:?} not found");
    failure(404, "NotFound", &message, details(name, "workflows"))
}

pub(super) fn bad_request(message: &str) -> Box<Status> {
    failure(400, "BadRequest", message, Value::Null)
}

pub(super) fn failure(code: u16, reason: &str, message: &str, details: Value) -> Box<Status> {
    let status = json!({"status": "Failure", "code": code, "reason": reason, "message": message, "details": details});
    serde_json::from_value(status).expect("the fields of a Status")
}

fn details(name: &str, kind: &str) -> Value {
    json!({"name": name, "group": "argoproj.io", "kind": kind})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(namespace: Option<&str>) -> Selection {
        Selection { namespace: namespace.map(str::to_owned), selector: Selector::default() }
    }

    fn create(objects: &mut Objects, namespace: &str, name: &str) {
        objects.create(namespace, json!({"metadata": {"name": name}})).unwrap();
    }

    #[test]
    fn a_list_has_one_namespace_or_all_in_the_order_of_keys() {
        let mut objects = Objects::default();
        for namespace in ["team", "team-a", "teb"] {
            create(&mut objects, namespace, "run");
        }
        let namespaces = |namespace| {
            let page = objects.list(&selection(namespace), None, None).unwrap();
            page.items.iter().map(|item| item["metadata"]["namespace"].to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(namespaces(None), r#""team-a" "team" "teb""#);
        assert_eq!(namespaces(Some("team")), r#""team""#);
        assert_eq!(namespaces(Some("te")), "");
    }

    #[test]
    fn the_next_page_expires_with_a_change() {
        let mut objects = Objects::default();
        create(&mut objects, "team", "a");
        create(&mut objects, "team", "b");
        let all = selection(None);
        let token = objects.list(&all, Some(1), None).unwrap().next;
        assert_eq!(objects.list(&all, Some(1), token.as_deref()).unwrap().items[0]["metadata"]["name"], "b");
        create(&mut objects, "team", "c");
        let expired = objects.list(&all, Some(1), token.as_deref()).err().unwrap();
        assert_eq!((expired.code, expired.reason.as_str()), (410, "Expired"));
    }

    #[test]
    fn a_watch_begins_within_the_remembered_changes() {
        let mut objects = Objects::default();
        for _ in 0..=HISTORY / 2 {
            create(&mut objects, "team", "run");
            objects.delete("team", "run").unwrap();
        }
        let expired = objects.events_since(FIRST, &selection(None)).unwrap_err();
        assert_eq!((expired.code, expired.reason.as_str()), (410, "Expired"));
        assert_eq!(objects.events_since(FIRST + 2, &selection(None)).unwrap().len(), HISTORY);
    }
}
