//! The allocations of a change of a Workflow, which do not depend on the machine. Each limit is a little above the
//! measured value. A change that needs more raises the limit, with the reason in the commit.

use allocation_counter::{AllocationInfo, measure};

use super::*;
use crate::model::{Phase, workflow::MARK_PREFIX};

/// Workflows, in one namespace.
const WORKFLOWS: usize = 1_000;

/// A watch that has begun, and its store.
fn watch() -> (Watch, Arc<Store>) {
    let (client, _) = fake_client();
    let store = Arc::<Store>::default();
    let (selector, in_use) = ("pipeline/runid".to_owned(), SubscriptionsInUse::default());
    let watches = Watches::new(client, selector, store.clone(), Readiness::default(), in_use, LimitHits::default());
    (watches.watch(Scope::All), store)
}

/// The line of a change, with 10 KB of annotations and as many managed fields as for a run of nine tasks.
fn line(number: usize, phase: &str, version: usize, marks: &[&str]) -> Vec<u8> {
    let mut object = workflow(&format!("penguin-pipeline-{number:07}"), 0);
    let metadata = &mut object["metadata"];
    metadata["uid"] = json!(format!("{number:08x}-9e1f-4c8e-8a2f-{number:012x}"));
    metadata["resourceVersion"] = json!(version.to_string());
    metadata["labels"]["workflows.argoproj.io/phase"] = json!(phase);
    metadata["labels"]["workflows.argoproj.io/completed"] = json!((phase == "Succeeded").to_string());
    metadata["labels"]["pipeline/runid"] = metadata["uid"].clone();
    metadata["annotations"] = json!({
        "pipelines.kubeflow.org/pipeline_spec": r#"{"description": "", "inputs": [], "name": "penguin-pipeline"}"#,
        "pipelines.kubeflow.org/run_log": "x".repeat(10_000),
    });
    for mark in marks {
        metadata["annotations"][format!("{MARK_PREFIX}{mark}")] = metadata["uid"].clone();
    }
    let node = json!({"f:displayName": {}, "f:finishedAt": {}, "f:id": {}, "f:outputs": {}, "f:phase": {}});
    let nodes: serde_json::Map<_, _> =
        (0..9).map(|node_number| (format!("f:node-{node_number}"), node.clone())).collect();
    metadata["managedFields"] = json!([{
        "manager": "workflow-controller", "operation": "Update", "time": "2026-08-01T10:20:00Z",
        "fieldsV1": {
            "f:metadata": {"f:labels": {"f:workflows.argoproj.io/phase": {}}},
            "f:status": {"f:nodes": nodes},
        },
    }]);
    serde_json::to_vec(&json!({"type": "MODIFIED", "object": object})).expect("plain values")
}

/// Applies one change of each Workflow.
fn apply_all(watch: &mut Watch, phase: &str, version: usize, marks: &[&str]) -> AllocationInfo {
    let lines: Vec<_> = (0..WORKFLOWS).map(|number| line(number, phase, version, marks)).collect();
    measure(|| lines.iter().for_each(|line| watch.handle_event(line).expect("a change")))
}

#[tokio::test]
async fn the_allocations_of_a_change_have_a_limit() {
    let (mut watch, store) = watch();
    let added = apply_all(&mut watch, "Running", 1, &[]);
    let equal = apply_all(&mut watch, "Running", 2, &[]);
    let ended = apply_all(&mut watch, "Succeeded", 3, &[]);
    let marked = apply_all(&mut watch, "Succeeded", 4, &["deploy", "report"]);
    assert_eq!(store.size().workflows, WORKFLOWS);
    assert!(store.get("team", "penguin-pipeline-0000007").is_some_and(|record| record.phase == Phase::Succeeded));

    let each = |total: u64| total / WORKFLOWS as u64;
    let changes = [("new", added, 18, 550), ("equal", equal, 17, 310), ("ended", ended, 18, 460)];
    for (change, info, allocations, bytes) in changes {
        let measured = (each(info.count_total), each(info.bytes_total));
        assert!(
            measured.0 <= allocations && measured.1 <= bytes,
            "{change}: allocations and their bytes: {measured:?}"
        );
    }
    // The allocator adds some 8 bytes to each of the two allocations. The budget is 260.
    let kept = added.bytes_current / WORKFLOWS as i64;
    assert!((1..=197).contains(&kept), "each record keeps {kept} B");
    assert!(equal.bytes_current <= 64 && ended.bytes_current <= 64, "{equal:?}, {ended:?}");
    // All of them have the same marks.
    assert!(marked.bytes_current / WORKFLOWS as i64 <= 1, "{marked:?}");
}
