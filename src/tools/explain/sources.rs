//! The answers of the sources of models, by the rule of the server, with the verdicts of the source that decided.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use futures::future::{BoxFuture, FutureExt as _};

use super::CONCURRENT_RUNS;
use crate::{
    delivery::{Explained, LookupError, ModelSource},
    kfp::Kfp,
    lookup::sources::{OLD_SERVER, in_turn},
    mlmd::Mlmd,
    model::{ArtifactTypes, RunModels, Workflow},
};

/// The code of a lookup without a connection.
pub(super) const UNAVAILABLE: &str = "unavailable";
/// The code of a lookup that took too long.
const TIMEOUT: &str = "timeout";
/// Timeouts in a row after which a source counts as hanging. A single run may have so much in the store that its lookup
/// takes too long; of a source that hangs, all the runs that are looked up at once show it together.
const MAX_TIMEOUTS: usize = CONCURRENT_RUNS;

/// The sources of models that are asked.
#[derive(Clone, Debug)]
pub enum Sources {
    /// Kubeflow's API only.
    Kfp(Access<Kfp>),
    /// ML Metadata only.
    Mlmd(Access<Mlmd>),
    /// Kubeflow's API, then ML Metadata about what that leaves open.
    Both(Access<Kfp>, Access<Mlmd>),
}

/// The access to a source.
#[derive(Clone, Debug)]
pub enum Access<T> {
    /// A client.
    Reachable(Box<T>),
    /// There is none, for this reason.
    Unreachable(Unreachable),
}

/// The reason why a source cannot be asked.
#[derive(Clone, Debug)]
pub struct Unreachable {
    /// The reason.
    pub message: String,
    /// It is a right that the person does not have, so the server may well reach it.
    pub is_forbidden: bool,
}

/// A source that says what it has seen.
pub trait Explain {
    /// The source.
    const SOURCE: ModelSource;

    /// Looks up the models of a run, and reports the verdict about each artifact.
    fn explain<'a>(&'a self, run: &'a Workflow, types: &'a ArtifactTypes) -> BoxFuture<'a, Explained>;
}

impl Explain for Kfp {
    const SOURCE: ModelSource = ModelSource::Kfp;

    fn explain<'a>(&'a self, run: &'a Workflow, types: &'a ArtifactTypes) -> BoxFuture<'a, Explained> {
        self.explain(run, types).boxed()
    }
}

impl Explain for Mlmd {
    const SOURCE: ModelSource = ModelSource::Mlmd;

    fn explain<'a>(&'a self, run: &'a Workflow, types: &'a ArtifactTypes) -> BoxFuture<'a, Explained> {
        self.explain(run, types).boxed()
    }
}

/// Failures that every other run would wait for, too, by source. They hold for one explanation.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<ModelSource, Failure>>);

#[derive(Debug, Default)]
struct Failure {
    /// The answer for all further runs.
    of_all: Option<LookupError>,
    /// Timeouts since the last answer.
    timeouts: usize,
}

impl Failures {
    fn of(&self, source: ModelSource) -> Option<LookupError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&source)?.of_all.clone()
    }

    fn note(&self, explained: &Explained) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = failures.entry(explained.source).or_default();
        let is_of_all = match &explained.found {
            Err(LookupError::Failed { code: UNAVAILABLE | OLD_SERVER, .. }) => true,
            Err(LookupError::Failed { code: TIMEOUT, .. }) => {
                failure.timeouts += 1;
                failure.timeouts >= MAX_TIMEOUTS
            }
            _ => {
                failure.timeouts = 0;
                false
            }
        };
        if let (true, Err(error)) = (is_of_all, &explained.found) {
            failure.of_all = Some(error.clone());
        }
    }
}

impl Sources {
    /// Looks up the models of a run as the server does.
    pub(super) async fn explain(&self, run: &Workflow, types: &ArtifactTypes, failures: &Failures) -> Explained {
        match self {
            Self::Kfp(kfp) => kfp.ask(run, types, failures).await,
            Self::Mlmd(mlmd) => mlmd.ask(run, types, failures).await,
            Self::Both(kfp, mlmd) => {
                let (mut native, mut stored) = (None, None);
                let first = async { split(kfp.ask(run, types, failures).await, &mut native) };
                let rest = &mut stored;
                let second = move || async move { split(mlmd.ask(run, types, failures).await, rest) };
                let (source, found) = in_turn(first, second).await;
                let seen = match source {
                    ModelSource::Kfp => native,
                    ModelSource::Mlmd => stored,
                };
                Explained { found, ..seen.unwrap_or_else(|| unanswered(source, LookupError::NoContext)) }
            }
        }
    }

    /// Returns the right without which a source cannot be asked.
    pub(super) fn missing_right(&self, source: ModelSource) -> Option<&str> {
        match (self, source) {
            (Self::Kfp(kfp) | Self::Both(kfp, _), ModelSource::Kfp) => kfp.missing_right(),
            (Self::Mlmd(mlmd) | Self::Both(_, mlmd), ModelSource::Mlmd) => mlmd.missing_right(),
            _ => None,
        }
    }
}

