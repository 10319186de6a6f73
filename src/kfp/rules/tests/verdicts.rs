//! The verdict about each artifact: those that count are the models, whatever the run consists of.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    delivery::{Explained, ModelSource},
    kfp::rules::{Collector, Relation},
};

type Linked = (Task<'static>, Vec<(Relation, Link<'static>, ArtifactRow<'static>)>);

/// A lookup among these tasks, as the caller of the rules makes it.
fn look_up(run: &Workflow, tasks: &[Linked], verdicts: &mut dyn Verdicts) -> Result<Selection, LookupError> {
    let types = ArtifactTypes::default();
    let mut all = Tasks::of(run, &types);
    verdicts.begin();
    for (task, links) in tasks {
        let (_, matters) = all.add(task, verdicts);
        if verdicts.wants_all() {
            for (relation, link, row) in links {
                all.judge(task, *relation, link, row, verdicts);
            }
        }
        let outputs = links.iter().filter(|(relation, ..)| matters && *relation == Relation::Output);
        for (index, (_, link, row)) in outputs.enumerate() {
            all.add_output(task, link, index as i64, row);
        }
    }
    all.select(CREATED + 1000, verdicts)
}

fn explain(run: &Workflow, tasks: &[Linked]) -> (Result<Selection, LookupError>, Explained) {
    let mut collector = Collector::default();
    let found = look_up(run, tasks, &mut collector);
    let models = found.as_ref().map(|found| found.models.clone()).map_err(Clone::clone);
    let models = models.map(|models| RunModels { models, ..RunModels::default() });
    (found, collector.explained(models))
}

fn verdicts(explained: &Explained) -> BTreeMap<String, ArtifactVerdict> {
    explained.artifacts.iter().map(|seen| (seen.id.to_string(), seen.verdict)).collect()
}

fn output(row: ArtifactRow<'static>) -> (Relation, Link<'static>, ArtifactRow<'static>) {
    (Relation::Output, MODEL, row)
}

#[test]
fn every_artifact_has_the_verdict_of_the_first_rule() {
    let row = |id: &'static str| model(id, id);
    let importer = Task { kind: TaskKind::Importer, ..task("i", "import", 1) };
    let failed = Task { state: TaskState::Other, ..task("f", "broken", 1) };
    let running = Task { state: TaskState::Running, ..task("k", "killed", 1) };
    let read = |row| (Relation::Input, Link { key: "base", iteration: None }, row);
    let tasks = [
        (ROOT, vec![output(row("counts")), output(row("imported")), output(row("declared"))]),
        (task("a", "push", 1), vec![output(row("earlier"))]),
        (task("b", "push", 2), vec![output(row("counts")), read(row("read")), read(row("imported"))]),
        (importer, vec![output(row("imported"))]),
        (failed, vec![output(row("failed"))]),
        (running, vec![output(row("running"))]),
        (
            task("c", "other", 3),
            vec![
                output(ArtifactRow { namespace: "team-b", ..row("foreign") }),
                output(ArtifactRow { pushed: Some(0), ..row("unblessed") }),
                output(ArtifactRow { pushed: None, ..row("not pushed") }),
                output(ArtifactRow { uri: "", ..row("no uri") }),
                output(ArtifactRow { uri: "counts", ..row("same") }),
                output(ArtifactRow { type_name: "system.Dataset".into(), ..row("dataset") }),
                (Relation::Repeated, MODEL, row("one of")),
            ],
        ),
    ];
    let (found, explained) = explain(&run(), &tasks);
    assert_eq!(uris(&found.unwrap()), ["counts"]);
    use ArtifactVerdict as V;
    let expected = [
        ("counts", V::Counts),
        ("dataset", V::NotAModel(NotAModel::OtherType)),
        ("declared", V::NoEvent),
        ("earlier", V::EarlierAttempt),
        ("failed", V::NotSucceeded),
        ("foreign", V::ForeignNamespace),
        ("imported", V::Importer),
        ("no uri", V::NotAModel(NotAModel::NoUri)),
        ("not pushed", V::NotAModel(NotAModel::NotPushed)),
        ("one of", V::NoEvent),
        ("read", V::OnlyRead),
        ("running", V::Unfinished),
        ("same", V::SameLocation),
        ("unblessed", V::NotAModel(NotAModel::Unblessed)),
    ];
    assert_eq!(verdicts(&explained), expected.map(|(id, verdict)| (id.to_owned(), verdict)).into());
    let place = |id: &str| {
        let seen = explained.artifacts.iter().find(|seen| seen.id.to_string() == id).unwrap();
        (seen.node.as_deref().unwrap_or(""), seen.key.as_deref().unwrap_or(""))
    };
    assert_eq!(place("counts"), ("push", "model"), "not the run that declares it");
    assert_eq!((place("imported"), place("read")), (("import", "model"), ("push", "base")));
    let record = explained.record.unwrap();
    assert_eq!((record.kind, &*record.name, record.namespace.as_deref()), ("run", "0e1f", Some("team-a")));
    assert_eq!(explained.source, ModelSource::Kfp);
}

#[test]
fn verdicts_of_a_lookup_that_fails() {
    let tasks = [(ROOT, vec![]), (task("a", "push", 1), vec![output(model("1", "gs://1"))])];
    let running = Task { state: TaskState::Running, ..task("b", "other", 1) };
    let waiting = [&tasks[..], &[(running, vec![output(model("2", "gs://2"))])]].concat();
    let just_ended = Workflow { finished: CREATED + 990, ..run() };
    let (found, explained) = explain(&just_ended, &waiting);
    assert_eq!(found.unwrap_err().code(), UNFINISHED_CODE);
    let expected = [("1", ArtifactVerdict::Undecided), ("2", ArtifactVerdict::Unfinished)];
    assert_eq!(verdicts(&explained), expected.map(|(id, verdict)| (id.to_owned(), verdict)).into());
    let copy = Workflow { resubmitted: true, created: CREATED + 60, ..run() };
    let (_, explained) = explain(&copy, &tasks);
    assert_eq!(verdicts(&explained)["1"], ArtifactVerdict::ForeignExecution);
    let (found, explained) = explain(&run(), &[]);
    assert_eq!((found, explained.record), (Err(LookupError::NoContext), None));
}

/// A listing that begins again is another one.
#[test]
fn only_the_last_listing_is_collected() {
    let mut collector = Collector::default();
    let of = |id: &'static str| [(ROOT, vec![]), (task("a", "push", 1), vec![output(model(id, id))])];
    look_up(&run(), &of("1"), &mut collector).unwrap();
    look_up(&run(), &of("2"), &mut collector).unwrap();
    let explained = collector.explained(Ok(RunModels::default()));
    assert_eq!(verdicts(&explained), [("2".to_owned(), ArtifactVerdict::Counts)].into());
}

const IDS: [&str; 12] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"];
const NAMES: [&str; 3] = ["push", "train", "other"];
const PARENTS: [&str; 3] = ["r", "d", "l"];

/// The artifacts of a run: some have one location, and some are no models.
fn rows() -> impl Strategy<Value = Vec<ArtifactRow<'static>>> {
    let row = (0..8_usize, 0..4_usize, prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    prop::collection::vec(row, IDS.len()).prop_map(|rows| {
        let row = |(index, (uri, pushed, is_foreign, is_other))| ArtifactRow {
            uri: ["", "a", "b", "c", "d", "e", "f", "g"][uri],
            pushed: [Some(1), Some(1), Some(0), None][pushed],
            namespace: if is_foreign { "team-b" } else { "team-a" },
            type_name: if is_other { "system.Dataset" } else { "system.Model" }.into(),
            ..model(IDS[index], "")
        };
        rows.into_iter().enumerate().map(row).collect()
    })
}

fn tasks() -> impl Strategy<Value = Vec<Linked>> {
    let links = prop::collection::vec((0..IDS.len(), 0..4_usize, 0..2_usize), 0..4);
    let task = (0..NAMES.len(), 0..PARENTS.len(), 0..6_usize, 0..4_usize, -20..20_i64, links);
    (rows(), prop::collection::vec(task, 0..10)).prop_map(|(rows, tasks)| {
        let containers = [
            (ROOT, vec![output(rows[0].clone())]),
            (container("d", "sub", "r"), vec![output(rows[1].clone())]),
            (Task { kind: TaskKind::Loop, ..container("l", "loop", "r") }, vec![]),
        ];
        let made = tasks.into_iter().enumerate().map(|(index, (name, parent, kind, state, created, links))| {
            let made = Task {
                kind: if kind == 0 { TaskKind::Importer } else { TaskKind::Runtime },
                state: [TaskState::Done, TaskState::Done, TaskState::Other, TaskState::Running][state],
                parent: Some(PARENTS[parent]),
                iteration: (PARENTS[parent] == "l").then_some(kind as i64 % 2),
                ..super::task(IDS[index], NAMES[name], created)
            };
            let links = links.into_iter().map(|(row, relation, key)| {
                let relation = [Relation::Output, Relation::Output, Relation::Input, Relation::Repeated][relation];
                (relation, Link { key: ["model", "second"][key], iteration: None }, rows[row].clone())
            });
            (made, links.collect())
        });
        containers.into_iter().chain(made).collect()
    })
}

proptest! {
    #[test]
    fn those_that_count_are_the_models(tasks in tasks(), resubmitted in any::<bool>()) {
        let run = Workflow { resubmitted, ..run() };
        let (found, explained) = explain(&run, &tasks);
        prop_assert_eq!(&found, &look_up(&run, &tasks, &mut ()), "a collector changes nothing");
        let verdicts = verdicts(&explained);
        let all: BTreeSet<&str> = tasks.iter().flat_map(|(_, links)| links).map(|(_, _, row)| row.id).collect();
        prop_assert_eq!(verdicts.keys().map(String::as_str).collect::<BTreeSet<_>>(), all, "each has a verdict");
        let models = found.iter().flat_map(|found| &found.models).map(|model| model.id.to_string());
        let counts = verdicts.iter().filter(|(_, verdict)| verdict.counts()).map(|(id, _)| id.clone());
        prop_assert_eq!(counts.collect::<BTreeSet<_>>(), models.collect::<BTreeSet<_>>());
        if found.is_ok() {
            prop_assert!(verdicts.values().all(|verdict| *verdict != ArtifactVerdict::Undecided), "{:?}", verdicts);
        }
        let foreign = verdicts.values().filter(|verdict| **verdict == ArtifactVerdict::ForeignNamespace).count();
        if let Ok(Selection { foreign_models, .. }) = found {
            prop_assert!(foreign <= foreign_models, "each foreign model is counted");
        }
    }
}
