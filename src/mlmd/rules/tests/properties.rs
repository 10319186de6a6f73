//! Random histories of a run: tasks that run again, loops, sub-pipelines that run again, caches and `argo resubmit`. A
//! plain simulation computes which models are current in the end.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::model::ArtifactVerdict;

/// The tasks of the pipeline by their paths. The names of DAGs precede those of tasks; `*` is the iteration of a loop.
const TASKS: [&[&str]; 6] = [
    &["push"],
    &["train"],
    &["loop", "loop*", "push"],
    &["sub", "push"],
    &["sub", "nested", "nested*", "push"],
    &["sub", "nested", "nested*", "inner", "inner*", "push"],
];
const KEYS: [&str; 2] = ["model", "other"];

/// The output of an execution under one key.
#[derive(Clone, Copy, Debug)]
enum Produced {
    Model,
    Unblessed,
    /// An artifact that exists, chosen by this number.
    Cached(usize),
}

#[derive(Clone, Debug)]
enum Step {
    /// Executes a task in these iterations of its loops.
    Execute { task: usize, iterations: [u32; 2], outputs: [Option<Produced>; 2] },
    /// Executes a DAG again: the one of this depth that contains a task.
    RestartDag { task: usize, iterations: [u32; 2], depth: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let produced = || {
        prop::option::of(prop_oneof![
            4 => Just(Produced::Model),
            1 => Just(Produced::Unblessed),
            1 => any::<usize>().prop_map(Produced::Cached),
        ])
    };
    let at = || (0..TASKS.len(), prop::array::uniform2(0..3_u32));
    let execute = (at(), [produced(), produced()]).prop_map(|((task, iterations), outputs)| Step::Execute {
        task,
        iterations,
        outputs,
    });
    let restart =
        (at(), 0..5_usize).prop_map(|((task, iterations), depth)| Step::RestartDag { task, iterations, depth });
    prop::collection::vec(prop_oneof![5 => execute, 1 => restart], 1..25)
}

/// The path of a task with its iterations filled in: names, and the iteration of each.
fn path(task: usize, iterations: [u32; 2]) -> Vec<(&'static str, Option<u32>)> {
    let mut iterations = iterations.into_iter();
    let element = |name: &&'static str| match name.strip_suffix('*') {
        Some(name) => (name, iterations.next()),
        None => (*name, None),
    };
    TASKS[task].iter().map(element).collect()
}

