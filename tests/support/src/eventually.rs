//! Polling a condition until a deadline.

use std::{fmt::Debug, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// Deadline of an operation that takes less than a second on an idle machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Deadline for an event, a mark or a metric of a server that may have to catch up first.
pub const CATCH_UP: Duration = Duration::from_secs(30);

/// Interval between two probes of a condition.
const INTERVAL: Duration = Duration::from_millis(25);

/// Result of a probe: the value, or the reason why it is not there yet.
pub trait Outcome {
    /// The value of a condition that holds.
    type Value;
    /// Returns the value.
    ///
    /// # Errors
    /// The reason why the condition does not hold, for the message of the panic.
    fn into_result(self) -> Result<Self::Value, String>;
}

impl Outcome for bool {
    type Value = ();
    fn into_result(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "it is false".to_owned())
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;
    fn into_result(self) -> Result<T, String> {
        self.ok_or_else(|| "it is absent".to_owned())
    }
}

impl<T, E: Debug> Outcome for Result<T, E> {
    type Value = T;
    fn into_result(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Calls `probe` until it returns `true`, `Some` or `Ok`.
///
/// # Panics
/// If it does not within `deadline`. The message contains `what` and the last result.
#[track_caller]
pub fn eventually<O: Outcome>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> O,
) -> impl Future<Output = O::Value> {
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + deadline;
        let mut last = "the probe has not returned".to_owned();
        loop {
            match timeout_at(end, probe()).await.map(O::into_result) {
                Ok(Ok(value)) => return value,
                Ok(Err(reason)) if Instant::now() < end => last = reason,
                Ok(Err(reason)) => panic!("not within {deadline:?}: {what} (at {caller}): {reason}"),
                Err(_) => panic!("not within {deadline:?}: {what} (at {caller}): {last}"),
            }
            sleep(INTERVAL).await;
        }
    }
}
