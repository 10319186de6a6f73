//! The events of the executions that a run was expected to have, asked for at the same time as its listings.

use super::{
    error::CallError,
    reader::Reader,
    rules::{Event, Executions, Outputs, Role, Verdicts},
};

/// Maximum number of outputs that are kept: some for each of the expected executions.
const MAX_OUTPUTS: usize = 256;
/// Maximum size of a kept key in bytes. Components name their outputs, as functions name their results.
const MAX_KEY: usize = 64;

/// The outputs of expected executions. They were asked for after the run had ended.
#[derive(Debug)]
pub(super) struct EarlyEvents {
    /// The expected executions, ordered.
    executions: Box<[i64]>,
    outputs: Vec<Output>,
}

#[derive(Debug)]
struct Output {
    artifact: i64,
    execution: i64,
    key: Box<str>,
    index: Option<i64>,
}

impl EarlyEvents {
    /// Asks for the events of these executions, ordered by their ids. `None` without executions, and where there is no
    /// answer or more than is kept: the lookup then asks for what it needs.
    pub(super) async fn of(reader: &Reader<'_>, executions: &[i64]) -> Option<Self> {
        if executions.is_empty() {
            return None;
        }
        let mut outputs = Vec::new();
        let answer = reader.events_of_executions(executions, |event| {
            if !event.is_output {
                return Ok(());
            }
            let Event { artifact, execution, key, index, .. } = *event;
            if outputs.len() == MAX_OUTPUTS || key.len() > MAX_KEY {
                return Err(CallError::too_large("the expected executions have more outputs than are kept".to_owned()));
            }
            // Vectors double their size.
            reader.keep(2 * size_of::<Output>() + key.len())?;
            outputs.push(Output { artifact, execution, key: key.into(), index });
            Ok(())
        });
        answer.await.ok()?;
        Some(Self { executions: executions.into(), outputs })
    }

    /// Returns whether these events answer which executions of the run produced these artifacts, ordered by their ids. They
    /// do not if an execution was not expected, or if one recorded an artifact after it was asked for its events.
    pub(super) fn are_enough(&self, artifacts: &[i64], executions: &Executions) -> bool {
        let listed = self.outputs.iter().filter(|output| executions.role(output.execution) != Role::Unknown);
        let mut produced: Vec<i64> = listed.map(|output| output.artifact).collect();
        produced.sort_unstable();
        executions.producers().all(|id| self.executions.binary_search(&id).is_ok())
            && artifacts.iter().all(|id| produced.binary_search(id).is_ok())
    }

    /// Adds the events of these artifacts, ordered by their ids.
    pub(super) fn add_to(self, outputs: &mut Outputs<'_>, artifacts: &[i64], verdicts: &mut dyn Verdicts) {
        for Output { artifact, execution, key, index } in self.outputs {
            if artifacts.binary_search(&artifact).is_ok() {
                outputs.add(&Event { artifact, execution, is_output: true, key: &key, index }, verdicts);
            }
        }
    }
}
