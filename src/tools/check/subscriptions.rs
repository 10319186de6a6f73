//! EventSources that point to the server, their EventBuses, and the Sensors that depend on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use super::{
    ARGO, Category, Options, Outcome, answers, path,
    server::Server,
    services::{Points, points},
};
use crate::{
    k8s::{Cluster, ClusterError},
    tools::{
        lint::{self, EventSource, Findings, Kind, Node, Object, Severity, Subject},
        list_widely,
    },
};

const EVENT_SOURCES: &str = "eventsources";
/// The most findings that are shown one by one.
const MAX_SHOWN: usize = 100;

/// Checks the EventSources and Sensors.
pub(super) async fn check(cluster: &Cluster, options: &Options, server: &Server) -> Category {
    let mut category = Category::new("event-sources");
    if server.services.is_empty() && options.services.is_empty() {
        let description = "the addresses of the server are known";
        match &server.unreadable {
            Some(error) => category.unknown(description, error),
            None => category.warn(
                description,
                "no Service selects Pods of the server",
                "give the url of the EventSources with --service HOST:PORT",
            ),
        }
        return category;
    }
    let (mut lists, mut denied) = (Vec::new(), Vec::new());
    for resource in [EVENT_SOURCES, "sensors"] {
        match list(cluster, options, resource).await {
            Ok((found, None)) => lists.push(found),
            Ok((found, Some(refusal))) => {
                category.unknown(format!("can list {resource} in all namespaces"), &refusal);
                lists.push(found);
            }
            Err(ClusterError::NotFound { .. }) => return category,
            Err(error) => {
                category.unknown(format!("can list {resource}"), &error);
                denied.push(resource);
                lists.push(Vec::new());
            }
        }
    }
    if denied.contains(&EVENT_SOURCES) {
        return category;
    }
    let sensors = lists.pop().unwrap_or_default();
    let sources = lists.pop().unwrap_or_default();
    let buses = bus_names(&sources);
    let here = rules(&mut category, options, server, &sources, &sensors);
    event_buses(&mut category, cluster, &here, &buses).await;
    category
}

/// Returns the objects of a resource in the namespace that was chosen, else as [`list_widely`].
async fn list(
    cluster: &Cluster,
    options: &Options,
    resource: &str,
) -> Result<(Vec<Value>, Option<ClusterError>), ClusterError> {
    match options.namespace.as_deref() {
        Some(namespace) => Ok((cluster.list(&path(ARGO, Some(namespace), resource), &[]).await?, None)),
        None => list_widely(cluster, resource, Some(cluster.default_namespace())).await,
    }
}

/// Applies the rules of `lint` to everything that is for this server. Returns the EventSources that point to it.
fn rules(
    category: &mut Category,
    options: &Options,
    server: &Server,
    sources: &[Value],
    sensors: &[Value],
) -> Vec<EventSource> {
    let mut findings = Findings::default();
    let objects = |values: &[Value], kind: &str, findings: &mut Findings| {
        let object = |value: &Value| {
            let mut value = value.clone();
            // The items of a list have neither.
            value["kind"] = kind.into();
            value["apiVersion"] = "argoproj.io/v1alpha1".into();
            Object::new(Node::from(&value), None, None, findings)
        };
        values.iter().filter_map(object).collect::<Vec<Object>>()
    };
    let points_at = |namespace: Option<&Arc<str>>, url: &str| {
        points(url, namespace.map(|namespace| &**namespace).unwrap_or_default(), &server.services, &options.services)
    };
    let url_of = |entry: &Node| entry.text_of("url").unwrap_or_default().to_owned();
    // An EventSource counts by its urls: others are for other servers.
    let is_here = |object: &Object| {
        let entries = object.root.at_path(&["spec", "generic"]).map_or(&[][..], Node::entries);
        entries.iter().any(|(_, entry)| points_at(object.namespace.as_ref(), &url_of(entry)) != Points::Elsewhere)
    };
    let mut all: Vec<Object> = objects(sources, "EventSource", &mut findings);
    all.retain(is_here);
    let names: BTreeSet<_> = all.iter().map(|source| (source.namespace.clone(), source.name.clone())).collect();
    let depends = |sensor: &Object| {
        let dependencies = sensor.root.at_path(&["spec", "dependencies"]).map_or(&[][..], Node::items);
        let named = |dependency: &Node| dependency.text_of("eventSourceName").map(Arc::<str>::from);
        dependencies.iter().filter_map(named).any(|name| names.contains(&(sensor.namespace.clone(), name)))
    };
    let mut dependents = objects(sensors, "Sensor", &mut findings);
    dependents.retain(depends);
    let count = dependents.len();
    all.extend(dependents);
    let is_ours = |object: &Object, url: &str| points_at(object.namespace.as_ref(), url) != Points::Elsewhere;
    let checked = lint::check(&all, &is_ours, &mut findings);
    wrong_ports(&all, &points_at, &mut findings);
    let here: Vec<EventSource> = checked.into_iter().map(|(source, _)| source).collect();
    if here.is_empty() {
        category.warn(
            "EventSources point to the server",
            "no EventSource has the url of the server",
            "create one, such as examples/eventsource/options.yaml; other addresses of the server: --service HOST:PORT",
        );
        return here;
    }
    category.ok(format!("EventSources point to the server ({})", here.len()));
    report(category, findings, count);
    here
}

