//! An upgrade of Kubeflow under a running server: from ML Metadata to the API.

use std::{collections::BTreeSet, time::Duration};

use model_update_eventsource::{
    app::Config,
    sim::{Model, NewWorkflow, Run, Sim, Task},
};
use test_support::{Events, KfpArtifact, KfpFault, KfpRun, KfpServer, KfpTask, SOON, TestServer, eventually};
use tonic::Code;

const NAMESPACE: &str = "team";

/// The source that records a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recorded {
    Mlmd,
    Kfp,
}

struct Upgrade {
    sim: Sim,
    kfp: KfpServer,
}

impl Upgrade {
    async fn start() -> Self {
        let kfp = KfpServer::start().await;
        kfp.set_has_tasks(false);
        Self { sim: Sim::start().await.expect("a simulation"), kfp }
    }

    async fn server(&self) -> TestServer {
        TestServer::start(Config {
            metadata_store: self.sim.metadata_url(),
            kfp_api: Some(self.kfp.url()),
            kubernetes: Some(self.sim.kube_config()),
            confirm_after: Duration::from_millis(100),
            ..Config::default()
        })
        .await
    }

    /// Records a run with a model at `gs://<id>` and lets it succeed.
    fn succeed(&self, id: &str, recorded: Recorded) {
        let location = format!("gs://{id}");
        match recorded {
            Recorded::Mlmd => {
                let model = Model::new("system.Model", "model", &location).property("pushed", 1);
                self.sim.put_task(&Run::kfp_v2("taxi", id, NAMESPACE), Task::new("push").output(model));
            }
            Recorded::Kfp => {
                self.kfp.put_run(&KfpRun::new(id, NAMESPACE, "taxi"));
                self.kfp.put_task(id, KfpTask::new("push").output(KfpArtifact::pushed(&location)));
            }
        }
        let created = self.sim.create_workflow(NAMESPACE, NewWorkflow::kfp_v2("taxi", id)).expect("created");
        let name = created["metadata"]["name"].as_str().expect("a name").to_owned();
        self.sim.set_phase(NAMESPACE, &name, "Succeeded").expect("it exists");
    }
}

/// Returns the locations in this number of events.
async fn locations(events: &mut Events, count: usize) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for _ in 0..count {
        for location in events.next_locations().await {
            assert!(all.insert(location.clone()), "{location} twice");
        }
    }
    all
}

fn expected(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| format!("gs://{id}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_loses_no_run_and_repeats_none() {
    let upgrade = Upgrade::start().await;
    let server = upgrade.server().await;
    let mut events = server.subscribe("kfpNamespace: team").await;

    // Before: the API is there, but does not know tasks.
    upgrade.succeed("before-1", Recorded::Mlmd);
    upgrade.succeed("before-2", Recorded::Mlmd);
    assert_eq!(locations(&mut events, 2).await, expected(&["before-1", "before-2"]));

    // During: the API is restarted. What ML Metadata has is sent, and nothing is concluded about the rest.
    upgrade.kfp.set_fault("ListTasks", Some(KfpFault::Status(Code::Unavailable)));
    upgrade.kfp.set_has_tasks(true);
    upgrade.succeed("during-1", Recorded::Mlmd);
    upgrade.succeed("during-2", Recorded::Kfp);
    assert_eq!(locations(&mut events, 1).await, expected(&["during-1"]));
    eventually(SOON, "a failed lookup of the other run", async || {
        let retries = server.metric("modelupdate_lookup_retries_total", &["reason=\"unavailable\""]).await;
        if retries >= 1.0 { Ok(()) } else { Err(retries) }
    })
    .await;
    upgrade.kfp.set_fault("ListTasks", None);
    assert_eq!(locations(&mut events, 1).await, expected(&["during-2"]));

    // After: runs are in the API, and one that ended before the upgrade is in ML Metadata only.
    upgrade.succeed("after-1", Recorded::Kfp);
    upgrade.succeed("late", Recorded::Mlmd);
    assert_eq!(locations(&mut events, 2).await, expected(&["after-1", "late"]));
    eventually(SOON, "all confirmations", async || {
        let confirmed = server.metric("modelupdate_events_confirmed_total", &[]).await;
        if confirmed == 6.0 { Ok(()) } else { Err(confirmed) }
    })
    .await;
    assert_eq!(server.metric("modelupdate_events_sent_total", &[]).await, 6.0);
    assert_eq!(server.metric("modelupdate_events_redelivered_total", &[]).await, 0.0);
    server.stop().await;

    // A new server repeats nothing to this subscription, and sends everything to another one.
    let server = upgrade.server().await;
    let mut events = server.subscribe("kfpNamespace: team").await;
    let mut others = server.subscribe("{kfpNamespace: team, subscription: other}").await;
    let all = ["before-1", "before-2", "during-1", "during-2", "after-1", "late"];
    assert_eq!(locations(&mut others, 6).await, expected(&all));
    upgrade.succeed("after-2", Recorded::Kfp);
    assert_eq!(locations(&mut events, 1).await, expected(&["after-2"]), "the first event");
    assert_eq!(locations(&mut others, 1).await, expected(&["after-2"]));
    server.stop().await;
}