type Path = Vec<(&'static str, Option<u32>)>;

/// The store, and the simulation.
#[derive(Default)]
struct History {
    last_id: i64,
    executions: Vec<Execution<'static>>,
    artifacts: Vec<ContextArtifact>,
    events: Vec<Event<'static>>,
    dags: BTreeMap<Path, i64>,
    current: BTreeMap<(Path, &'static str), i64>,
    resubmitted: bool,
}

impl History {
    fn add(&mut self, execution: Execution<'static>) -> i64 {
        self.last_id += 1;
        // The last second before `argo resubmit`, then the time of the Workflow and later.
        let created_ms = if self.resubmitted { CREATED * 1000 + self.last_id } else { (CREATED - 60) * 1000 };
        self.executions.push(Execution { id: self.last_id, created_ms, ..execution });
        self.last_id
    }

    /// Returns the DAG of this path, which is executed if it was not yet.
    fn dag(&mut self, path: &[(&'static str, Option<u32>)]) -> i64 {
        if let Some(id) = self.dags.get(path) {
            return *id;
        }
        let id = match path.split_last() {
            None => self.add(dag(0, None, 0, None)),
            Some((&(name, iteration), parents)) => {
                let parent = self.dag(parents);
                self.add(dag(0, Some(name), parent, iteration))
            }
        };
        self.dags.insert(path.to_vec(), id);
        id
    }

    fn execute(&mut self, path: Path, outputs: [Option<Produced>; 2]) {
        let (&(name, _), dags) = path.split_last().unwrap();
        let parent = self.dag(dags);
        let execution = self.add(task(0, name, parent));
        for (key, produced) in KEYS.into_iter().zip(outputs) {
            let Some(produced) = produced else { continue };
            let artifact = match produced {
                Produced::Cached(any) if !self.artifacts.is_empty() => self.artifacts[any % self.artifacts.len()].id,
                produced => {
                    let id = i64::try_from(self.artifacts.len()).unwrap() + 1;
                    let pushed = Some(i64::from(!matches!(produced, Produced::Unblessed)));
                    // Some have the same location.
                    let uri = format!("gs://models/{}", id - i64::from(id % 5 == 0)).into();
                    self.artifacts.push(ContextArtifact { pushed, uri, ..super::artifact(id) });
                    id
                }
            };
            self.events.push(Event { artifact, execution, is_output: true, key, index: None });
            self.current.insert((path.clone(), key), artifact);
        }
    }

    fn restart_dag(&mut self, mut path: Path, depth: usize) {
        path.pop();
        path.truncate(depth);
        if path.is_empty() || !self.dags.contains_key(&path) {
            return;
        }
        self.dags.retain(|other, _| !other.starts_with(&path));
        self.current.retain(|(task, _), _| !task.starts_with(&path));
        self.dag(&path);
    }

    fn apply(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Execute { task, iterations, outputs } => self.execute(path(task, iterations), outputs),
                Step::RestartDag { task, iterations, depth } => self.restart_dag(path(task, iterations), depth),
            }
        }
    }

    /// `argo resubmit`: everything is executed again, but for the DAG of the run itself in newer versions of KFP.
    fn resubmit(&mut self, reuses_run: bool) {
        self.resubmitted = true;
        self.current.clear();
        self.dags.retain(|path, _| reuses_run && path.is_empty());
    }

    fn executions(&self, is_resubmitted: bool, reverse: bool) -> Executions {
        let run = Workflow { resubmitted: is_resubmitted, ..run(PipelineName::Unknown) };
        let mut executions = Executions::of(&run, &run_context(RunFlavor::KfpV2));
        let mut all: Vec<_> = self.executions.iter().collect();
        if reverse {
            all.reverse();
        }
        for execution in all {
            executions.add(execution);
        }
        executions
    }

    /// The ids of the current models, of which each location appears once.
    fn expected(&self) -> Vec<i64> {
        let current: BTreeSet<i64> = self.current.values().copied().collect();
        let mut locations = BTreeSet::new();
        let artifacts = current.into_iter().map(|id| &self.artifacts[usize::try_from(id).unwrap() - 1]);
        let models = artifacts.filter(|artifact| artifact.pushed == Some(1));
        models.filter(|artifact| locations.insert(&artifact.uri)).map(|artifact| artifact.id).collect()
    }

    fn check(&self, is_resubmitted: bool) {
        let executions = self.executions(is_resubmitted, false);
        let found = models(self.artifacts.iter().cloned(), &self.events, &executions, &[]);
        assert_eq!(ids(&found), self.expected());
        let all_names = names(&found);
        assert_eq!(all_names.iter().collect::<BTreeSet<_>>().len(), all_names.len(), "{all_names:?}");
        for model in &found {
            assert_eq!(executions.role(model.execution), Role::Producer);
        }

        let mut collector = Collector::default();
        let again =
            models_with_verdicts(self.artifacts.iter().cloned(), &self.events, &executions, &[], &mut collector);
        assert_eq!(again, found, "a collector changes nothing");
        let seen = collector.explained(Err(LookupError::NoContext)).artifacts;
        let all: Vec<i64> = self.artifacts.iter().map(|artifact| artifact.id).collect();
        assert_eq!(seen.iter().map(number_of).collect::<Vec<_>>(), all, "each artifact has a verdict");
        let counts: Vec<i64> = seen.iter().filter(|seen| seen.verdict.counts()).map(number_of).collect();
        assert_eq!(counts, ids(&found), "those that count are the models");
        assert!(seen.iter().all(|seen| seen.verdict != ArtifactVerdict::Undecided), "{seen:?}");

        let executions = self.executions(is_resubmitted, true);
        let reversed: Vec<_> = self.events.iter().rev().cloned().collect();
        let again = models(self.artifacts.iter().rev().cloned(), &reversed, &executions, &[]);
        assert_eq!(again, found, "the order of the rows does not matter");
    }
}

proptest! {
    #[test]
    fn the_last_output_of_each_task_and_iteration_counts(steps in steps()) {
        let mut history = History::default();
        history.apply(steps);
        history.check(false);
    }

    #[test]
    fn a_resubmitted_run_has_only_its_own_models(before in steps(), after in steps(), reuses_run in any::<bool>()) {
        let mut history = History::default();
        history.apply(before);
        history.resubmit(reuses_run);
        history.apply(after);
        history.check(true);
    }

    /// The iteration is the index, wherever one loop contains the task.
    #[test]
    fn the_index_is_the_iteration(iterations in prop::collection::btree_set(0..1000_u32, 1..10)) {
        let mut history = History::default();
        for &iteration in &iterations {
            history.execute(path(2, [iteration, 0]), [Some(Produced::Model), None]);
        }
        let executions = history.executions(false, false);
        let found = models(history.artifacts.iter().cloned().enumerate().map(|(number, artifact)| ContextArtifact {
            uri: format!("gs://models/{number}").into(),
            ..artifact
        }), &history.events, &executions, &[]);
        let indices: Vec<u32> = found.iter().map(|model| u32::try_from(model.artifact.index).unwrap()).collect();
        prop_assert_eq!(indices, iterations.into_iter().collect::<Vec<_>>());
    }

    /// In TFX, the node's context distinguishes executions of a node from those of another node of the same class.
    #[test]
    fn the_last_output_of_each_node_counts(attempts in prop::collection::vec((0..3_usize, any::<bool>()), 0..15)) {
        const NODES: [&str; 3] = ["Pusher", "Pusher.eu", "Pusher.us"];
        let mut last: BTreeMap<usize, i64> = BTreeMap::new();
        let (mut all, mut events, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
        for (id, &(node, has_output)) in (1..).zip(&attempts) {
            all.push(execution(id));
            nodes.push((id, NODES[node]));
            if has_output {
                events.push(output(id, id));
                last.insert(node, id);
            }
        }
        let executions = executions(RunFlavor::Tfx, all);
        let artifacts = (1..).map(artifact).take(attempts.len());
        let found = models(artifacts, &events, &executions, &nodes);
        let expected: BTreeSet<i64> = last.into_values().collect();
        prop_assert_eq!(ids(&found), expected.into_iter().collect::<Vec<_>>());
    }
}
