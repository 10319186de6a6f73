//! The events of the executions that a run was expected to have, requested at the same time as its listings.

use std::{fmt, pin::pin};

use futures::future::{BoxFuture, Either, FutureExt, ready, select};

use super::{
    error::CallError,
    reader::Reader,
    rules::{Event, Executions, Role},
};
use crate::lookup::{allowance::KEPT_EARLY, budget::Permit};

/// Maximum number of outputs that are kept: some for each of the expected executions.
const MAX_OUTPUTS: usize = 256;
/// Maximum size of a kept key in bytes. Components name their outputs, as functions name their results.
const MAX_KEY: usize = 64;
/// Bytes of an output without its key. Vectors double their size.
const OUTPUT_BYTES: usize = 2 * size_of::<Output>();
/// The outputs fit in the share of their namespace, beside what the lookup keeps.
const _: () = assert!(MAX_OUTPUTS * (OUTPUT_BYTES + MAX_KEY) <= KEPT_EARLY);

/// The events of expected executions, requested after the end of the run. The answer may not have arrived yet.
pub(super) struct EarlyEvents<'a> {
    /// The expected executions, ordered.
    executions: &'a [i64],
    /// `None` where there is no answer, or more than is kept.
    answer: BoxFuture<'a, Option<EarlyOutputs>>,
}

impl fmt::Debug for EarlyEvents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyEvents").field("executions", &self.executions).finish_non_exhaustive()
    }
}

impl<'a> EarlyEvents<'a> {
    /// Requests the events of these executions, ordered by their ids, while `listings` are read. Returns with the
    /// listings, which show whether the events are needed: a lookup waits for them only then. `None` without
    /// executions.
    pub(super) async fn beside<T>(
        reader: &'a Reader<'_>,
        executions: &'a [i64],
        listings: impl Future<Output = T>,
    ) -> (T, Option<Self>) {
        if executions.is_empty() {
            return (listings.await, None);
        }
        let answer = EarlyOutputs::of(reader, executions).boxed();
        let (listings, answer) = match select(pin!(listings), answer).await {
            Either::Left((listings, answer)) => (listings, answer),
            Either::Right((answer, listings)) => (listings.await, ready(answer).boxed()),
        };
        (listings, Some(Self { executions, answer }))
    }

    /// Returns the outputs if they show which executions of the run produced these artifacts, ordered by their ids.
    /// They do not if an execution was not expected, which is known without the answer, or if one recorded an artifact
    /// after the request.
    pub(super) async fn outputs_of(self, artifacts: &[i64], executions: &Executions) -> Option<EarlyOutputs> {
        if !executions.producers().all(|id| self.executions.binary_search(&id).is_ok()) {
            return None;
        }
        self.answer.await.filter(|outputs| outputs.contain(artifacts, executions))
    }
}

/// The outputs of expected executions. Their bytes do not count as kept by the lookup, which could exceed its limit only
/// because it has asked ahead. Outputs that are used are counted then.
#[derive(Debug)]
pub(super) struct EarlyOutputs {
    outputs: Vec<Output>,
    _permit: Permit,
}

#[derive(Debug)]
struct Output {
    artifact: i64,
    execution: i64,
    key: Box<str>,
    index: Option<i64>,
}

impl EarlyOutputs {
    async fn of(reader: &Reader<'_>, executions: &[i64]) -> Option<Self> {
        let (mut outputs, mut bytes) = (Vec::new(), 0);
        let answer = reader.events_of_executions(executions, |event| {
            if !event.is_output {
                return Ok(());
            }
            let Event { artifact, execution, key, index, .. } = *event;
            if outputs.len() == MAX_OUTPUTS || key.len() > MAX_KEY {
                return Err(CallError::too_large("the expected executions have more outputs than are kept".to_owned()));
            }
            bytes += OUTPUT_BYTES + key.len();
            outputs.push(Output { artifact, execution, key: key.into(), index });
            Ok(())
        });
        answer.await.ok()?;
        Some(Self { outputs, _permit: reader.reserve(bytes)? })
    }

    /// Returns whether each of these artifacts, ordered by their ids, is an output of an execution of the run.
    fn contain(&self, artifacts: &[i64], executions: &Executions) -> bool {
        let listed = self.outputs.iter().filter(|output| executions.role(output.execution) != Role::Unknown);
        let mut produced: Vec<i64> = listed.map(|output| output.artifact).collect();
        produced.sort_unstable();
        artifacts.iter().all(|id| produced.binary_search(id).is_ok())
    }

    /// Passes the events of these artifacts, ordered by their ids.
    pub(super) fn add_to(
        self,
        artifacts: &[i64],
        mut add: impl FnMut(&Event<'_>) -> Result<(), CallError>,
    ) -> Result<(), CallError> {
        let outputs = self.outputs.into_iter().filter(|output| artifacts.binary_search(&output.artifact).is_ok());
        for Output { artifact, execution, key, index } in outputs {
            add(&Event { artifact, execution, is_output: true, key: &key, index })?;
        }
        Ok(())
    }
}
