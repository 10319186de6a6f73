//! Supervision of the server's tasks: a task that ends or panics before its stop signal is an error.

use std::{collections::HashMap, fmt::Display};

use anyhow::{Result, anyhow};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// Named tasks. Dropping it aborts all of them.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    tasks: JoinSet<Result<()>>,
    /// The name and the stop signal of each running task.
    names: HashMap<Id, (&'static str, CancellationToken)>,
}

impl Supervisor {
    /// Starts a task that must run until `stop` is cancelled.
    pub(super) fn spawn<F, E>(&mut self, name: &'static str, stop: &CancellationToken, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error> + Send + 'static,
    {
        let handle = self.tasks.spawn(async { task.await.map_err(Into::into) });
        self.names.insert(handle.id(), (name, stop.clone()));
    }

    /// Waits until all tasks have ended after their stop signals.
    ///
    /// # Errors
    /// A task failed, panicked or ended before its stop signal. Returns at once; the other tasks continue.
    pub(super) async fn all_ended(&mut self) -> Result<()> {
        while self.next_ended().await?.is_some() {}
        Ok(())
    }

    /// Waits until the tasks of this name have ended after their stop signals.
    ///
    /// # Errors
    /// Any task failed, panicked or ended before its stop signal. Returns at once; the other tasks continue.
    pub(super) async fn ended(&mut self, name: &str) -> Result<()> {
        while self.names.values().any(|(running, _)| *running == name) {
            self.next_ended().await?;
        }
        Ok(())
    }

    /// Returns the names of the running tasks.
    pub(super) fn running(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.names.values().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names
    }

    async fn next_ended(&mut self) -> Result<Option<()>> {
        let Some(ended) = self.tasks.join_next_with_id().await else { return Ok(None) };
        let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, _)| *id);
        let (name, stop) = self.names.remove(&id).expect("spawn registers every task");
        let failed = |error: &dyn Display| anyhow!("task {name:?} failed: {error}");
        match ended {
            Ok((_, Ok(()))) if stop.is_cancelled() => Ok(Some(())),
            Ok((_, Ok(()))) => Err(anyhow!("task {name:?} ended unexpectedly")),
            Ok((_, Err(error))) => Err(failed(&format_args!("{error:#}"))),
            Err(error) => Err(failed(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending, io};

    use super::*;

    fn cancelled() -> CancellationToken {
        let token = CancellationToken::new();
        token.cancel();
        token
    }

    #[tokio::test]
    async fn tasks_that_end_after_their_stop_signal_are_no_error() {
        let mut tasks = Supervisor::default();
        let stop = CancellationToken::new();
        for _ in 0..2 {
            let stop = stop.clone();
            tasks.spawn("watch", &stop.clone(), async move {
                stop.cancelled().await;
                Ok::<_, Infallible>(())
            });
        }
        stop.cancel();
        tasks.all_ended().await.unwrap();
        assert!(tasks.running().is_empty());
    }

    #[tokio::test]
    async fn an_early_end_is_an_error_that_names_the_task() {
        let mut tasks = Supervisor::default();
        tasks.spawn("other", &cancelled(), pending::<Result<()>>());
        tasks.spawn("watch", &CancellationToken::new(), async { Ok::<_, Infallible>(()) });
        let error = tasks.all_ended().await.unwrap_err();
        assert_eq!(error.to_string(), "task \"watch\" ended unexpectedly");
        assert_eq!(tasks.running(), ["other"]);
    }

    #[tokio::test]
    async fn a_failure_or_panic_is_an_error_after_the_stop_signal_too() {
        let mut tasks = Supervisor::default();
        tasks.spawn("server", &cancelled(), async { Err(io::Error::other("no sockets left")) });
        assert_eq!(tasks.all_ended().await.unwrap_err().to_string(), "task \"server\" failed: no sockets left");
        #[expect(unreachable_code, reason = "the task's type")]
        tasks.spawn("delivery", &cancelled(), async { Ok::<(), Infallible>(panic!("a bug")) });
        let error = tasks.ended("delivery").await.unwrap_err().to_string();
        assert!(error.starts_with("task \"delivery\" failed: ") && error.contains("a bug"), "{error}");
    }

    #[tokio::test]
    async fn one_task_can_be_awaited_while_others_run() {
        let mut tasks = Supervisor::default();
        tasks.spawn("admin", &cancelled(), pending::<Result<()>>());
        tasks.spawn("delivery", &cancelled(), async { Ok::<_, Infallible>(()) });
        tasks.ended("delivery").await.unwrap();
        assert_eq!(tasks.running(), ["admin"]);
    }
}
