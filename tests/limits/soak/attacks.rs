//! The attacks of the soak test: those of the other tests, in short.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt as _, future::join_all};
use model_update_eventsource::{
    eventsource::{ReceivedEvent, SubscribeError, Subscriber},
    model::workflow::{MARK_PREFIX, RUN_ID_LABEL},
    sim::{Model, NewWorkflow, Run, Task},
};
use serde_json::{Map, json};
use tokio::time::{sleep, timeout};

use crate::{
    harness::Simulated,
    requests::{Unfinished, open_unread},
    webhook::Webhook,
    workflows::of_pipeline,
};

/// The namespace of the attacker.
pub(super) const HOSTILE: &str = "hostile";
/// Time for which an attack goes on.
const TIME: Duration = Duration::from_secs(3);
/// Size of a large annotation.
const LARGE: usize = 250_000;

/// A kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Attack {
    Patterns,
    LargeMetadata,
    LargeWorkflows,
    Marks,
    UnfinishedRequests,
    UnreadStreams,
    Filters,
    ShortSubscriptions,
    HangingPatches,
    DeletedRuns,
    Restarts,
}

impl Attack {
    pub(super) const ALL: [Self; 11] = [
        Self::Patterns,
        Self::LargeMetadata,
        Self::LargeWorkflows,
        Self::Marks,
        Self::UnfinishedRequests,
        Self::UnreadStreams,
        Self::Filters,
        Self::ShortSubscriptions,
        Self::HangingPatches,
        Self::DeletedRuns,
        Self::Restarts,
    ];
}

/// Attacks from one namespace.
#[derive(Clone)]
pub(super) struct Attacker {
    pub(super) env: Arc<Simulated>,
    pub(super) server: SocketAddr,
    pub(super) webhook: Arc<Webhook>,
}

type Events = Box<dyn futures::Stream<Item = Result<ReceivedEvent, SubscribeError>> + Send + Unpin>;

