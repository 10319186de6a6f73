use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use futures::FutureExt;

use super::*;
use crate::model::{Mark, PipelineName, RunId, SubscriptionName, fixtures::succeeded};

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
            Change::Applied { workflow, .. } => format!("+{}/{}", workflow.namespace, workflow.name),
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

fn names(page: &Page) -> Vec<&str> {
    page.records.iter().map(|record| &*record.name).collect()
}

/// The record of the Workflow `one`, which the store then has.
fn applied(store: &Store, workflow: Workflow) -> Arc<Workflow> {
    store.apply(workflow);
    store.get("a", "one").unwrap()
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
fn a_page_contains_earlier_changes_and_the_records_after_them() {
    let store = following("b");
    store.apply(workflow("a", "one", 1));
    store.apply(workflow("b", "two", 2));
    store.follow(&"a".into());
    let page = store.read("a", None, 10);
    assert_eq!(page.changes.len(), 1);
    assert_eq!((names(&page), page.is_last), (vec!["one"], true));
    assert!(changes(&store).is_empty());
}

/// Also those that change, come or go between the pages.
#[test]
fn pages_contain_the_present_records_in_the_order_of_names() {
    let store = Store::default();
    for (uid, name) in (1..).zip(["e", "c", "a", "d"]) {
        store.apply(workflow("team", name, uid));
    }
    let first = store.read("team", None, 2);
    assert_eq!((names(&first), first.is_last), (vec!["a", "c"], false));
    store.apply(workflow("team", "b", 5));
    store.delete("team", "d", Uid::from(4));
    store.apply(Workflow { events_published: true, ..workflow("team", "e", 1) });
    let second = store.read("team", Some("c"), 2);
    assert_eq!((names(&second), second.is_last), (vec!["e"], true));
    assert!(second.records[0].events_published);
    assert!(store.read("team", Some("e"), 2).records.is_empty());
    assert!(store.read("absent", None, 2).is_last);
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

/// Argo changes the Workflow of a run with each of its tasks, and nothing of that is in its record.
#[test]
fn an_equal_record_is_a_change_only_until_its_run_ends() {
    let store = following("a");
    for (phase, expected) in [(Phase::Active, vec!["+a/one"]), (Phase::Succeeded, vec![])] {
        let record = || Workflow { phase, finished: 0, ..workflow("a", "one", 1) };
        store.apply(record());
        changes(&store);
        store.apply(record());
        assert_eq!(changes(&store), expected, "{phase:?}");
    }
    store.apply(Workflow { phase: Phase::Active, ..workflow("not-followed", "one", 2) });
    store.apply(Workflow { phase: Phase::Active, ..workflow("not-followed", "one", 2) });
    assert!(changes(&store).is_empty());
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

// === records that follow from their predecessors ===

#[test]
fn a_change_says_what_the_record_was_before() {
    let store = following("a");
    store.apply(Workflow { phase: Phase::Active, ..workflow("a", "one", 1) });
    store.apply(Workflow { phase: Phase::Failed, ..workflow("a", "one", 1) });
    store.apply(workflow("a", "one", 1));
    store.apply(Workflow { run_id: Some(RunId::new("late")), ..workflow("a", "one", 1) });
    store.apply(Workflow { run_id: Some(RunId::new("late")), ..workflow("a", "one", 2) });
    let changes = store.changes().now_or_never().unwrap();
    let before = changes.into_iter().filter_map(|change| match change {
        Change::Applied { before, .. } => Some(before.map(|before| (before.outcome, before.identity_changed))),
        Change::Deleted(_) => None,
    });
    let (failed, succeeded) = (Some(RunOutcome::Failed), Some(RunOutcome::Succeeded));
    assert_eq!(
        before.collect::<Vec<_>>(),
        [None, Some((None, false)), Some((failed, false)), Some((succeeded, true)), None]
    );
}

/// The label may vanish and return, or a part of it: nothing has happened.
#[test]
fn an_unknown_phase_leaves_the_last_known_one() {
    let store = following("a");
    for phase in [Phase::Succeeded, Phase::Failed, Phase::Active] {
        let known = applied(&store, Workflow { phase, ..workflow("a", "one", 1) });
        changes(&store);
        assert_eq!(applied(&store, Workflow { phase: Phase::Unknown, ..workflow("a", "one", 1) }), known);
        assert!(changes(&store).is_empty(), "{phase:?}");
    }
    let recreated = applied(&store, Workflow { phase: Phase::Unknown, ..workflow("a", "one", 2) });
    assert_eq!(recreated.phase, Phase::Unknown);
}

/// With a watch that sees only a part of the updates.
#[test]
fn the_end_of_a_run_is_the_first_time_seen_with_its_outcome() {
    let time = Arc::new(AtomicI64::new(100));
    let clock = time.clone();
    let store = Store::new(WallClock::new(move || clock.load(Relaxed)));
    let run = |phase, finished| Workflow { phase, finished, ..workflow("a", "one", 1) };
    let finished = |run| applied(&store, run).finished;
    assert_eq!(finished(run(Phase::Active, 90)), 0, "it has not ended");
    assert_eq!(finished(run(Phase::Failed, 0)), 100);
    time.store(200, Relaxed);
    assert_eq!(finished(run(Phase::Failed, 0)), 100);
    assert_eq!(finished(run(Phase::Unknown, 0)), 100);
    assert_eq!(finished(run(Phase::Failed, 150)), 100);
    assert_eq!(finished(run(Phase::Succeeded, 0)), 200, "another outcome");
    assert_eq!(finished(run(Phase::Active, 0)), 0);
    assert_eq!(finished(run(Phase::Succeeded, 160)), 160);
    assert_eq!(finished(run(Phase::Succeeded, 170)), 160, "a later update by the controller");
    assert_eq!(finished(Workflow { uid: Uid::from(2), ..run(Phase::Succeeded, 0) }), 200, "another Workflow");
}

// === lists ===

#[tokio::test]
async fn a_namespace_is_listed_once_a_list_that_covers_it_is_complete() {
    let store = Store::default();
    let is_listed = |namespace: &'static str| store.wait_listed(namespace).now_or_never().is_some();
    assert!(!is_listed("a"));
    drop(store.begin_list(Scope::Namespace("a".into())));
    assert!(!is_listed("a"), "the list was interrupted");
    let waiting = store.wait_listed("a");
    let list = async { store.finish_list(store.begin_list(Scope::Namespace("a".into()))) };
    tokio::join!(waiting, list);
    assert!(is_listed("a") && !is_listed("b"));
    store.finish_list(store.begin_list(Scope::All));
    assert!(is_listed("b") && is_listed("not created yet"));
}

// === traces ===

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A run with Argo's trace id.
fn traced(namespace: &str, name: &str, uid: u128) -> Workflow {
    Workflow { trace_id: TraceId::parse(TRACE).map(Box::new), ..workflow(namespace, name, uid) }
}

#[test]
fn a_trace_id_is_used_only_while_one_namespace_carries_it() {
    let store = Store::default();
    let (own, foreign) = (traced("a", "one", 1), traced("b", "foreign", 2));
    let uses = |run: &Workflow| store.trace_id(run).unwrap().to_string() == TRACE;
    store.apply(own.clone());
    store.apply(traced("a", "resubmitted", 3));
    assert!(uses(&own) && !uses(&foreign), "one namespace carries it");
    store.apply(foreign.clone());
    assert!(!uses(&own) && !uses(&foreign), "two namespaces carry it");
    assert_eq!(store.trace_id(&own).unwrap().as_bytes(), own.uid.as_bytes());
    store.apply(traced("c", "another", 4));
    store.delete("b", "foreign", Uid::from(2));
    assert!(!uses(&own), "the third still does");
    store.apply(Workflow { trace_id: None, ..traced("c", "another", 4) });
    assert!(uses(&own), "the others have left it");
    store.apply(foreign.clone());
    for (uid, name) in [(1, "one"), (3, "resubmitted")] {
        store.delete("a", name, Uid::from(uid));
    }
    assert!(!uses(&own) && uses(&foreign), "the first has gone");
}

/// It is the id of that run's trace, if Argo has written none.
#[test]
fn a_trace_id_that_is_the_uid_of_a_run_is_not_used() {
    let store = Store::default();
    let (owner, foreign) = (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, traced("b", "foreign", 2));
    let uses = || store.trace_id(&foreign).unwrap().to_string() == TRACE;
    store.apply(foreign.clone());
    assert!(uses());
    store.apply(workflow("a", "owner", owner));
    assert!(!uses());
    store.apply(Workflow { phase: Phase::Failed, ..workflow("a", "owner", owner) });
    assert!(!uses());
    store.apply(workflow("a", "owner", 3));
    assert!(uses(), "the run has gone");
}

#[test]
fn trace_ids_are_forgotten_with_their_runs() {
    let store = Store::default();
    for (uid, namespace) in [(1, "a"), (2, "b"), (3, "c"), (4, "a")] {
        store.apply(traced(namespace, &uid.to_string(), uid));
    }
    store.apply(traced("a", "1", 5));
    store.finish_list(store.begin_list(Scope::All));
    assert!(store.lock().traces.is_empty());
}
