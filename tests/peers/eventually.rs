//! Waiting on a condition, with a deadline.

use std::{fmt::Debug, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// What a probe says: done, or not yet and why.
pub trait Outcome {
    /// What it yields once it is done.
    type Value;
    /// # Errors
    /// Why it is not done yet, for the message of the panic.
    fn done(self) -> Result<Self::Value, String>;
}

impl Outcome for bool {
    type Value = ();
    fn done(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "it is false".to_owned())
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;
    fn done(self) -> Result<T, String> {
        self.ok_or_else(|| "there is none".to_owned())
    }
}

impl<T, E: Debug> Outcome for Result<T, E> {
    type Value = T;
    fn done(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Asks `probe` until it is done: `true`, `Some`, or `Ok`.
///
/// # Panics
/// If it is not done within `deadline`; `what` and the last answer are in the message.
#[track_caller]
pub fn eventually<O: Outcome>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> O,
) -> impl Future<Output = O::Value> {
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + deadline;
        let mut last = "no answer at all".to_owned();
        loop {
            match timeout_at(end, probe()).await.map(O::done) {
                Ok(Ok(value)) => return value,
                Ok(Err(reason)) if Instant::now() < end => last = reason,
                Ok(Err(reason)) => panic!("not within {deadline:?}: {what} (at {caller}): {reason}"),
                Err(_) => panic!("not within {deadline:?}: {what} (at {caller}): {last}"),
            }
            // The interval of a probe, not a wait for something to have happened.
            sleep(Duration::from_millis(25)).await;
        }
    }
}