impl Attacker {
    /// Plays an attack. Its Workflows are deleted at its end. `round` is a number for their names.
    pub(super) async fn play(&self, attack: Attack, round: usize) {
        let name = |number: usize| format!("run-{round}-{number}");
        let count = match attack {
            Attack::Patterns => {
                let pipeline = format!("{}{}", "a".repeat(LARGE / 2), "b".repeat(LARGE / 2));
                self.create((0..20).map(|number| of_pipeline(&name(number), &pipeline)));
                for attempt in 0..20 {
                    let patterns = format!("\"*a{}\", \"*{attempt}*a*\"", "?".repeat(240));
                    drop(self.subscribe(&format!("patterns-{attempt}"), &format!("pipelines: [{patterns}]")).await);
                }
                20
            }
            Attack::LargeMetadata => {
                let run = Run::tfx_v1("large", &name(0));
                let model = |number: usize| Model::pushed(&format!("gs://{number}")).property("x", "x".repeat(600_000));
                self.env
                    .sim
                    .put_task(&run, (0..10).fold(Task::new("Pusher"), |task, number| task.output(model(number))));
                let _stream = self.subscribe("large", "").await;
                self.create([NewWorkflow::tfx_v1(&name(0), "large").phase("Succeeded")]);
                sleep(TIME).await;
                self.env.sim.forget_run(&run);
                1
            }
            Attack::LargeWorkflows => {
                let large = |number| NewWorkflow::tfx_v1(&name(number), "large").annotation("x", &"x".repeat(LARGE));
                for number in 0..40 {
                    self.create([large(number)]);
                    sleep(TIME / 40).await;
                }
                40
            }
            Attack::Marks => {
                self.create([NewWorkflow::tfx_v1(&name(0), "marks").phase("Succeeded")]);
                let uid = self.env.sim.workflow(HOSTILE, &name(0)).expect("created")["metadata"]["uid"].clone();
                for place in ["annotations", "labels"] {
                    let marks = (0..3_500).map(|number| (format!("{MARK_PREFIX}{place}-{number}"), uid.clone()));
                    let patch = json!({"metadata": {place: marks.collect::<Map<_, _>>()}});
                    self.env.sim.patch_workflow(HOSTILE, &name(0), &patch).expect("created");
                }
                sleep(TIME).await;
                1
            }
            Attack::UnfinishedRequests => {
                let send = async |number: usize| {
                    sleep(Duration::from_millis(20) * u32::try_from(number).expect("few")).await;
                    // The server may close connections.
                    if let Ok(unfinished) = Unfinished::connect(self.server).await {
                        unfinished.send(if number.is_multiple_of(2) { 72_000 } else { 4 << 20 }, 4).await;
                    }
                };
                let _elapsed = timeout(TIME, join_all((0..60).map(send))).await;
                0
            }
            Attack::UnreadStreams => {
                self.create_with_models(&name, 10, 400_000);
                let mut streams = Vec::new();
                for number in 0..10 {
                    streams.push(open_unread(self.server, &format!("unread-{number}"), HOSTILE, 1).await);
                }
                sleep(TIME).await;
                self.forget(&name, 10);
                10
            }
            Attack::Filters => {
                let mut streams = Vec::new();
                for stream in 0..60 {
                    let pattern = |number: usize| format!("\"*{round}-{stream}-{number}{}\"", "?".repeat(200));
                    let patterns = (0..64).map(pattern).collect::<Vec<_>>().join(", ");
                    streams
                        .push(self.subscribe(&format!("filter-{stream}"), &format!("pipelines: [{patterns}]")).await);
                }
                self.create((0..10).map(|number| of_pipeline(&name(number), &"e-".repeat(250))));
                sleep(TIME).await;
                10
            }
            Attack::ShortSubscriptions => {
                self.create_with_models(&name, 10, 0);
                for number in 0..100 {
                    if let Some(mut events) = self.subscribe(&format!("short-{round}-{number}"), "").await {
                        let _event = timeout(TIME, events.next()).await;
                    }
                }
                self.forget(&name, 10);
                10
            }
            Attack::HangingPatches => {
                self.webhook.hang(true);
                self.create_with_models(&name, 50, 0);
                let mut events = self.subscribe("hanging", "").await;
                let read = async {
                    while let Some(stream) = &mut events
                        && stream.next().await.is_some()
                    {}
                };
                let _elapsed = timeout(TIME, read).await;
                self.webhook.hang(false);
                self.forget(&name, 50);
                50
            }
            Attack::DeletedRuns => {
                let _stream = self.subscribe("deleted", "").await;
                for first in (0..600).step_by(50) {
                    let runs = first..first + 50;
                    self.create(runs.map(|number| NewWorkflow::tfx_v1(&name(number), "deleted").phase("Succeeded")));
                    sleep(TIME / 12).await;
                }
                600
            }
            Attack::Restarts => {
                self.create_with_models(&name, 10, 0);
                let mut events = self.subscribe("restarts", "").await;
                let change = async {
                    for phase in ["Running", "Succeeded", "Running", "Succeeded"] {
                        sleep(TIME / 5).await;
                        for number in 0..10 {
                            self.env.sim.set_phase(HOSTILE, &name(number), phase).expect("created");
                            // It leaves the selector and returns.
                            for value in [None, Some("returned")] {
                                let patch = json!({"metadata": {"labels": {RUN_ID_LABEL: value}}});
                                self.env.sim.patch_workflow(HOSTILE, &name(number), &patch).expect("created");
                            }
                        }
                    }
                };
                let read = async {
                    while let Some(stream) = &mut events
                        && stream.next().await.is_some()
                    {}
                };
                tokio::join!(change, async { drop(timeout(TIME, read).await) });
                self.forget(&name, 10);
                10
            }
        };
        for number in 0..count {
            self.env.sim.delete_workflow(HOSTILE, &name(number)).expect("created");
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn create(&self, workflows: impl IntoIterator<Item = NewWorkflow>) {
        for workflow in workflows {
            self.env.sim.create_workflow(HOSTILE, workflow).expect("a new name");
        }
    }

    /// Creates succeeded runs with models whose locations have this size.
    fn create_with_models(&self, name: &impl Fn(usize) -> String, count: usize, bytes: usize) {
        for number in 0..count {
            let location = format!("gs://{}/{}", name(number), "x".repeat(bytes));
            self.env.sim.put_task(&Run::tfx_v1(HOSTILE, &name(number)), Task::pusher(&location));
            self.create([NewWorkflow::tfx_v1(&name(number), HOSTILE).phase("Succeeded")]);
        }
    }

    fn forget(&self, name: &impl Fn(usize) -> String, count: usize) {
        (0..count).for_each(|number| self.env.sim.forget_run(&Run::tfx_v1(HOSTILE, &name(number))));
    }

    /// Opens a stream, unless the namespace has too many.
    async fn subscribe(&self, subscription: &str, more: &str) -> Option<Events> {
        let mut subscriber = Subscriber::connect(format!("http://{}", self.server)).await.ok()?;
        let config = format!("kfpNamespace: {HOSTILE}\n{more}");
        Some(Box::new(subscriber.subscribe(subscription, &config).await.ok()?))
    }
}
