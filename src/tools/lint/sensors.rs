//! Rules for Sensors.

use std::collections::{BTreeMap, HashMap};

use super::{
    Findings, Object, Severity,
    event_sources::{Event, EventSource},
    node::{Node, Position, Value},
    paths::{self, Fields, PathProblem, Step},
    regex::{Anchoring, anchoring},
    rules::{self, Rule},
};
use crate::eventsource::config::quoted;

/// The known facts about the event of a dependency.
enum Source {
    /// An event of this server, with these fields.
    Ours { fields: Fields, name: String },
    /// An event of another type or server.
    Other,
    /// An event of an EventSource that is not known.
    Unknown,
}

/// The known EventSources of all namespaces, found by name and by namespace: a dependency is compared with few of them,
/// however many there are.
pub(super) struct Sources<'a> {
    all: &'a [EventSource],
    by_name: HashMap<&'a str, Vec<&'a EventSource>>,
    by_namespace: HashMap<Option<&'a str>, Vec<&'a EventSource>>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(all: &'a [EventSource]) -> Self {
        let (mut by_name, mut by_namespace) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for source in all {
            by_name.entry(&*source.name).or_default().push(source);
            by_namespace.entry(source.namespace.as_deref()).or_default().push(source);
        }
        Self { all, by_name, by_namespace }
    }

    fn named(&self, name: &str) -> &[&'a EventSource] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The EventSources that a Sensor of this namespace may see. A manifest without a namespace is applied to that of
    /// the others.
    fn seen_from<'s>(&'s self, namespace: Option<&'s str>) -> Box<dyn Iterator<Item = &'s EventSource> + 's> {
        let of = |namespace| self.by_namespace.get(&namespace).into_iter().flatten().copied();
        match namespace {
            None => Box::new(self.all.iter()),
            Some(_) => Box::new(of(namespace).chain(of(None))),
        }
    }
}

/// Checks a Sensor.
pub(super) fn check(object: &Object, sources: &Sources<'_>, findings: &mut Findings) {
    let spec = object.root.get("spec");
    let mut checker = Checker { object, findings };
    let dependencies = checker.dependencies(spec, sources);
    checker.triggers(spec, &dependencies);
}

struct Checker<'a> {
    object: &'a Object,
    findings: &'a mut Findings,
}

/// A dependency by its name. `None` for the source if its paths cannot be checked.
type Dependencies<'a> = BTreeMap<&'a str, Source>;

