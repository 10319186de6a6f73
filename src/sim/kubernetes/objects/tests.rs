use serde_json::json;

use super::*;
use crate::sim::kubernetes::selector;

fn workflow(name: &str, labels: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name, "labels": labels}, "spec": {"a": 1}})
}

fn with(names: &[&str]) -> Objects {
    let mut objects = Objects::default();
    for name in names {
        objects.create("team", workflow(name, json!({"l": name}))).unwrap();
    }
    objects
}

fn names(page: &Page) -> Vec<&str> {
    page.items.iter().map(|item| item.text("name")).collect()
}

fn all() -> Selector {
    Selector::default()
}

#[test]
fn a_new_object_gets_its_identity_from_the_server() {
    let mut objects = Objects::default();
    let mut value = workflow("run", json!({}));
    value["metadata"]["uid"] = json!("mine");
    value["metadata"]["nonsense"] = json!("x");
    let object = objects.create("team", value).unwrap();
    let metadata = object.metadata();
    assert_eq!((metadata["namespace"].as_str(), metadata["generation"].as_u64()), (Some("team"), Some(1)));
    assert_eq!(object.text("resourceVersion"), objects.version().to_string());
    assert!(uuid::Uuid::try_parse(object.text("uid")).is_ok());
    assert!(object.text("creationTimestamp").parse::<Timestamp>().is_ok());
    assert!(metadata.get("nonsense").is_none() && metadata.get("labels").is_none());
}

#[test]
fn a_name_is_given_or_generated_and_taken_once() {
    let mut objects = with(&["run"]);
    let mut unnamed = workflow("", json!({}));
    assert_eq!(objects.create("team", unnamed.clone()).unwrap_err().code, 422);
    unnamed["metadata"]["generateName"] = json!("run-");
    let name = objects.create("team", unnamed).unwrap().text("name").to_owned();
    assert!(name.starts_with("run-") && name.len() == 9, "{name}");
    assert_eq!(objects.create("team", workflow("run", json!({}))).unwrap_err().reason, "AlreadyExists");
    assert_eq!(objects.create("team", workflow("A_b", json!({}))).unwrap_err().code, 422);
    objects.create("other", workflow("run", json!({}))).unwrap();
}

#[test]
fn a_patch_counts_versions_and_generations_and_nothing_where_nothing_changes() {
    let mut objects = with(&["run"]);
    let numbers =
        |object: &Object| (object.text("resourceVersion").to_owned(), object.metadata()["generation"].clone());
    let created = objects.get("team", "run").unwrap();
    let annotated = objects.patch("team", "run", &json!({"metadata": {"annotations": {"a": "b"}}})).unwrap();
    assert_eq!(numbers(&annotated), ((objects.version()).to_string(), json!(1)));
    let phase = objects.patch("team", "run", &json!({"status": {"phase": "Running"}})).unwrap();
    assert_eq!(numbers(&phase), ((objects.version()).to_string(), json!(2)));
    for nothing in [
        json!({}),
        json!({"metadata": {"annotations": {"absent": null}}}),
        json!({"metadata": {"uid": created.text("uid"), "annotations": {"a": "b"}, "generation": 77}}),
        json!({"metadata": {"uid": null, "creationTimestamp": "2020-01-01T00:00:00Z"}}),
    ] {
        let same = objects.patch("team", "run", &nothing).unwrap();
        assert_eq!(numbers(&same), numbers(&phase), "{nothing}");
    }
    let removed = objects.patch("team", "run", &json!({"metadata": {"annotations": {"a": null}}})).unwrap();
    assert!(removed.metadata().get("annotations").is_none());
}

