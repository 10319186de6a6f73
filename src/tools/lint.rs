//! Problems of EventSources and Sensors, from their manifests alone: the server's own parser for `config`, and the rules
//! of Argo Events that decide whether an event reaches a trigger.
//!
//! | module | holds |
//! |---|---|
//! | `node`, `yaml` | values with their places, and the parser of YAML |
//! | [`rules`] | the rules and their ids |
//! | `findings` | findings |
//! | `event_sources`, `url` | rules for EventSources |
//! | `sensors`, `paths`, `regex` | rules for Sensors |
//! | [`sarif`] | the report for code scanning |

mod event_sources;
mod findings;
mod node;
mod paths;
mod regex;
pub mod rules;
pub mod sarif;
mod sensors;
mod url;
mod yaml;

use std::sync::Arc;

pub use self::{
    event_sources::{Entry, Event, EventSource},
    findings::{Finding, Findings, MAX_FINDINGS, Subject},
    node::{Block, Key, Node, Position, Value},
    rules::{Rule, Severity},
    url::{Target, target},
};

/// The largest file, in bytes. An object of Kubernetes has at most 1.5 MiB.
pub const MAX_FILE: usize = 4 * 1024 * 1024;

/// Characters of an object in a finding: its kind, namespace and name.
const MAX_SHOWN: usize = 350;
/// The API group and version of EventSources and Sensors.
const API_VERSION: &str = "argoproj.io/v1alpha1";

/// The kind of an object that has rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An EventSource.
    EventSource,
    /// A Sensor.
    Sensor,
}

/// An EventSource or a Sensor.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace. `None` if the manifest has none.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// Where findings about it belong.
    pub subject: Subject,
    /// Its content.
    pub root: Node,
}

/// The result of all rules.
#[derive(Debug)]
pub struct Report {
    /// The findings, by file and place.
    pub findings: Vec<Finding>,
    /// Findings that exceed [`MAX_FINDINGS`].
    pub omitted: usize,
    /// The number of files.
    pub files: usize,
    /// The number of EventSources and Sensors in them.
    pub objects: usize,
}

impl Report {
    /// The number of findings of a weight.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Files to lint, one after the other.
#[derive(Debug, Default)]
pub struct Linter {
    /// Namespace of objects without one.
    namespace: Option<Arc<str>>,
    /// Addresses of the server. Without any, every generic entry is taken as one for it.
    services: Vec<String>,
    files: Vec<Arc<str>>,
    objects: Vec<Object>,
    findings: Findings,
}

impl Linter {
    /// A linter of objects that are applied to `namespace` if they name none, for entries with these urls.
    pub fn new(namespace: Option<Arc<str>>, services: Vec<String>) -> Self {
        Self { namespace, services, ..Self::default() }
    }

    /// Adds a file that cannot be read, for this reason.
    pub fn unreadable(&mut self, name: &str, reason: &str) {
        let subject = self.file(name);
        self.findings.add(&subject, None, &rules::UNREADABLE_FILE, format!("cannot be read: {reason}"));
    }

    /// Notes a folder without manifests: probably another one was meant.
    pub fn without_manifests(&mut self, folder: &str) {
        let subject = Subject { file: Some(folder.into()), object: None };
        let message = "the folder has no file with the extension yaml, yml or json; name another, or add --recursive for the \
                       folders in it";
        self.findings.add(&subject, None, &rules::NOTHING_TO_CHECK, message);
    }

    /// Adds a file.
    pub fn add(&mut self, name: &str, content: &[u8]) {
        let subject = self.file(name);
        if content.len() > MAX_FILE {
            let message = format!("has more than {} MiB; divide it, or leave it out", MAX_FILE >> 20);
            self.findings.add(&subject, None, &rules::FILE_TOO_LARGE, message);
            return;
        }
        let text = match std::str::from_utf8(content) {
            // Editors on Windows write this mark.
            Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
            Err(error) => {
                let message = format!("is not UTF-8 after byte {}; save it as UTF-8", error.valid_up_to());
                self.findings.add(&subject, Some(Position::START), &rules::NOT_YAML, message);
                return;
            }
        };
        for (bytes, lines) in yaml::documents(text) {
            let document = &text[bytes];
            // Other documents are none of the linter's business, and need not be YAML: templates of Helm, for example.
            if !["EventSource", "Sensor"].iter().any(|kind| document.contains(kind)) {
                continue;
            }
            match yaml::parse(document, lines) {
                Ok(root) => self.object(root, &subject, 0),
                Err(error) => {
                    let mend = if document.contains("{{") && error.problem.starts_with("not valid YAML") {
                        "; render templates first, such as with `helm template`"
                    } else {
                        ""
                    };
                    self.findings.add(&subject, Some(error.at), &rules::NOT_YAML, format!("{}{mend}", error.problem));
                }
            }
        }
    }

