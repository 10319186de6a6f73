mod verdicts;

use super::*;
use crate::model::{PipelineName, RunModels, fixtures::succeeded};

const CREATED: i64 = 1_700_000_000;

fn run() -> Workflow {
    Workflow {
        namespace: "team-a".into(),
        name: "taxi-x".into(),
        created: CREATED,
        finished: CREATED + 100,
        ..succeeded(PipelineName::Generated("taxi".into()))
    }
}

fn task<'a>(id: &'a str, name: &'a str, created: i64) -> Task<'a> {
    Task {
        id,
        run_id: "0e1f",
        name,
        scope: "root",
        parent: Some("r"),
        kind: TaskKind::Runtime,
        state: TaskState::Done,
        created: CREATED + created,
        ..Task::default()
    }
}

const ROOT: Task<'_> = Task {
    id: "r",
    run_id: "0e1f",
    name: "",
    scope: "root",
    parent: None,
    kind: TaskKind::Root,
    state: TaskState::Done,
    iteration: None,
    iterations: None,
    created: CREATED,
};

fn container<'a>(id: &'a str, name: &'a str, parent: &'a str) -> Task<'a> {
    Task { kind: TaskKind::Container, parent: Some(parent), ..task(id, name, 1) }
}

fn model<'a>(id: &'a str, uri: &'a str) -> ArtifactRow<'a> {
    ArtifactRow {
        id,
        type_name: "system.Model".into(),
        uri,
        name: None,
        pushed: Some(1),
        created: CREATED,
        namespace: "team-a",
    }
}

const MODEL: Link<'_> = Link { key: "model", iteration: None };

/// Selects among these tasks, each with its outputs of one key.
fn select_of(run: &Workflow, tasks: &[(Task<'_>, Vec<ArtifactRow<'_>>)], now: i64) -> Result<Selection, LookupError> {
    let types = ArtifactTypes::default();
    let mut all = Tasks::of(run, &types);
    for (task, outputs) in tasks {
        let (_, matters) = all.add(task, &mut ());
        for (index, row) in outputs.iter().enumerate().filter(|_| matters) {
            all.add_output(task, &MODEL, index as i64, row);
        }
    }
    all.select(now, &mut ())
}

fn select(tasks: &[(Task<'_>, Vec<ArtifactRow<'_>>)]) -> Selection {
    select_of(&run(), tasks, CREATED + 1000).unwrap()
}

fn uris(selection: &Selection) -> Vec<&str> {
    selection.models.iter().map(|model| &*model.uri).collect()
}

fn names(selection: &Selection) -> Vec<String> {
    selection.models.iter().map(|model| model.display_name("taxi", "taxi-x")).collect()
}

#[test]
fn only_outputs_of_containers_that_ended_well_are_models() {
    let failed = Task { state: TaskState::Other, ..task("b", "push", 2) };
    let imported = Task { kind: TaskKind::Importer, ..task("c", "import", 3) };
    let selection = select(&[
        (ROOT, vec![model("1", "gs://1")]),
        (container("d", "sub", "r"), vec![model("1", "gs://1")]),
        (task("a", "push", 1), vec![model("1", "gs://1")]),
        (failed, vec![model("2", "gs://2")]),
        (imported, vec![model("3", "gs://3")]),
    ]);
    assert_eq!(uris(&selection), ["gs://1"]);
    assert_eq!(names(&selection), ["taxi:taxi-x:push:model:0"]);
}

#[test]
fn a_run_without_tasks_is_unknown_and_one_without_models_has_none() {
    assert_eq!(select_of(&run(), &[], CREATED), Err(LookupError::NoContext));
    assert_eq!(select(&[(ROOT, vec![])]), Selection::default());
}

