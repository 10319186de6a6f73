//! The rule for two sources of models: Kubeflow's API is asked first, and ML Metadata where that does not settle the
//! run. An installation may be older than the API, or may have been upgraded and keep earlier runs in ML Metadata.
//!
//! An API that takes long counts as one that fails, until its answer arrives.
//!
//! The server and the commands for people decide by [`in_turn`].

use std::{borrow::Borrow, pin::pin, time::Duration};

use clap::ValueEnum;
use futures::future::{Either, select};
use tokio::{sync::oneshot, time::timeout};
use tonic::Code;

use crate::{
    delivery::{LookupError, ModelSource},
    model::RunModels,
    telemetry::grpc,
};

/// The sources of models that are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Artifacts {
    /// Kubeflow's API, then ML Metadata about what that leaves open
    #[default]
    Auto,
    /// ML Metadata: Kubeflow Pipelines up to 2.18
    Mlmd,
    /// Kubeflow's API: Kubeflow Pipelines 3
    Kfp,
}

/// The code of [`LookupError::Failed`] from a server that does not know tasks: it is of a version with ML Metadata.
pub const OLD_SERVER: &str = grpc::names(Code::Unimplemented).label;

/// Time after which ML Metadata is asked before Kubeflow's API has answered: a call to an API that hangs takes 20 s.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer of a source.
pub type Answer<T> = Result<T, LookupError>;

/// Asks Kubeflow's API, and then ML Metadata about what that leaves open. Returns the answer, and the source that gave
/// it.
pub async fn in_turn<T: Borrow<RunModels>, M: Future<Output = Answer<T>>>(
    kfp: impl Future<Output = Answer<T>>,
    mlmd: impl FnOnce() -> M,
) -> (ModelSource, Answer<T>) {
    let (hurry, patience) = oneshot::channel::<()>();
    let stored = async {
        drop(timeout(PATIENCE, patience).await);
        mlmd().await
    };
    match select(pin!(kfp), pin!(stored)).await {
        Either::Left((native, stored)) => match settled(native) {
            Ok(answer) => (ModelSource::Kfp, answer),
            Err(open) => {
                drop(hurry);
                combined(open, stored.await)
            }
        },
        Either::Right((stored, _)) if is_positive(&stored) => (ModelSource::Mlmd, stored),
        Either::Right((stored, native)) => match settled(native.await) {
            Ok(answer) => (ModelSource::Kfp, answer),
            Err(open) => combined(open, stored),
        },
    }
}

/// The reasons why an answer of Kubeflow's API does not settle the run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Open {
    /// The server is of a version with ML Metadata.
    OldServer,
    /// The server does not know the run. It may have ended before an upgrade.
    UnknownRun,
    /// There is no valid answer.
    Failed(LookupError),
}

/// Returns the answer of Kubeflow's API if it settles the run.
fn settled<T>(answer: Answer<T>) -> Result<Answer<T>, Open> {
    match answer {
        Ok(_) | Err(LookupError::ForeignContext { .. } | LookupError::TooLarge) => Ok(answer),
        Err(LookupError::NoContext) => Err(Open::UnknownRun),
        Err(LookupError::Failed { code: OLD_SERVER, .. }) => Err(Open::OldServer),
        Err(error @ LookupError::Failed { .. }) => Err(Open::Failed(error)),
    }
}

/// Returns whether an answer of ML Metadata counts without one of Kubeflow's API.
fn is_positive<T: Borrow<RunModels>>(stored: &Answer<T>) -> bool {
    stored.as_ref().is_ok_and(|found| !found.borrow().models.is_empty() || found.borrow().pipeline.is_some())
}