/// Takes the answer out of an explanation, and keeps the rest.
fn split(mut explained: Explained, rest: &mut Option<Explained>) -> Result<RunModels, LookupError> {
    let found = std::mem::replace(&mut explained.found, Err(LookupError::NoContext));
    *rest = Some(explained);
    found
}

fn unanswered(source: ModelSource, error: LookupError) -> Explained {
    Explained { source, found: Err(error), record: None, artifacts: Vec::new(), left_out: 0 }
}

impl<T: Explain> Access<T> {
    async fn ask(&self, run: &Workflow, types: &ArtifactTypes, failures: &Failures) -> Explained {
        let client = match self {
            Self::Reachable(client) => client,
            Self::Unreachable(Unreachable { message, .. }) => {
                return unanswered(T::SOURCE, LookupError::Failed { code: UNAVAILABLE, message: message.clone() });
            }
        };
        if let Some(error) = failures.of(T::SOURCE) {
            return unanswered(T::SOURCE, error);
        }
        let explained = client.explain(run, types).await;
        failures.note(&explained);
        explained
    }

    fn missing_right(&self) -> Option<&str> {
        match self {
            Self::Unreachable(Unreachable { message, is_forbidden: true }) => Some(message),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PipelineName, fixtures::succeeded};

    fn unreachable<T>(message: &str, is_forbidden: bool) -> Access<T> {
        Access::Unreachable(Unreachable { message: message.to_owned(), is_forbidden })
    }

    /// Answers in this order, and counts the lookups.
    #[derive(Debug)]
    struct Script(Mutex<Vec<Result<RunModels, LookupError>>>);

    impl Explain for Script {
        const SOURCE: ModelSource = ModelSource::Mlmd;

        fn explain<'a>(&'a self, _: &'a Workflow, _: &'a ArtifactTypes) -> BoxFuture<'a, Explained> {
            let found = self.0.lock().unwrap().pop().expect("one more answer");
            futures::future::ready(Explained { found, ..unanswered(Self::SOURCE, LookupError::NoContext) }).boxed()
        }
    }

    /// A run whose lookup takes too long says nothing about other runs, but a source that hangs is not waited for again
    /// and again.
    #[tokio::test]
    async fn only_timeouts_in_a_row_answer_for_later_runs() {
        let failed = |code| Err(LookupError::Failed { code, message: String::new() });
        let lookups_of = async |mut script: Vec<Result<RunModels, LookupError>>, runs: usize| {
            script.reverse();
            let length = script.len();
            let source = Access::Reachable(Box::new(Script(Mutex::new(script))));
            let (run, failures) = (succeeded(PipelineName::Unknown), Failures::default());
            let mut last = failed(TIMEOUT);
            for _ in 0..runs {
                last = source.ask(&run, &ArtifactTypes::default(), &failures).await.found;
            }
            let Access::Reachable(source) = source else { unreachable!("as above") };
            (length - source.0.lock().unwrap().len(), last)
        };
        let found = || Ok(RunModels::default());
        let slow = vec![failed(TIMEOUT); MAX_TIMEOUTS - 1];
        let between = [&slow[..], &[found()], &slow[..], &[found()]].concat();
        let count = between.len();
        assert_eq!(lookups_of(between, count).await, (count, found()));
        let hangs = vec![failed(TIMEOUT); 100];
        assert_eq!(lookups_of(hangs, 100).await, (MAX_TIMEOUTS, failed(TIMEOUT)));
        for code in [UNAVAILABLE, OLD_SERVER] {
            assert_eq!(lookups_of(vec![failed(code), found()], 2).await, (1, failed(code)));
        }
    }

    /// Nothing is concluded from ML Metadata while Kubeflow's API cannot be asked, and the reason is that of the API.
    #[tokio::test]
    async fn the_source_that_decides_tells_the_reason() {
        let run = succeeded(PipelineName::Unknown);
        let (kfp, mlmd) = (unreachable("no right", true), unreachable("no Pod", false));
        let both = Sources::Both(kfp.clone(), mlmd.clone());
        for (sources, source, message, right) in [
            (both, ModelSource::Kfp, "no right", Some("no right")),
            (Sources::Kfp(kfp), ModelSource::Kfp, "no right", Some("no right")),
            (Sources::Mlmd(mlmd), ModelSource::Mlmd, "no Pod", None),
        ] {
            let explained = sources.explain(&run, &ArtifactTypes::default(), &Failures::default()).await;
            let failure = LookupError::Failed { code: UNAVAILABLE, message: message.to_owned() };
            assert_eq!((explained.source, explained.found), (source, Err(failure)));
            assert_eq!(sources.missing_right(source), right);
        }
    }
}