/// The launcher was killed after it had written the model: the task never ends.
#[test]
fn a_running_task_with_a_model_is_waited_for() {
    let running = Task { state: TaskState::Running, ..task("b", "push", 2) };
    let tasks =
        [(ROOT, vec![]), (task("a", "push", 1), vec![model("1", "gs://1")]), (running, vec![model("2", "gs://2")])];
    let end = run().finished + UNFINISHED;
    let waiting = select_of(&run(), &tasks, end - 1);
    assert!(matches!(waiting, Err(LookupError::Failed { code: "unfinished", .. })), "{waiting:?}");
    assert_eq!(uris(&select_of(&run(), &tasks, end).unwrap()), ["gs://1"]);
    let without = ArtifactRow { pushed: None, ..model("2", "gs://2") };
    let tasks = [(ROOT, vec![]), (running, vec![without])];
    assert_eq!(select_of(&run(), &tasks, CREATED), Ok(Selection::default()), "without a model nothing is waited for");
}

#[test]
fn a_foreign_model_drops_itself_only() {
    let foreign = ArtifactRow { namespace: "team-b", ..model("1", "gs://theirs") };
    let tasks = [(ROOT, vec![]), (task("a", "push", 1), vec![foreign.clone()])];
    let error = LookupError::ForeignContext { namespace: "team-b".to_owned() };
    assert_eq!(select_of(&run(), &tasks, CREATED), Err(error));
    let own = ArtifactRow { namespace: "", ..model("2", "gs://ours") };
    let selection = select(&[(ROOT, vec![]), (task("a", "push", 1), vec![foreign, own])]);
    assert_eq!((uris(&selection), selection.foreign_models), (vec!["gs://ours"], 1));
}

/// A retry may write the task again, also in a DAG that it writes again.
#[test]
fn of_a_task_that_ran_again_the_last_output_counts() {
    let in_dag = |id, parent, created| Task { parent: Some(parent), scope: "root/sub", ..task(id, "push", created) };
    let unpushed = ArtifactRow { pushed: Some(0), ..model("5", "gs://5") };
    let selection = select(&[
        (ROOT, vec![]),
        (container("d1", "sub", "r"), vec![]),
        (container("d2", "sub", "r"), vec![]),
        (in_dag("b", "d2", 5), vec![model("2", "gs://2")]),
        (in_dag("a", "d1", 4), vec![model("1", "gs://1")]),
        (task("c", "push", 3), vec![model("3", "gs://3")]),
        (task("d", "other", 1), vec![model("4", "gs://4")]),
        (task("e", "other", 2), vec![unpushed]),
    ]);
    assert_eq!(uris(&selection), ["gs://3", "gs://2"], "the names alone are no place");
    assert_eq!(names(&selection), ["taxi:taxi-x:push:model:0", "taxi:taxi-x:sub/push:model:0"]);
}

#[test]
fn iterations_are_models_and_name_them() {
    let looped = Task { kind: TaskKind::Loop, iterations: Some(3), ..container("l", "for-loop-1", "r") };
    let pushed = |id, iteration| Task { parent: Some("l"), iteration: Some(iteration), ..task(id, "push", 2) };
    let selection = select(&[
        (ROOT, vec![]),
        (pushed("c", 2), vec![model("7", "gs://2")]),
        (looped, vec![model("7", "gs://2"), model("8", "gs://0"), model("9", "gs://1")]),
        (pushed("a", 0), vec![model("8", "gs://0")]),
        (pushed("b", 1), vec![model("9", "gs://1")]),
    ]);
    assert_eq!(uris(&selection), ["gs://0", "gs://1", "gs://2"]);
    assert_eq!(names(&selection), [0, 1, 2].map(|index| format!("taxi:taxi-x:push:model:{index}")));
}