#[test]
fn a_list_in_pages_shows_one_version_whatever_happens_meanwhile() {
    let mut objects = with(&["a", "b", "c", "d"]);
    let first = objects.list(&None, &all(), Some(2), None).unwrap();
    assert_eq!((names(&first), first.remaining), (vec!["a", "b"], Some(2)));
    objects.delete("team", "c").unwrap();
    objects.create("team", workflow("e", json!({}))).unwrap();
    objects.patch("team", "d", &json!({"metadata": {"labels": {"l": "new"}}})).unwrap();
    let second = objects.list(&None, &all(), Some(2), first.next.clone()).unwrap();
    assert_eq!((names(&second), second.version, &second.next), (vec!["c", "d"], first.version, &None));
    assert_eq!(second.items[1].metadata()["labels"]["l"], "d");

    objects.compact();
    assert_eq!(objects.list(&None, &all(), Some(2), first.next).unwrap_err().code, 410);
}

#[test]
fn a_list_is_of_one_namespace_or_of_all_in_the_order_of_the_keys() {
    let mut objects = with(&["run"]);
    for namespace in ["team-a", "teb"] {
        objects.create(namespace, workflow("x", json!({}))).unwrap();
    }
    let namespaces = |scope: Scope| {
        let page = objects.list(&scope, &all(), None, None).unwrap();
        page.items.iter().map(|item| item.text("namespace").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(namespaces(None), ["team-a", "team", "teb"]);
    assert_eq!(namespaces(Some("team".into())), ["team"]);
    assert!(namespaces(Some("te".into())).is_empty());
}

#[test]
fn a_full_page_of_a_selection_names_a_next_one_while_there_are_objects_at_all() {
    let objects = with(&["a", "b", "c"]);
    let page = objects.list(&None, &selector::parse("l=a").unwrap(), Some(1), None).unwrap();
    assert!(page.next.is_some() && page.remaining.is_none());
    let rest = objects.list(&None, &selector::parse("l=a").unwrap(), Some(1), page.next).unwrap();
    assert!(rest.items.is_empty() && rest.next.is_none());
}

#[test]
fn an_object_that_enters_the_selection_is_added_and_one_that_leaves_is_deleted_as_it_was_inside() {
    let mut objects = with(&["run"]);
    let begin = objects.version();
    let change = |objects: &mut Objects, label: Value| {
        objects.patch("team", "run", &json!({"metadata": {"labels": {"in": label}}})).unwrap();
    };
    change(&mut objects, json!("yes"));
    objects.patch("team", "run", &json!({"status": {}})).unwrap();
    change(&mut objects, Value::Null);
    change(&mut objects, json!("no"));
    change(&mut objects, json!("yes"));
    objects.delete("team", "run").unwrap();

    let seen = |scope: Scope, selector: &str| {
        let changes = objects.since(begin, &scope, &selector::parse(selector).unwrap()).unwrap();
        let show = |(event, object): (EventType, Arc<Object>)| {
            let after_begin = object.text("resourceVersion").parse::<u64>().unwrap() - begin;
            (event, after_begin, object.metadata()["labels"]["in"].as_str().map(str::to_owned))
        };
        changes.into_iter().map(show).collect::<Vec<_>>()
    };
    let yes = || Some("yes".to_owned());
    use EventType::{Added, Deleted, Modified};
    let inside =
        vec![(Added, 1, yes()), (Modified, 2, yes()), (Deleted, 3, yes()), (Added, 5, yes()), (Deleted, 6, yes())];
    assert_eq!(seen(None, "in=yes"), inside);
    assert_eq!(seen(Some("team".into()), "in=yes"), inside);
    assert!(seen(Some("other".into()), "").is_empty());
    assert_eq!(seen(None, "").len(), 6);
}

#[test]
fn a_watch_cannot_begin_before_what_is_remembered() {
    let mut objects = with(&["a"]);
    let begin = objects.version();
    objects.compact();
    assert!(objects.since(begin, &None, &all()).unwrap().is_empty());
    for _ in 0..=HISTORY / 2 {
        objects.create("team", workflow("b", json!({}))).unwrap();
        objects.delete("team", "b").unwrap();
    }
    let refusal = objects.since(begin, &None, &all()).unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (410, "Expired"));
    assert!(objects.since(begin + 2, &None, &all()).is_ok());
}
