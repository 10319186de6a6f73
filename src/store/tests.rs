use futures::FutureExt;

use super::*;
use crate::model::{Mark, Phase, PipelineName, SubscriptionName};

fn workflow(namespace: &str, name: &str, uid: u128) -> Workflow {
    Workflow {
        namespace: namespace.into(),
        name: name.into(),
        uid: Uid::from(uid),
        created: 0,
        phase: Phase::Succeeded,
        events_published: false,
        pipeline: PipelineName::Unknown,
        run_id: None,
        trace_id: None,
        marks: [].into(),
        resource_version: None,
    }
}

fn changes(store: &Store) -> Vec<String> {
    store
        .changes()
        .now_or_never()
        .unwrap_or_default()
        .into_iter()
        .map(|change| match change {
            Change::Applied(record) => format!("+{}/{}", record.namespace, record.name),
            Change::Gone(record) => format!("-{}/{}", record.namespace, record.name),
        })
        .collect()
}

fn following(namespace: &str) -> Store {
    let store = Store::default();
    store.follow(&namespace.into());
    store
}

#[test]
fn only_followed_namespaces_are_in_the_journal() {
    let store = following("a");
    store.apply(workflow("a", "one", 1));
    store.apply(workflow("b", "two", 2));
    assert_eq!(changes(&store), ["+a/one"]);
    store.unfollow("a");
    store.apply(workflow("a", "three", 3));
    assert!(changes(&store).is_empty());
    assert_eq!(store.size(), (3, 2));
}

#[test]
fn an_unchanged_record_keeps_its_allocation_and_wakes_nobody() {
    let store = following("a");
    store.apply(workflow("a", "one", 1));
    let before = store.get("a", "one").unwrap();
    changes(&store);
    store.apply(workflow("a", "one", 1));
    assert!(Arc::ptr_eq(&before, &store.get("a", "one").unwrap()));
    assert!(changes(&store).is_empty());
}

#[test]
fn following_shows_what_is_there_already_after_the_changes_that_led_to_it() {
    let store = following("b");
    store.apply(workflow("a", "one", 1));
    store.apply(workflow("b", "two", 2));
    let (before, records) = store.follow(&"a".into());
    assert_eq!(before.len(), 1);
    assert_eq!(records.iter().map(|record| &*record.name).collect::<Vec<_>>(), ["one"]);
    assert!(changes(&store).is_empty());
}

#[test]
fn a_list_clears_nothing_before_its_end_and_then_sweeps_what_it_did_not_bring() {
    let store = following("a");
    store.apply(workflow("a", "kept", 1));
    store.apply(workflow("a", "gone", 2));
    store.apply(workflow("b", "gone", 3));
    changes(&store);
    let list = store.begin_list(Scope::All);
    assert_eq!(store.size(), (3, 2));
    store.apply(workflow("a", "kept", 1));
    store.apply(workflow("a", "new", 4));
    assert_eq!(store.finish_list(list), 2);
    assert_eq!(changes(&store), ["+a/new", "-a/gone"]);
    assert_eq!(store.size(), (2, 1));
}

#[test]
fn a_list_that_broke_off_sweeps_nothing_and_the_next_one_does() {
    let store = following("a");
    store.apply(workflow("a", "one", 1));
    drop(store.begin_list(Scope::All));
    assert_eq!(store.size(), (1, 1));
    let second = store.begin_list(Scope::All);
    assert_eq!(store.finish_list(second), 1);
}

#[test]
fn the_list_of_one_namespace_leaves_the_others_alone() {
    let store = Store::default();
    store.apply(workflow("a", "one", 1));
    store.apply(workflow("b", "two", 2));
    let list = store.begin_list(Scope::Namespace("a".into()));
    assert_eq!(store.finish_list(list), 1);
    assert!(store.get("b", "two").is_some());
}

#[test]
fn a_workflow_recreated_under_its_name_is_gone_and_new() {
    let store = following("a");
    store.apply(workflow("a", "one", 1));
    changes(&store);
    store.apply(workflow("a", "one", 2));
    assert_eq!(changes(&store), ["-a/one", "+a/one"]);
    // The deletion of the first may be reported late: the second stays.
    store.delete("a", "one", Uid::from(1));
    assert!(store.get("a", "one").is_some());
    assert_eq!(store.size(), (1, 1));
}

#[test]
fn restarted_workflows_are_in_the_journal_of_any_namespace() {
    let store = Store::default();
    let name = SubscriptionName::new("s").unwrap();
    store.apply(Workflow {
        phase: Phase::Other,
        marks: [Mark { subscription: name, current: true }].into(),
        ..workflow("b", "again", 1)
    });
    assert_eq!(changes(&store), ["+b/again"]);
}

#[test]
fn that_a_workflow_is_no_longer_restarted_is_in_the_journal_too_or_its_marks_would_be_removed_for_ever() {
    let restarted = |name: &str, uid| Workflow {
        phase: Phase::Other,
        marks: [Mark { subscription: SubscriptionName::new("s").unwrap(), current: true }].into(),
        ..workflow("b", name, uid)
    };
    let store = Store::default();
    for (uid, name) in [(1, "succeeded"), (2, "deleted"), (3, "replaced")] {
        store.apply(restarted(name, uid));
    }
    changes(&store);
    store.apply(workflow("b", "succeeded", 1));
    store.delete("b", "deleted", Uid::from(2));
    store.apply(workflow("b", "replaced", 4));
    assert_eq!(changes(&store), ["+b/succeeded", "-b/deleted", "-b/replaced"]);
    store.apply(Workflow { events_published: true, ..workflow("b", "succeeded", 1) });
    assert!(changes(&store).is_empty());
}
