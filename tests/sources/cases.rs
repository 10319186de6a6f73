//! Runs that both sources of models have, and the models of their events. Each case is written once, in the words of
//! Kubeflow's API, and stored in either source.

use model_update_eventsource::{
    delivery::LookupError,
    model::{ArtifactTypes, Phase, PipelineName, RunId, Workflow},
};
use test_support::{KfpArtifact, KfpRun, KfpTask, TaskKind, TaskState};

use crate::{NAMESPACE, WORKFLOW, workflow};

/// A day in seconds.
const LONG_AGO: i64 = 24 * 3600;

/// A run, and what a lookup of it returns.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) workflow: Workflow,
    pub(crate) types: ArtifactTypes,
    /// The run, and others that it refers to, each with its tasks.
    pub(crate) runs: Vec<(KfpRun, Vec<KfpTask>)>,
    pub(crate) expected: Expected,
}

/// The result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The names and locations of models, in their order.
    Models(Vec<(String, String)>),
    /// The name of a failed run's pipeline.
    Pipeline(String),
    Failure(LookupError),
}

/// A case of the namespace [`NAMESPACE`] with these tasks, and these models in its event.
fn case(name: &'static str, tasks: Vec<KfpTask>, models: &[(&str, &str)]) -> Case {
    let run = KfpRun::new(&format!("run of {name}"), NAMESPACE, "taxi").of_workflow(WORKFLOW);
    let models = models.iter().map(|(name, location)| ((*name).to_owned(), (*location).to_owned()));
    Case {
        name,
        workflow: workflow(PipelineName::Generated("taxi".into()), &run.id),
        types: ArtifactTypes::default(),
        runs: vec![(run, tasks)],
        expected: Expected::Models(models.collect()),
    }
}

fn push(uri: &str) -> KfpTask {
    KfpTask::new("push").output(KfpArtifact::pushed(uri))
}

fn tfx(uri: &str) -> KfpArtifact {
    KfpArtifact::new("tfx.PushedModel", "pushed_model", uri)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = selection();
    cases.extend(structure());
    cases.extend(runs());
    cases
}

/// Which outputs are models.
fn selection() -> Vec<Case> {
    let tasks = || {
        vec![
            KfpTask::new("train").aged(9).output(KfpArtifact::new("system.Model", "model", "gs://trained")),
            KfpTask::new("tfx-push").aged(8).output(tfx("gs://tfx")),
            push("gs://shim").aged(7),
            KfpTask::new("evaluate").aged(6).output(KfpArtifact::new("system.Metrics", "metrics", "gs://metrics")),
        ]
    };
    let named = |name: &str, uri: &str| tfx(uri).metadata("name", name);
    let mut old = case(
        "a cached output",
        vec![KfpTask::new("push").state(TaskState::Cached).output(KfpArtifact::existing("cached", "model"))],
        &[("taxi:taxi-x7k2p:push:model:0", "gs://old")],
    );
    let earlier = KfpRun::new("an earlier run", NAMESPACE, "taxi");
    old.runs.insert(
        0,
        (earlier, vec![KfpTask::new("push").aged(LONG_AGO).output(KfpArtifact::pushed("gs://old").with_id("cached"))]),
    );
    let mut read = case("an input", vec![KfpTask::new("evaluate").input(KfpArtifact::existing("read", "model"))], &[]);
    let earlier = KfpRun::new("another earlier run", NAMESPACE, "taxi");
    read.runs.insert(
        0,
        (earlier, vec![KfpTask::new("push").aged(LONG_AGO).output(KfpArtifact::pushed("gs://read").with_id("read"))]),
    );
    vec![
        case(
            "pushed models of the default types",
            tasks(),
            &[("taxi:taxi-x7k2p:tfx-push:pushed_model:0", "gs://tfx"), ("taxi:taxi-x7k2p:push:model:0", "gs://shim")],
        ),
        Case {
            types: ArtifactTypes::named(["system.Model"]),
            ..case(
                "other types",
                tasks(),
                &[("taxi:taxi-x7k2p:train:model:0", "gs://trained"), ("taxi:taxi-x7k2p:push:model:0", "gs://shim")],
            )
        },
        case(
            "models that are not pushed or have no location",
            vec![
                KfpTask::new("a").output(tfx("gs://no").metadata("pushed", 0)),
                KfpTask::new("b").output(tfx("")),
                KfpTask::new("c").output(tfx("gs://text").metadata("pushed", "0")),
            ],
            &[],
        ),
        case(
            "an imported model",
            vec![KfpTask { kind: TaskKind::Importer, ..KfpTask::new("importer").output(tfx("gs://elsewhere/base")) }],
            &[],
        ),
        read,
        old,
        case(
            "given names",
            vec![
                KfpTask::new("a").aged(9).output(named("mine", "gs://1")),
                KfpTask::new("b").aged(8).output(named("shared", "gs://2")),
                KfpTask::new("c").aged(7).output(named("shared", "gs://3")),
            ],
            &[
                ("mine", "gs://1"),
                ("taxi:taxi-x7k2p:b:pushed_model:0", "gs://2"),
                ("taxi:taxi-x7k2p:c:pushed_model:0", "gs://3"),
            ],
        ),
        case(
            "a location of two tasks",
            vec![push("gs://same").aged(9), KfpTask::new("copy").aged(8).output(KfpArtifact::pushed("gs://same"))],
            &[("taxi:taxi-x7k2p:push:model:0", "gs://same")],
        ),
        case("no model at all", vec![KfpTask::new("train")], &[]),
    ]
}