/// The second iteration of an outer loop with three inner ones begins at 3.
#[test]
fn nested_loops_are_counted_as_one() {
    let outer = Task { kind: TaskKind::Loop, iterations: Some(2), ..container("o", "outer", "r") };
    let inner = |id, iteration| Task {
        kind: TaskKind::Loop,
        iterations: Some(3),
        iteration: Some(iteration),
        ..container(id, "inner", "o")
    };
    let pushed =
        |id, parent, iteration| Task { parent: Some(parent), iteration: Some(iteration), ..task(id, "push", 2) };
    let selection = select(&[
        (ROOT, vec![]),
        (outer, vec![]),
        (inner("i0", 0), vec![]),
        (inner("i1", 1), vec![]),
        (pushed("a", "i0", 2), vec![model("1", "gs://1")]),
        (pushed("b", "i1", 2), vec![model("2", "gs://2")]),
    ]);
    let mut names = names(&selection);
    names.sort();
    assert_eq!(names, [2, 5].map(|index| format!("taxi:taxi-x:push:model:{index}")));
}

#[test]
fn models_are_ordered_by_their_tasks_without_duplicates() {
    let named = |id, uri, name| ArtifactRow { name: Some(name), ..model(id, uri) };
    let selection = select(&[
        (ROOT, vec![]),
        (task("c", "third", 3), vec![model("1", "gs://3"), model("1", "gs://3"), model("0", "gs://1")]),
        (task("b", "second", 2), vec![named("2", "gs://2", "mine"), named("9", "gs://2b", "shared")]),
        (task("a", "first", 1), vec![named("3", "gs://1", "shared")]),
    ]);
    assert_eq!(uris(&selection), ["gs://1", "gs://2", "gs://2b", "gs://3"]);
    let expected = ["taxi:taxi-x:first:model:0", "mine", "taxi:taxi-x:second:model:1", "taxi:taxi-x:third:model:0"];
    assert_eq!(names(&selection), expected);
}

#[test]
fn a_copy_has_only_what_it_executed_itself() {
    let copy = Workflow { resubmitted: true, ..run() };
    let tasks = [
        (ROOT, vec![]),
        (task("a", "push", -6), vec![model("1", "gs://old")]),
        (task("b", "push", -5), vec![model("2", "gs://new")]),
    ];
    let selection = select_of(&copy, &tasks, CREATED + 1000).unwrap();
    assert_eq!((uris(&selection), selection.older_tasks), (vec!["gs://new"], 1));
    let tasks = [(ROOT, vec![]), (task("a", "push", -90_000), vec![model("1", "gs://old")])];
    assert_eq!(uris(&select(&tasks)), ["gs://old"], "a retried run keeps its tasks");
}

/// Parents that form a cycle, or that are missing, end no lookup.
#[test]
fn any_parents_have_an_end() {
    let cycle = [("x", "y"), ("y", "x")].map(|(id, parent)| (container(id, id, parent), vec![]));
    let lost = (Task { parent: Some("lost"), ..task("b", "push", 2) }, vec![model("2", "gs://2")]);
    let of_cycle = (Task { parent: Some("x"), ..task("a", "push", 1) }, vec![model("1", "gs://1")]);
    let selection = select(&[cycle[0].clone(), cycle[1].clone(), lost, of_cycle]);
    assert_eq!(uris(&selection), ["gs://1", "gs://2"]);
    assert_eq!(names(&selection).into_iter().collect::<HashSet<_>>().len(), 2);
}

/// A tenant may nest tasks with long names, of which each model has a copy.
#[test]
fn long_paths_of_many_models_are_too_large() {
    let names: Vec<String> = (0..31).map(|depth| format!("{depth}{}", "x".repeat(1000))).collect();
    let mut tasks = vec![(ROOT, vec![])];
    let mut parent = "r";
    for name in &names {
        tasks.push((container(name, name, parent), vec![]));
        parent = name;
    }
    let ids: Vec<String> = (0..40).map(|number| format!("gs://{number}")).collect();
    let rows = |count: usize| ids[..count].iter().map(|id| model(id, id)).collect();
    tasks.push((Task { parent: Some(parent), ..task("a", "push", 5) }, rows(30)));
    assert_eq!(select(&tasks).models.len(), 30);
    tasks.pop();
    tasks.push((Task { parent: Some(parent), ..task("a", "push", 5) }, rows(40)));
    assert_eq!(select_of(&run(), &tasks, CREATED + 1000), Err(LookupError::TooLarge));
}
