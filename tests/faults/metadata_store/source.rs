//! The sources of models under test: the real ML Metadata, and the test server of Kubeflow's API.

use model_update_eventsource::{app::Config, lookup::Artifacts};
use test_support::{
    KfpArtifact, KfpRun, KfpServer, KfpTask, MetadataStore, NewWorkflow, Peers, Task, Workflows, Writer,
};

use super::proxy::{ARTIFACTS, CONTEXT, EVENTS, EXECUTIONS, GET_RUN, LIST_TASKS, StoreProxy};
use crate::{in_process::PIPELINE, test_env::location_of};

/// A kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Mlmd,
    Kfp,
}

impl Source {
    /// The calls of a lookup.
    pub(super) fn calls(self) -> &'static [&'static str] {
        match self {
            // Of a compiled run with a named model.
            Self::Mlmd => &[CONTEXT, ARTIFACTS, EXECUTIONS, EVENTS],
            // Of a run whose Workflow lacks the name of its pipeline.
            Self::Kfp => &[LIST_TASKS, GET_RUN],
        }
    }

    /// The part of metrics' names.
    pub(super) fn metric(self) -> &'static str {
        match self {
            Self::Mlmd => "mlmd",
            Self::Kfp => "kfp",
        }
    }

    /// Creates the succeeded Workflow of a run.
    pub(super) async fn create_succeeded(self, workflows: &Workflows, run: &str) {
        let new = match self {
            Self::Mlmd => NewWorkflow::tfx_v1(run, PIPELINE),
            Self::Kfp => NewWorkflow::recurring_v1(run).run_id(run),
        };
        workflows.create(new.phase("Succeeded")).await;
    }
}

/// A source with its runs.
pub(super) enum Store {
    Mlmd {
        store: MetadataStore,
        writer: Box<Writer>,
    },
    /// Its connections are those of the proxy, which also plays its outages.
    Kfp {
        server: KfpServer,
        proxy: StoreProxy,
    },
}

impl Store {
    pub(super) async fn start(source: Source) -> Self {
        match source {
            Source::Mlmd => {
                let store = Peers::find().await.metadata_store().await;
                Self::Mlmd { writer: Box::new(store.writer().await), store }
            }
            Source::Kfp => {
                let server = KfpServer::start().await;
                Self::Kfp { proxy: StoreProxy::start(&server.url()).await, server }
            }
        }
    }

    pub(super) fn url(&self) -> String {
        match self {
            Self::Mlmd { store, .. } => store.url(),
            Self::Kfp { proxy, .. } => proxy.url(),
        }
    }

    /// Lets a server use the source at this URL.
    pub(super) fn configure(&self, url: String, config: &mut Config) {
        match self {
            Self::Mlmd { .. } => config.metadata_store = url,
            Self::Kfp { .. } => (config.artifacts, config.kfp_api) = (Artifacts::Kfp, Some(url)),
        }
    }

    /// Records that these runs have pushed a model each.
    pub(super) async fn push_models(&self, runs: &[&str]) {
        match self {
            Self::Mlmd { writer, .. } if runs.len() > 1 => {
                let runs: Vec<_> = runs.iter().map(|run| ((*run).to_owned(), location_of(run))).collect();
                writer.tfx_runs(PIPELINE, &runs).await;
            }
            Self::Mlmd { writer, .. } => {
                for run in runs {
                    writer.tfx_run(PIPELINE, run).await.task(Task::pusher(&location_of(run))).await;
                }
            }
            Self::Kfp { server, .. } => {
                for run in runs {
                    server.put_run(&KfpRun::new(run, "", PIPELINE));
                    server.put_task(run, KfpTask::new("Pusher").output(KfpArtifact::pushed(&location_of(run))));
                }
            }
        }
    }

    /// Lets calls hang from now on.
    pub(super) fn pause(&self) {
        match self {
            Self::Mlmd { store, .. } => store.pause(),
            Self::Kfp { proxy, .. } => proxy.pause(),
        }
    }

    pub(super) fn kill(&mut self) {
        match self {
            Self::Mlmd { store, .. } => store.kill(),
            Self::Kfp { proxy, .. } => proxy.kill(),
        }
    }

    /// Restarts it with its data.
    pub(super) async fn restart(&mut self) {
        match self {
            Self::Mlmd { store, writer } => {
                store.restart().await;
                **writer = store.writer().await;
            }
            Self::Kfp { proxy, .. } => proxy.restart().await,
        }
    }

    /// Restarts it without its data.
    pub(super) async fn restart_empty(&mut self) {
        match self {
            Self::Mlmd { store, writer } => {
                store.restart_empty().await;
                **writer = store.writer().await;
            }
            Self::Kfp { server, proxy } => {
                proxy.kill();
                server.forget_runs();
                proxy.restart().await;
            }
        }
    }
}
