use futures::FutureExt;

use super::*;
use crate::model::{Mark, Phase, PipelineName, RunOutcome, SubscriptionName, fixtures::succeeded};

fn workflow(namespace: &str, name: &str, uid: u128) -> Workflow {
    let (namespace, name) = (namespace.into(), name.into());
    Workflow { namespace, name, uid: Uid::from(uid), ..succeeded(PipelineName::Unknown) }
}

fn changes(store: &Store) -> Vec<String> {
    store
        .changes()
        .now_or_never()
        .unwrap_or_default()
        .into_iter()
        .map(|change| match change {
            Change::Applied(record) => format!("+{}/{}", record.namespace, record.name),
            Change::Deleted(record) => format!("-{}/{}", record.namespace, record.name),
        })
        .collect()
}

fn size(store: &Store) -> (usize, usize) {
    let Size { workflows, namespaces } = store.size();
    (workflows, namespaces)
}

fn following(namespace: &str) -> Store {
    let store = Store::default();
    store.follow(&namespace.into());
    store
}

#[test]
fn the_journal_holds_only_followed_namespaces() {
    let store = following("a");
    store.apply(workflow("a", "one", 1));
    store.apply(workflow("b", "two", 2));
    assert_eq!(changes(&store), ["+a/one"]);
    store.unfollow("a");
    store.apply(workflow("a", "three", 3));
    assert!(changes(&store).is_empty());
    assert_eq!(size(&store), (3, 2));
}

#[test]
fn an_equal_record_keeps_its_allocation_and_is_no_change() {
    let store = following("a");
    store.apply(workflow("a", "one", 1));
    let before = store.get("a", "one").unwrap();
    changes(&store);
    store.apply(workflow("a", "one", 1));
    assert!(Arc::ptr_eq(&before, &store.get("a", "one").unwrap()));
    assert!(changes(&store).is_empty());
}

#[test]
fn following_returns_earlier_changes_and_the_records_after_them() {
    let store = following("b");
    store.apply(workflow("a", "one", 1));
    store.apply(workflow("b", "two", 2));
    let followed = store.follow(&"a".into());
    assert_eq!(followed.changes.len(), 1);
    assert_eq!(followed.records.iter().map(|record| &*record.name).collect::<Vec<_>>(), ["one"]);
    assert!(changes(&store).is_empty());
}

#[test]
fn a_list_sweeps_unlisted_records_at_its_end() {
    let store = following("a");
    store.apply(workflow("a", "kept", 1));
    store.apply(workflow("a", "unlisted", 2));
    store.apply(workflow("b", "unlisted", 3));
    changes(&store);
    let list = store.begin_list(Scope::All);
    assert_eq!(size(&store), (3, 2));
    store.apply(workflow("a", "kept", 1));
    store.apply(workflow("a", "new", 4));
    assert_eq!(store.finish_list(list), 2);
    assert_eq!(changes(&store), ["+a/new", "-a/unlisted"]);
    assert_eq!(size(&store), (2, 1));
}

#[test]
fn an_interrupted_list_sweeps_nothing() {
    let store = following("a");
    store.apply(workflow("a", "one", 1));
    drop(store.begin_list(Scope::All));
    assert_eq!(size(&store), (1, 1));
    let second = store.begin_list(Scope::All);
    assert_eq!(store.finish_list(second), 1);
}

#[test]
fn a_list_of_one_namespace_sweeps_only_that_namespace() {
    let store = Store::default();
    store.apply(workflow("a", "one", 1));
    store.apply(workflow("b", "two", 2));
    let list = store.begin_list(Scope::Namespace("a".into()));
    assert_eq!(store.finish_list(list), 1);
    assert!(store.get("b", "two").is_some());
}

#[test]
fn a_workflow_recreated_under_its_name_is_deleted_and_applied() {
    let store = following("a");
    store.apply(workflow("a", "one", 1));
    changes(&store);
    store.apply(workflow("a", "one", 2));
    assert_eq!(changes(&store), ["-a/one", "+a/one"]);
    // A late deletion of the first leaves the second.
    store.delete("a", "one", Uid::from(1));
    assert!(store.get("a", "one").is_some());
    assert_eq!(size(&store), (1, 1));
}

#[test]
fn the_journal_holds_restarted_workflows_of_all_namespaces() {
    let store = Store::default();
    let name = SubscriptionName::new("s").unwrap();
    store.apply(Workflow {
        phase: Phase::Active,
        marks: [Mark { subscription: name, outcome: RunOutcome::Succeeded }].into(),
        ..workflow("b", "again", 1)
    });
    assert_eq!(changes(&store), ["+b/again"]);
}

/// Without it, the delivery task would try to remove the run's marks forever.
#[test]
fn the_journal_holds_the_end_of_a_restart() {
    let restarted = |name: &str, uid| Workflow {
        phase: Phase::Active,
        marks: [Mark { subscription: SubscriptionName::new("s").unwrap(), outcome: RunOutcome::Succeeded }].into(),
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
