//! Faults of the API server: restart, compaction, withdrawn permissions, slow lists, and a process that hangs.

mod relists;
mod restarts;
mod slow_lists;
mod unavailable;

use std::time::Duration;

use test_support::{Tally, eventually};

use crate::test_env::{PrivateCluster, SUBSCRIPTION, TestEnv};

/// Deadline for a mark. A patch that an unreachable API server did not receive is retried after 30 s at most.
const MARKED: Duration = Duration::from_secs(60);

impl TestEnv<PrivateCluster> {
    /// Creates a running run that has pushed its model; returns the model's location.
    async fn start_run(&self, tally: &mut Tally, name: &str) -> String {
        let location = self.push_model(name).await;
        tally.expect(SUBSCRIPTION, &location);
        self.workflows.create(self.workflow(name).phase("Running")).await;
        location
    }

    /// Creates a run that has pushed its model and succeeds.
    async fn succeed_run(&self, tally: &mut Tally, name: &str) {
        self.start_run(tally, name).await;
        self.workflows.set_phase(name, "Succeeded").await;
    }

    /// Waits until each of these runs is marked.
    async fn marked_in_time(&self, runs: &[impl AsRef<str>]) {
        self.marked_within(MARKED, runs, &[SUBSCRIPTION]).await;
    }
}