impl Checker<'_> {
    fn add(&mut self, at: Option<Position>, rule: &'static Rule, message: String) {
        self.findings.add(&self.object.subject, at.or(self.object.root.at), rule, message);
    }

    fn dependencies<'a>(&mut self, spec: Option<&'a Node>, sources: &Sources<'_>) -> Dependencies<'a> {
        let list = spec.and_then(|spec| spec.entry("dependencies"));
        let items = list.map_or(&[][..], |(_, list)| list.items());
        if items.is_empty() {
            let at = list.and_then(|(key, _)| key.at).or(spec.and_then(|spec| spec.at));
            let message =
                "spec.dependencies has no entry; write one with name, eventSourceName and eventName".to_owned();
            self.add(at, &rules::DEPENDENCY, message);
        }
        let mut found = Dependencies::new();
        for dependency in items {
            if self.findings.is_full() {
                break;
            }
            let field = |name| dependency.text_of(name).filter(|text| !text.is_empty());
            for name in ["name", "eventSourceName", "eventName"] {
                if field(name).is_none() {
                    let message =
                        format!("a dependency has no {name}; write it, as Argo Events refuses the Sensor without");
                    self.add(dependency.at, &rules::DEPENDENCY, message);
                }
            }
            let source = match (field("eventSourceName"), field("eventName")) {
                (Some(source), Some(event)) => self.resolve(dependency, source, event, sources),
                _ => Source::Unknown,
            };
            let transformed = dependency.get("transform").is_some_and(|transform| !transform.entries().is_empty());
            // A transformation changes the event before the filters see it.
            let source = if transformed { Source::Other } else { source };
            self.filters(dependency, &source);
            let Some(name) = field("name") else { continue };
            if found.insert(name, source).is_some() {
                let at = dependency.get("name").and_then(|name| name.at);
                self.add(
                    at,
                    &rules::DEPENDENCY,
                    format!("two dependencies have the name {}; rename one", quoted(name)),
                );
            }
        }
        found
    }

    /// Finds the event of a dependency.
    fn resolve(&mut self, dependency: &Node, source: &str, event: &str, sources: &Sources<'_>) -> Source {
        let namespace = &self.object.namespace;
        let same =
            |other: &&EventSource| other.namespace == *namespace || other.namespace.is_none() || namespace.is_none();
        let named: Vec<&EventSource> = sources.named(source).iter().copied().filter(same).collect();
        let at = |field| dependency.get(field).and_then(|node| node.at);
        if named.is_empty() {
            let seen = || sources.seen_from(namespace.as_deref());
            let meant = similar(source, seen().map(|known| &*known.name));
            let known_elsewhere = sources.named(source).first();
            let message = match (meant, known_elsewhere) {
                (Some(meant), _) => format!("there is no EventSource {source} here; did you mean {meant}?"),
                (None, Some(other)) => format!(
                    "the EventSource {source} is in the namespace {}, and a Sensor sees only those of its own; move one of the two",
                    other.namespace.as_deref().unwrap_or_default()
                ),
                (None, None) => {
                    format!("there is no EventSource {source} here; correct eventSourceName, or lint its manifest too")
                }
            };
            if seen().next().is_some() || known_elsewhere.is_some() {
                self.add(at("eventSourceName"), &rules::UNKNOWN_EVENT_SOURCE, message);
            }
            return Source::Unknown;
        }
        let events = || named.iter().flat_map(|known| &known.events);
        let Some(found) = events().find(|known| *known.name == *event) else {
            if events().next().is_some() {
                let mend = match similar(event, events().map(|known| &*known.name)) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => format!("write {}", some(events().map(|known| &*known.name), " or ")),
                };
                let message = format!("the EventSource {source} has no event {event}; {mend}");
                self.add(at("eventName"), &rules::UNKNOWN_EVENT, message);
            }
            return Source::Unknown;
        };
        known(source, found)
    }

    fn filters(&mut self, dependency: &Node, source: &Source) {
        let Some(filters) = dependency.get("filters") else { return };
        for filter in filters.get("data").map_or(&[][..], Node::items) {
            self.data_filter(filter, source);
        }
        let expressions = filters.get("exprs").map_or(&[][..], Node::items);
        for field in expressions.iter().flat_map(|expression| expression.get("fields").map_or(&[][..], Node::items)) {
            if let Some(path) = field.get("path") {
                self.path(path, source, Severity::Error);
            }
        }
    }

    fn data_filter(&mut self, filter: &Node, source: &Source) {
        let values = filter.get("value").map_or(&[][..], Node::items);
        let path = filter.get("path").filter(|path| path.text().is_some_and(|text| !text.is_empty()));
        let kind = filter.text_of("type");
        if path.is_none() || values.is_empty() || !matches!(kind, Some("string" | "number" | "bool")) {
            let message = "a data filter needs a path, a type (string, number or bool) and a list of values; write \
                           `{path: body.pipelineName, type: string, value: [^penguin-pipeline$]}`";
            self.add(filter.at, &rules::FILTER, message.to_owned());
        }
        let comparator = filter.text_of("comparator").unwrap_or_default();
        if !["", "=", "!=", ">", ">=", "<", "<="].contains(&comparator) {
            let at = filter.get("comparator").and_then(|node| node.at);
            self.add(
                at,
                &rules::FILTER,
                format!("the comparator {} does not exist; write = or !=", quoted(comparator)),
            );
        } else if kind == Some("string") && !["", "=", "!="].contains(&comparator) {
            let at = filter.get("comparator").and_then(|node| node.at);
            let message = format!("the comparator {comparator} never matches text; write = or !=, or another type");
            self.add(at, &rules::FILTER, message);
        }
        for value in values.iter().filter(|value| value.text().is_none_or(str::is_empty)) {
            let message = format!("a value of the filter is {}; write text, in quotes", value.kind());
            self.add(value.at, &rules::FILTER, message);
        }
        let Some(path) = path else { return };
        let template = filter.get("template").filter(|template| template.text().is_some());
        self.path(path, source, Severity::Error);
        if let Some(template) = template {
            // The template's input is the value at the path.
            let base = paths::gjson(path.text().unwrap_or_default());
            self.template(template, &base, source, Severity::Error);
        }
        if kind == Some("string") && is_pipeline(path, template) && !matches!(source, Source::Other) {
            self.regexes(values);
        }
    }

    fn regexes(&mut self, values: &[Node]) {
        for value in values {
            let Some(pattern) = value.text().filter(|text| !text.is_empty()) else { continue };
            match anchoring(pattern) {
                Anchoring::Whole => {}
                Anchoring::Part => {
                    let message = format!(
                        "the filter {} matches every pipeline whose name contains it, as Argo Events searches a regular \
                         expression anywhere in a text; write ^…$ around the whole name, or .* where anything may follow",
                        quoted(pattern)
                    );
                    self.add(value.at, &rules::UNANCHORED_FILTER, message);
                }
                Anchoring::Unknown(problem) => {
                    let message = format!(
                        "the filter {} may be no regular expression: {problem}; put a backslash before each of . + * ? ( ) [ ] {{ \
                         }} ^ $ | that stands for itself",
                        quoted(pattern)
                    );
                    self.add(value.at, &rules::INVALID_REGEX, message);
                }
            }
        }
    }

    fn triggers(&mut self, spec: Option<&Node>, dependencies: &Dependencies<'_>) {
        let list = spec.and_then(|spec| spec.entry("triggers"));
        let items = list.map_or(&[][..], |(_, list)| list.items());
        if items.is_empty() {
            let at = list.and_then(|(key, _)| key.at).or(spec.and_then(|spec| spec.at));
            let message =
                "spec.triggers has no entry; write one, such as `{template: {name: log, log: {}}}`".to_owned();
            self.add(at, &rules::TRIGGER, message);
        }
        let mut names = Vec::new();
        for trigger in items {
            match trigger.at_path(&["template", "name"]) {
                Some(node) if node.text().is_some_and(|name| !name.is_empty()) => {
                    let name = node.text().unwrap_or_default();
                    if names.contains(&name) {
                        let message = format!("two triggers have the name {}; rename one", quoted(name));
                        self.add(node.at, &rules::TRIGGER, message);
                    }
                    names.push(name);
                }
                _ => {
                    let at = trigger.entry("template").and_then(|(key, _)| key.at).or(trigger.at);
                    let message =
                        "a trigger has no template.name, which Argo Events requires; write `name: …` below template";
                    self.add(at, &rules::TRIGGER, message.to_owned());
                }
            }
            self.parameters(trigger, dependencies);
        }
    }

    /// Checks all parameters of a trigger, at any depth.
    fn parameters(&mut self, node: &Node, dependencies: &Dependencies<'_>) {
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.parameters(item, dependencies)),
            Value::Map(entries) => {
                for (key, value) in entries {
                    match key.text.as_str() {
                        "src" => self.parameter(value, dependencies),
                        // The object that a trigger creates: possibly a Sensor of its own.
                        "source" => {}
                        _ => self.parameters(value, dependencies),
                    }
                }
            }
            _ => {}
        }
    }

    fn parameter(&mut self, src: &Node, dependencies: &Dependencies<'_>) {
        let Some(dependency) = src.get("dependencyName").filter(|_| !self.findings.is_full()) else { return };
        let name = dependency.text().unwrap_or_default();
        let Some(source) = dependencies.get(name) else {
            let mend = match similar(name, dependencies.keys().copied()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("write one of {}", some(dependencies.keys().copied(), ", ")),
            };
            let message =
                format!("a parameter has the dependencyName {}, which the Sensor has not; {mend}", quoted(name));
            self.add(dependency.at, &rules::UNKNOWN_DEPENDENCY, message);
            return;
        };
        // With a default value the trigger is executed, without what it was meant to carry.
        let severity = if src.get("value").is_some() { Severity::Warning } else { Severity::Error };
        if let Some(path) = src.get("dataKey") {
            self.path(path, source, severity);
        }
        if let Some(template) = src.get("dataTemplate") {
            self.template(template, &[], source, severity);
        }
    }

    /// Checks a gjson path into the data of an event.
    fn path(&mut self, node: &Node, source: &Source, severity: Severity) {
        let (Some(path), Source::Ours { fields, name }) = (node.text(), source) else { return };
        let result = fields.check(&paths::gjson(path));
        self.problem(node, &format!("the path {}", quoted(path)), result, name, severity);
    }

    /// Checks a Go template whose input is the value at a path of the data.
    fn template(&mut self, node: &Node, base: &[Step], source: &Source, severity: Severity) {
        let (Some(template), Source::Ours { fields, name }) = (node.text(), source) else { return };
        let body = Step::Key("body".to_owned());
        let reads_body =
            base == [body.clone()] || paths::template_inputs(template).iter().any(|steps| *steps == [body.clone()]);
        if paths::decodes_base64(template) {
            if fields.json_body && reads_body {
                let message = format!(
                    "the template decodes base64, but the body of {name} is JSON (jsonBody: true); read the field without \
                     b64dec, such as body.pipelineName"
                );
                self.findings.add_as(severity, &self.object.subject, node.at, &rules::JSON_BODY, message);
            }
            for steps in paths::template_json(template) {
                self.problem(node, "the template", fields.payload(&steps), name, severity);
            }
            return;
        }
        if base.is_empty() {
            for steps in paths::template_inputs(template) {
                self.problem(node, "the template", fields.check(&steps), name, severity);
            }
        }
    }

    fn problem(&mut self, node: &Node, what: &str, result: Result<(), PathProblem>, source: &str, severity: Severity) {
        let (rule, message) = match result {
            Ok(()) => return,
            Err(PathProblem::NeedsJsonBody) => (
                &rules::JSON_BODY,
                format!(
                    "{what} reads a field of the body, which is base64 text; write `jsonBody: true` in the entry of {source}, or \
                     decode it in a template"
                ),
            ),
            Err(PathProblem::NotIncluded(field)) => (
                &rules::NOT_INCLUDED,
                format!(
                    "{what} reads {field}, which {source} does not include; write `include: [{field}]` in its config"
                ),
            ),
            Err(PathProblem::Unknown(problem)) => (&rules::UNKNOWN_PATH, format!("{what} does not exist: {problem}")),
        };
        self.findings.add_as(severity, &self.object.subject, node.at, rule, message);
    }
}

