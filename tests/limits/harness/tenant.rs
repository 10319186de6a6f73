//! A tenant whose runs succeed one after another.

use std::{collections::VecDeque, sync::Arc};

use model_update_eventsource::sim::{NewWorkflow, Run, Sim, Task};
use test_support::{Workflows, Writer};

/// Runs that are written to ML Metadata in advance: the time that a real store takes is no latency of the product.
const BATCH: usize = 200;

/// A tenant with its namespace. Its pipeline has the namespace's name.
pub(crate) struct Tenant {
    namespace: String,
    peers: Peers,
    /// The names and locations of the next runs, which ML Metadata has already.
    written: VecDeque<(String, String)>,
    runs: usize,
}

enum Peers {
    Real { workflows: Box<Workflows>, writer: Writer },
    Simulated(Arc<Sim>),
}

impl Tenant {
    /// A tenant on real peers.
    pub(crate) fn real(namespace: &str, workflows: Workflows, writer: Writer) -> Self {
        Self::new(namespace, Peers::Real { workflows: Box::new(workflows), writer })
    }

    /// A tenant on the simulation.
    pub(crate) fn simulated(namespace: &str, sim: Arc<Sim>) -> Self {
        Self::new(namespace, Peers::Simulated(sim))
    }

    fn new(namespace: &str, peers: Peers) -> Self {
        Self { namespace: namespace.to_owned(), peers, written: VecDeque::new(), runs: 0 }
    }

    /// Gives the next runs numbers from this one, behind those of another [`Tenant`] of the same namespace.
    pub(crate) fn continue_after(&mut self, runs: usize) {
        self.runs = runs;
    }

    /// The namespace of the runs.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Writes the models of the next runs to ML Metadata.
    async fn write(&mut self) {
        let numbers = self.runs..self.runs + BATCH;
        self.runs = numbers.end;
        let runs = numbers.map(|number| format!("{}-{number:05}", self.namespace));
        let runs: Vec<_> = runs.map(|name| (name.clone(), format!("gs://root/{name}"))).collect();
        match &self.peers {
            Peers::Real { writer, .. } => writer.tfx_runs(&self.namespace, &runs).await,
            Peers::Simulated(sim) => {
                for (name, location) in &runs {
                    sim.put_task(&Run::tfx_v1(&self.namespace, name), Task::pusher(location));
                }
            }
        }
        self.written.extend(runs);
    }

    /// Writes models in advance, if the next run has none.
    pub(crate) async fn prepare(&mut self) {
        if self.written.is_empty() {
            self.write().await;
        }
    }

    /// Creates the succeeded Workflow of the next run. Returns the location of its model.
    pub(crate) async fn succeed(&mut self) -> String {
        self.prepare().await;
        let (name, location) = self.written.pop_front().expect("prepared");
        let workflow = NewWorkflow::tfx_v1(&name, &self.namespace).phase("Succeeded");
        match &self.peers {
            Peers::Real { workflows, .. } => drop(workflows.create(workflow).await),
            Peers::Simulated(sim) => drop(sim.create_workflow(&self.namespace, workflow).expect("a new name")),
        }
        location
    }
}