    /// The findings of all files.
    pub fn finish(mut self) -> Report {
        // Another finding explains it.
        if self.objects.is_empty()
            && self.findings.is_empty()
            && let Some(file) = self.files.first()
        {
            let subject = Subject { file: Some(file.clone()), object: None };
            let message = "no file has an EventSource or a Sensor; name the files, or a folder with --recursive";
            self.findings.add(&subject, None, &rules::NOTHING_TO_CHECK, message);
        }
        let services = self.services;
        let is_ours =
            |_: &Object, url: &str| services.is_empty() || services.iter().any(|service| same_server(service, url));
        check(&self.objects, &is_ours, &mut self.findings);
        let (findings, omitted) = self.findings.sorted(&self.files);
        Report { findings, omitted, files: self.files.len(), objects: self.objects.len() }
    }

    fn file(&mut self, name: &str) -> Subject {
        let name: Arc<str> = name.into();
        self.files.push(name.clone());
        Subject { file: Some(name), object: None }
    }

    /// Adds the object of a document, or those of a list.
    fn object(&mut self, root: Node, subject: &Subject, depth: usize) {
        /// A list in a list is legal, and unusual.
        const MAX_LISTS: usize = 4;
        let is_list = root.text_of("kind").is_some_and(|kind| kind.ends_with("List"));
        if is_list && depth < MAX_LISTS {
            for item in root.get("items").map_or(&[][..], Node::items) {
                self.object(item.clone(), subject, depth + 1);
            }
            return;
        }
        if let Some(object) = Object::new(root, subject.file.clone(), self.namespace.as_ref(), &mut self.findings) {
            self.objects.push(object);
        }
    }
}

/// Returns whether two urls name the same server, in whatever form.
fn same_server(service: &str, url: &str) -> bool {
    match (url::target(service), url::target(url)) {
        (Ok(Some(service)), Ok(Some(target))) => service == target,
        _ => service == url,
    }
}

impl Object {
    /// An EventSource or a Sensor of Argo Events. `None` for other objects.
    pub fn new(
        root: Node,
        file: Option<Arc<str>>,
        default_namespace: Option<&Arc<str>>,
        findings: &mut Findings,
    ) -> Option<Self> {
        let kind = match root.text_of("kind")? {
            "EventSource" => Kind::EventSource,
            "Sensor" => Kind::Sensor,
            _ => return None,
        };
        let version = root.get("apiVersion");
        let written = version.and_then(Node::text).unwrap_or_default();
        // Knative has kinds of similar names.
        if !written.is_empty() && !written.starts_with("argoproj.io/") {
            return None;
        }
        let text = |key| root.at_path(&["metadata", key]).and_then(Node::text).filter(|text| !text.is_empty());
        let namespace: Option<Arc<str>> = text("namespace").map(Into::into).or_else(|| default_namespace.cloned());
        let name: Arc<str> = text("name").or(text("generateName")).unwrap_or("(without a name)").into();
        let full = match &namespace {
            Some(namespace) => format!("{kind:?} {namespace}/{name}"),
            None => format!("{kind:?} {name}"),
        };
        // Names of objects are shorter; an invalid one may have any length.
        let shown: String = full.chars().take(MAX_SHOWN).collect();
        let subject = Subject { file, object: Some(shown.into()) };
        if written != API_VERSION {
            let at = version.and_then(|version| version.at).or(root.at);
            findings.add(
                &subject,
                at,
                &rules::API_VERSION,
                format!("apiVersion is {written:?}; write `{API_VERSION}`"),
            );
        }
        if text("name").or(text("generateName")).is_none() {
            let at = root.entry("metadata").and_then(|(key, _)| key.at).or(root.at);
            findings.add(&subject, at, &rules::NAME, "metadata.name is missing; write `name: …` below metadata");
        }
        Some(Self { kind, namespace, name, subject, root })
    }
}

/// Applies the rules to objects of any number of files or namespaces. `is_ours` decides by its url whether an entry of an
/// EventSource is for this server. Returns the EventSources.
pub fn check(
    objects: &[Object],
    is_ours: &dyn Fn(&Object, &str) -> bool,
    findings: &mut Findings,
) -> Vec<(EventSource, Subject)> {
    let mut sources = Vec::new();
    for object in objects.iter().filter(|object| object.kind == Kind::EventSource) {
        sources.push((event_sources::check(object, is_ours, findings), object.subject.clone()));
    }
    event_sources::check_shared(&sources, findings);
    let known: Vec<EventSource> = sources.iter().map(|(source, _)| source.clone()).collect();
    let known = sensors::Sources::new(&known);
    for object in objects.iter().filter(|object| object.kind == Kind::Sensor) {
        sensors::check(object, &known, findings);
    }
    sources
}

#[cfg(test)]
mod tests;