/// The known facts about an event.
fn known(source: &str, event: &Event) -> Source {
    match &event.entry {
        None => Source::Other,
        Some(entry) => match &entry.subscription {
            Some(subscription) => Source::Ours {
                fields: Fields {
                    json_body: entry.json_body,
                    include: subscription.include,
                    failed: subscription.statuses.failed,
                },
                name: format!("the EventSource {source}"),
            },
            // Its configuration has a finding already.
            None => Source::Unknown,
        },
    }
}

/// Returns whether a filter compares the name of the pipeline.
fn is_pipeline(path: &Node, template: Option<&Node>) -> bool {
    let steps = paths::gjson(path.text().unwrap_or_default());
    let is_field = |steps: &[Step]| matches!(steps.last(), Some(Step::Key(key)) if key == "pipelineName");
    match template.and_then(Node::text) {
        None => is_field(&steps),
        Some(template) => {
            let fields = paths::template_json(template).into_iter().chain(paths::template_inputs(template));
            fields.into_iter().any(|steps| is_field(&steps)) || is_field(&steps)
        }
    }
}

/// The largest edit distance of a misspelled name.
const MAX_DISTANCE: usize = 2;

/// Names that are compared with a misspelled one.
const MAX_COMPARED: usize = 1_000;
/// Bytes of a name that is compared. The work grows with the square of it.
const MAX_NAME: usize = 256;
/// Names in a message.
const MAX_LISTED: usize = 8;

/// The known name that was probably meant.
fn similar<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > MAX_NAME {
        return None;
    }
    let known = known.into_iter().take(MAX_COMPARED).filter(|known| known.len() <= MAX_NAME);
    let distances = known.map(|known| (strsim::levenshtein(written, known), known));
    distances.min().filter(|(distance, _)| *distance <= MAX_DISTANCE).map(|(_, known)| known)
}

/// The first of the known names.
fn some<'a>(known: impl IntoIterator<Item = &'a str>, separator: &str) -> String {
    known.into_iter().take(MAX_LISTED).collect::<Vec<_>>().join(separator)
}
