//! The server's tasks: none may end, or panic, unless it was told to.

use std::{collections::HashMap, fmt::Display};

use anyhow::{Result, anyhow};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// Tasks by name. Dropped, it ends all of them.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    tasks: JoinSet<Result<()>>,
    names: HashMap<Id, (&'static str, CancellationToken)>,
}

impl Supervisor {
    /// Starts a task, which may end once `told` is cancelled, and not before.
    pub(super) fn spawn<F, E>(&mut self, name: &'static str, told: &CancellationToken, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error> + Send + 'static,
    {
        let handle = self.tasks.spawn(async { task.await.map_err(Into::into) });
        self.names.insert(handle.id(), (name, told.clone()));
    }

    /// Waits until every task has ended as it was told to.
    ///
    /// # Errors
    /// As soon as one ends in another way. The others go on.
    pub(super) async fn all_ended(&mut self) -> Result<()> {
        while self.next_ended().await?.is_some() {}
        Ok(())
    }

    /// Waits until the tasks of this name have ended as they were told to.
    ///
    /// # Errors
    /// As soon as any task ends in another way. The others go on.
    pub(super) async fn ended(&mut self, name: &str) -> Result<()> {
        while self.names.values().any(|(running, _)| *running == name) {
            self.next_ended().await?;
        }
        Ok(())
    }

    /// The names of the tasks that are running.
    pub(super) fn running(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.names.values().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names
    }

    async fn next_ended(&mut self) -> Result<Option<()>> {
        let Some(ended) = self.tasks.join_next_with_id().await else { return Ok(None) };
        let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, _)| *id);
        let Some((name, told)) = self.names.remove(&id) else { return Ok(Some(())) };
        let failed = |error: &dyn Display| anyhow!("the task {name:?} failed: {error}");
        match ended {
            Ok((_, Ok(()))) if told.is_cancelled() => Ok(Some(())),
            Ok((_, Ok(()))) => Err(anyhow!("the task {name:?} ended without being told to")),
            Ok((_, Err(error))) => Err(failed(&format_args!("{error:#}"))),
            Err(error) => Err(failed(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending, io};

    use super::*;

    fn told() -> CancellationToken {
        let token = CancellationToken::new();
        token.cancel();
        token
    }

    #[tokio::test]
    async fn tasks_that_end_as_they_were_told_to_are_no_error() {
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
    async fn a_task_that_ends_untold_is_an_error_that_names_it() {
        let mut tasks = Supervisor::default();
        tasks.spawn("other", &told(), pending::<Result<()>>());
        tasks.spawn("watch", &CancellationToken::new(), async { Ok::<_, Infallible>(()) });
        let error = tasks.all_ended().await.unwrap_err();
        assert_eq!(error.to_string(), "the task \"watch\" ended without being told to");
        assert_eq!(tasks.running(), ["other"]);
    }

    #[tokio::test]
    async fn a_task_that_fails_or_panics_is_an_error_even_if_it_was_told_to_end() {
        let mut tasks = Supervisor::default();
        tasks.spawn("server", &told(), async { Err(io::Error::other("no sockets left")) });
        assert_eq!(tasks.all_ended().await.unwrap_err().to_string(), "the task \"server\" failed: no sockets left");
        #[expect(unreachable_code, reason = "the task's type")]
        tasks.spawn("delivery", &told(), async { Ok::<(), Infallible>(panic!("a bug")) });
        let error = tasks.ended("delivery").await.unwrap_err().to_string();
        assert!(error.starts_with("the task \"delivery\" failed: ") && error.contains("a bug"), "{error}");
    }

    #[tokio::test]
    async fn one_task_can_be_awaited_while_others_run() {
        let mut tasks = Supervisor::default();
        tasks.spawn("admin", &told(), pending::<Result<()>>());
        tasks.spawn("delivery", &told(), async { Ok::<_, Infallible>(()) });
        tasks.ended("delivery").await.unwrap();
        assert_eq!(tasks.running(), ["admin"]);
    }
}