/// Places of tasks.
fn structure() -> Vec<Case> {
    let dag = |id: &str, name: &str| KfpTask::container(TaskKind::Dag, id, name);
    let each = KfpTask { iterations: Some(3), ..KfpTask::container(TaskKind::Loop, "each", "for-loop-1") };
    let iteration = |index: i64| push(&format!("gs://{index}")).within("each").iteration(index).aged(20 - index);
    vec![
        case(
            "two sub-pipelines",
            vec![
                dag("blue", "blue").aged(20),
                dag("green", "green").aged(20),
                push("gs://blue").within("blue").aged(9),
                push("gs://green").within("green").aged(8),
            ],
            &[("taxi:taxi-x7k2p:blue/push:model:0", "gs://blue"), ("taxi:taxi-x7k2p:green/push:model:0", "gs://green")],
        ),
        case(
            "a task that ran again",
            vec![
                dag("first", "sub").aged(20),
                push("gs://first").within("first").aged(19),
                dag("again", "sub").aged(10),
                push("gs://again").within("again").aged(9),
            ],
            &[("taxi:taxi-x7k2p:push:model:0", "gs://again")],
        ),
        case(
            "a task that ran again and pushed nothing",
            vec![
                dag("first-2", "sub").aged(20),
                push("gs://first").within("first-2").aged(19),
                dag("again-2", "sub").aged(10),
                KfpTask::new("push")
                    .within("again-2")
                    .aged(9)
                    .output(KfpArtifact::pushed("gs://x").metadata("pushed", 0)),
            ],
            &[],
        ),
        case(
            "a loop",
            vec![each.aged(30), iteration(0), iteration(1), iteration(2)],
            &[
                ("taxi:taxi-x7k2p:push:model:0", "gs://0"),
                ("taxi:taxi-x7k2p:push:model:1", "gs://1"),
                ("taxi:taxi-x7k2p:push:model:2", "gs://2"),
            ],
        ),
        case(
            "more tasks than a page has",
            (0..250).map(|number| KfpTask::new(&format!("task-{number}"))).chain([push("gs://last")]).collect(),
            &[("taxi:taxi-x7k2p:push:model:0", "gs://last")],
        ),
    ]
}

/// Lets the run fail.
fn fail(case: &mut Case, expected: Expected) {
    (case.workflow.phase, case.workflow.pipeline) = (Phase::Failed, PipelineName::Unknown.into());
    case.expected = expected;
}

/// Runs beside the plain ones.
fn runs() -> Vec<Case> {
    let mut foreign = case("a run of another namespace", vec![push("gs://theirs")], &[]);
    foreign.runs[0].0.namespace = "team-b".to_owned();
    foreign.expected = Expected::Failure(LookupError::ForeignContext { namespace: "team-b".to_owned() });
    let mut unknown = case("an unknown run", vec![], &[]);
    unknown.workflow.run_id = Some(RunId::new("a run that does not exist"));
    unknown.expected = Expected::Failure(LookupError::NoContext);
    let mut copy = case(
        "a copy by argo resubmit",
        vec![push("gs://old").aged(60), KfpTask::new("push-again").output(KfpArtifact::pushed("gs://new"))],
        &[("taxi:taxi-x7k2p:push-again:model:0", "gs://new")],
    );
    copy.workflow.resubmitted = true;
    let mut recurring = case("a recurring run", vec![push("gs://1")], &[("taxi:taxi-x7k2p:push:model:0", "gs://1")]);
    recurring.workflow.pipeline = PipelineName::Unknown.into();
    let mut failed = case(
        "a failed run",
        vec![KfpTask::new("train").output(KfpArtifact::new("system.Artifact", "executor-logs", "gs://log"))],
        &[],
    );
    fail(&mut failed, Expected::Pipeline("taxi".to_owned()));
    // Its image could not be pulled, for example.
    let mut early = case("a run that failed before any artifact", vec![KfpTask::new("train")], &[]);
    fail(&mut early, Expected::Pipeline("taxi".to_owned()));
    let mut borrowed = case("a failed run of another namespace", vec![push("gs://theirs")], &[]);
    borrowed.runs[0].0.namespace = "team-b".to_owned();
    fail(&mut borrowed, Expected::Failure(LookupError::ForeignContext { namespace: "team-b".to_owned() }));
    vec![
        foreign,
        unknown,
        copy,
        recurring,
        failed,
        early,
        borrowed,
        case(
            "a run retried after its Workflow was deleted",
            vec![push("gs://1").aged(LONG_AGO), KfpTask::new("notify")],
            &[("taxi:taxi-x7k2p:push:model:0", "gs://1")],
        ),
    ]
}
