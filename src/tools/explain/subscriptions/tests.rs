use serde_json::json;

use super::*;
use crate::model::{Mark, PipelineName, RunOutcome, fixtures::succeeded};

fn named(name: &str) -> NamedSubscription {
    NamedSubscription::parse(name).unwrap()
}

fn event_source(namespace: &str, name: &str, event: &str, config: &str) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"generic": {event: {"url": "anything", "config": config}}},
    })
}

fn shown(known: &[Known]) -> Vec<(String, String)> {
    known.iter().map(|known| (known.subscription.name.to_string(), known.source.to_string())).collect()
}

fn marked(names: &[&str]) -> Workflow {
    let mark = |name: &&str| Mark {
        subscription: SubscriptionName::from_annotation((*name).into()),
        outcome: RunOutcome::Succeeded,
    };
    Workflow { marks: names.iter().map(mark).collect(), ..succeeded(PipelineName::Unknown) }
}

fn seen(names: &[&str]) -> HashSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn stream(name: &str, latest_only: bool) -> Stream {
    Stream { namespace: "team".to_owned(), name: name.to_owned(), latest_only }
}

#[test]
fn event_sources_are_read_by_the_servers_parser() {
    let objects = [
        event_source("team", "es", "deploy", "kfpNamespace: team\npipelines: [penguin]"),
        event_source("team", "es", "named", "kfpNamespace: team\nsubscription: other"),
        event_source("team", "wrong", "event", "kfpNamespace: team\npipeline: x"),
        event_source("team", "foreign", "event", "key: value"),
        event_source("team", "person", "event", "kfpNamespace: team\nremember: false"),
        json!({"metadata": {}, "spec": {"webhook": {}}}),
        json!({"spec": {"generic": {"x": {"config": 1}, "y": null}}}),
    ];
    let (entries, problems) = entries(&objects);
    let subscriptions = Subscriptions::of("team", &entries, &[], &HashSet::new(), None);
    let expected = [("deploy", "EventSource team/es"), ("other", "EventSource team/es")];
    assert_eq!(shown(subscriptions.known()), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(subscriptions.known()[0].subscription.pipelines.entries().len(), 1);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("team/wrong, event event") && problems[0].contains("pipelines"), "{problems:?}");
    let other = Subscriptions::of("other", &entries, &[], &HashSet::new(), None);
    assert!(other.known().is_empty());
}

/// With `--auth token` the name has the namespace of the account.
#[test]
fn a_scope_is_part_of_the_name_where_it_was_seen() {
    let (entries, _) = entries(&[event_source("argo", "es", "deploy", "kfpNamespace: team")]);
    let names = |marks: &[&str], streams: &[Stream]| {
        shown(Subscriptions::of("team", &entries, streams, &seen(marks), None).known())
    };
    let source = "EventSource argo/es".to_owned();
    assert_eq!(names(&[], &[]), [("deploy".to_owned(), source.clone())]);
    assert_eq!(names(&["deploy.argo"], &[]), [("deploy.argo".to_owned(), source.clone())]);
    assert_eq!(names(&[], &[stream("deploy.argo", false)]), [("deploy.argo".to_owned(), source)]);
}

#[test]
fn streams_and_marks_show_further_subscriptions() {
    let streams = [stream("open", true), Stream { namespace: "other".to_owned(), ..stream("x", false) }];
    let subscriptions = Subscriptions::of("team", &[], &streams, &seen(&["old"]), None);
    assert_eq!(shown(subscriptions.known()), [("open".to_owned(), "server".to_owned())]);
    assert!(subscriptions.known()[0].subscription.latest_only);
    let of_run = |run: &Workflow| shown(&subscriptions.for_run(run));
    assert_eq!(of_run(&marked(&[])).len(), 1, "the old one may be gone");
    assert_eq!(of_run(&marked(&["old", "open"]))[1], ("old".to_owned(), "mark".to_owned()));
}

#[test]
fn a_name_is_enough_with_and_without_its_scope() {
    let (entries, _) = entries(&[
        event_source("argo", "es", "deploy", "kfpNamespace: team"),
        event_source("argo", "es", "deploy-b", "kfpNamespace: team"),
    ]);
    let marks = seen(&["deploy.argo"]);
    for only in ["deploy", "deploy.argo"] {
        let subscriptions = Subscriptions::of("team", &entries, &[], &marks, Some(&named(only)));
        assert_eq!(shown(&subscriptions.for_run(&marked(&["deploy.argo", "other"]))).len(), 1, "{only}");
        assert_eq!(subscriptions.known()[0].subscription.name.as_str(), "deploy.argo");
    }
    let unknown = Subscriptions::of("team", &entries, &[], &marks, Some(&named("none")));
    assert_eq!(shown(&unknown.for_run(&marked(&[]))), [("none".to_owned(), "given".to_owned())]);
    let by_mark = shown(&unknown.for_run(&marked(&["none.u-0a1b2c3d"])));
    assert_eq!(by_mark, [("none.u-0a1b2c3d".to_owned(), "mark".to_owned())]);
}

#[test]
fn without_a_known_subscription_the_default_is_assumed() {
    let subscriptions = Subscriptions::of("team", &[], &[], &HashSet::new(), None);
    assert_eq!(shown(&subscriptions.for_run(&marked(&[]))), [("default".to_owned(), "assumed".to_owned())]);
}