/// Returns the answer for a run that Kubeflow's API left open, given that of ML Metadata.
fn combined<T: Borrow<RunModels>>(open: Open, stored: Answer<T>) -> (ModelSource, Answer<T>) {
    match (open, stored) {
        (Open::OldServer, stored) => (ModelSource::Mlmd, stored),
        // After an upgrade, ML Metadata may be gone for good.
        (Open::UnknownRun, Err(LookupError::Failed { .. })) => (ModelSource::Kfp, Err(LookupError::NoContext)),
        (Open::UnknownRun, stored) => (ModelSource::Mlmd, stored),
        (Open::Failed(_), stored) if is_positive(&stored) => (ModelSource::Mlmd, stored),
        (Open::Failed(error), _) => (ModelSource::Kfp, Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, sync::Arc};

    use super::*;
    use crate::model::Artifact;

    type Found = Answer<Arc<RunModels>>;

    fn found(uri: &str) -> Found {
        let model =
            Artifact { id: 1.into(), name: None, uri: uri.into(), node: "push".into(), key: "model".into(), index: 0 };
        Ok(RunModels { models: vec![model], ..RunModels::default() }.into())
    }

    fn none() -> Found {
        Ok(Arc::default())
    }

    fn failed(code: &'static str) -> Found {
        Err(LookupError::Failed { code, message: String::new() })
    }

    fn foreign() -> Found {
        Err(LookupError::ForeignContext { namespace: "other".to_owned() })
    }

    /// Every pair of answers, with the answer that follows from them.
    #[test]
    fn the_answers_of_both_sources_are_combined() {
        let (unknown, large) = (|| Err(LookupError::NoContext), || Err(LookupError::TooLarge));
        let (down, old) = (|| failed("unavailable"), || failed("unimplemented"));
        let stored = || [found("mlmd"), none(), unknown(), foreign(), large(), failed("timeout")];
        for answer in [found("kfp"), none(), foreign(), large()] {
            assert_eq!(settled(answer.clone()), Ok(answer));
        }
        for (native, expected, from_kfp) in [
            (old(), stored(), [false; 6]),
            (
                unknown(),
                [found("mlmd"), none(), unknown(), foreign(), large(), unknown()],
                [false, false, false, false, false, true],
            ),
            (down(), [found("mlmd"), down(), down(), down(), down(), down()], [false, true, true, true, true, true]),
        ] {
            for ((stored, expected), from_kfp) in stored().into_iter().zip(expected).zip(from_kfp) {
                let open = settled(native.clone()).unwrap_err();
                let source = if from_kfp { ModelSource::Kfp } else { ModelSource::Mlmd };
                assert_eq!(combined(open, stored.clone()), (source, expected), "{native:?}, then {stored:?}");
            }
        }
        let named: Found = Ok(RunModels { pipeline: Some("penguin".into()), ..RunModels::default() }.into());
        let taken = combined(settled(down()).unwrap_err(), named.clone());
        assert_eq!(taken, (ModelSource::Mlmd, named), "all that a failed run needs");
    }

    #[tokio::test]
    async fn ml_metadata_is_asked_for_what_is_open() {
        for (native, expected) in [
            (found("kfp"), (ModelSource::Kfp, found("kfp"))),
            (none(), (ModelSource::Kfp, none())),
            (failed("unimplemented"), (ModelSource::Mlmd, found("mlmd"))),
        ] {
            let mut is_asked = false;
            let mlmd = || {
                is_asked = true;
                ready(found("mlmd"))
            };
            let answer = in_turn(ready(native), mlmd).await;
            assert_eq!((&answer, is_asked), (&expected, expected.0 == ModelSource::Mlmd));
        }
    }

    /// An API that hangs does not delay what ML Metadata has, and nothing else is concluded meanwhile.
    #[tokio::test(start_paused = true)]
    async fn an_api_that_takes_long_does_not_delay_what_ml_metadata_has() {
        let after = async |seconds: u64, answer: Found| {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            answer
        };
        for (native, stored, expected, seconds) in [
            ((20, failed("timeout")), (0, found("mlmd")), found("mlmd"), 2),
            ((20, failed("timeout")), (30, found("mlmd")), found("mlmd"), 32),
            ((20, failed("timeout")), (0, none()), failed("timeout"), 20),
            ((5, found("kfp")), (1, none()), found("kfp"), 5),
            ((5, found("kfp")), (9, found("mlmd")), found("kfp"), 5),
            ((5, Err(LookupError::NoContext)), (0, none()), none(), 5),
            ((1, found("kfp")), (0, found("mlmd")), found("kfp"), 1),
        ] {
            let started = tokio::time::Instant::now();
            let (_, answer) = in_turn(after(native.0, native.1.clone()), || after(stored.0, stored.1.clone())).await;
            assert_eq!((answer, started.elapsed().as_secs()), (expected, seconds), "{native:?}, {stored:?}");
        }
    }
}