/// Adds entries that name a Service of the server, and one of its other ports.
fn wrong_ports(objects: &[Object], points_at: &dyn Fn(Option<&Arc<str>>, &str) -> Points, findings: &mut Findings) {
    for object in objects.iter().filter(|object| object.kind == Kind::EventSource) {
        for (key, entry) in object.root.at_path(&["spec", "generic"]).map_or(&[][..], Node::entries) {
            let url = entry.text_of("url").unwrap_or_default();
            let has_port = matches!(lint::target(url), Ok(Some(_)));
            if has_port && points_at(object.namespace.as_ref(), url) == Points::WrongPort {
                let message = format!(
                    "{}: url {url} has a port of the server's Service that does not lead to gRPC; write its port for gRPC, 50051 by \
                     default",
                    key.text
                );
                let subject = Subject { file: None, object: object.subject.object.clone() };
                findings.add(&subject, None, &lint::rules::URL, message);
            }
        }
    }
}

/// Adds the findings as checks, or one that there are none.
fn report(category: &mut Category, findings: Findings, sensors: usize) {
    let (findings, omitted) = findings.sorted(&[]);
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    if count(Severity::Error) == 0 {
        category.ok(format!("they, and the Sensors that depend on them ({sensors}), are correct"));
    }
    for finding in findings.iter().take(MAX_SHOWN) {
        let object = finding.object.as_deref().unwrap_or_default();
        let result = if finding.severity == Severity::Error { Outcome::Error } else { Outcome::Warning };
        let hint = format!("rule {}: {}", finding.rule.id, finding.rule.summary);
        category.push(format!("{object} is correct"), result, Some((finding.message.clone(), hint)));
    }
    let more = findings.len().saturating_sub(MAX_SHOWN) + omitted;
    if more > 0 {
        let hint = "mend those above, and repeat the check";
        category.warn("all problems are shown", format!("{more} more problems"), hint);
    }
}

/// The EventBus of each EventSource, by namespace and name.
fn bus_names(sources: &[Value]) -> BTreeMap<(String, String), String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let bus = |source: &Value| {
        let key = (text(&source["metadata"]["namespace"]), text(&source["metadata"]["name"]));
        let name = source["spec"]["eventBusName"].as_str().filter(|name| !name.is_empty()).unwrap_or("default");
        (key, name.to_owned())
    };
    sources.iter().map(bus).collect()
}

/// Checks that the EventBuses of these EventSources exist.
async fn event_buses(
    category: &mut Category,
    cluster: &Cluster,
    sources: &[EventSource],
    names: &BTreeMap<(String, String), String>,
) {
    let key =
        |source: &EventSource| (source.namespace.as_deref().unwrap_or_default().to_owned(), source.name.to_string());
    let buses: BTreeSet<(String, &str)> =
        sources.iter().map(key).filter_map(|key| names.get(&key).map(|bus| (key.0, bus.as_str()))).collect();
    let paths: Vec<_> =
        buses.iter().map(|(namespace, bus)| path(ARGO, Some(namespace), &format!("eventbus/{bus}"))).collect();
    let (mut found, mut unanswered) = (0, 0);
    for ((namespace, bus), answer) in buses.iter().zip(answers(paths.iter().map(|path| cluster.get(path))).await) {
        let description = format!("the EventBus {namespace}/{bus} exists");
        let Some(answer) = answer else {
            unanswered += 1;
            continue;
        };
        match answer {
            Ok(Some(_)) => found += 1,
            Ok(None) => category.fail(
                description,
                format!("there is no EventBus {bus} in {namespace}, so Argo Events does not start the EventSource"),
                "create one, such as examples/eventbus/jetstream.yaml",
            ),
            Err(error) => category.unknown(description, &error),
        }
    }
    category.unanswered(unanswered, "their EventBuses exist");
    if found > 0 && found == buses.len() {
        category.ok("their EventBuses exist");
    }
}
