//! Kubernetes Events on the Workflows of runs: the notices of the delivery task, for `kubectl describe workflow`.
//!
//! Events are best effort. They wait in a bounded queue, are created at a limited rate, and are not retried. The name of
//! an Event follows from its content, so that replicas and restarts do not repeat it while the API server keeps it.

mod queue;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, api::PostParams, core::Status};
use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, warn};
use uuid::Uuid;

use self::queue::{Pushed, Queue};
use super::{
    Client, GROUP, VERSION,
    metrics::{EventLabel, EventOutcome},
};
use crate::{
    delivery::{Notice, NoticeSink},
    model::text::beginning,
    telemetry::{LogThrottle, log::chain},
};

/// The shortest time between two Events: ten a second, a tenth of the limit for marks.
const INTERVAL: Duration = Duration::from_millis(100);
/// Requests in flight, each of another namespace: an admission webhook that hangs delays the Events of its namespace.
const MAX_IN_FLIGHT: usize = 8;
/// The deadline for a request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The name of this server in its Events.
const CONTROLLER: &str = "model-update-eventsource";
/// The limit of Kubernetes for the name of an instance.
const MAX_INSTANCE: usize = 128;
/// The limit of Kubernetes for the text of an Event.
const MAX_NOTE: usize = 1024;
/// The part of a Workflow's name in the name of an Event, which may have 253 characters.
const MAX_NAME: usize = 200;
/// The cause in a refusal because a namespace is being deleted.
const TERMINATING: &str = "NamespaceTerminating";
const LOGGED: usize = 16;

/// Creates Kubernetes Events.
#[derive(Clone)]
pub struct EventRecorder(Arc<Recorder>);

struct Recorder {
    client: Client,
    instance: String,
    queue: Mutex<Queue>,
    queued: Notify,
    /// By the HTTP status. The message differs from Event to Event.
    logged: Mutex<LogThrottle<u16>>,
}

impl std::fmt::Debug for EventRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventRecorder").finish_non_exhaustive()
    }
}

impl EventRecorder {
    /// A recorder that sends its requests through this client. `instance` names this replica, for example by its Pod.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let instance = instance.filter(|name| !name.is_empty()).unwrap_or_else(|| CONTROLLER.to_owned());
        Self(Arc::new(Recorder {
            client,
            instance: beginning(&instance, MAX_INSTANCE).to_owned(),
            queue: Mutex::default(),
            queued: Notify::new(),
            logged: Mutex::new(LogThrottle::new(LOGGED)),
        }))
    }

    /// Creates the Events of queued notices, and of all that follow.
    ///
    /// # Errors
    /// A request panicked.
    pub async fn run(self) -> Result<(), JoinError> {
        let mut requests = JoinSet::new();
        let mut next_at = Instant::now();
        loop {
            tokio::select! {
                Some(ended) = requests.join_next() => self.0.queue().end_turn(&ended?),
                notice = self.0.next(next_at), if requests.len() < MAX_IN_FLIGHT => {
                    next_at = Instant::now() + INTERVAL;
                    let recorder = self.0.clone();
                    requests.spawn(async move {
                        recorder.create(&notice).await;
                        notice.namespace
                    });
                }
            }
        }
    }
}

impl NoticeSink for EventRecorder {
    fn notify(&self, notice: Notice) {
        let id = id(&notice);
        let pushed = self.0.queue().push(notice, id);
        match pushed {
            Pushed::Queued => {}
            Pushed::Duplicate => return,
            Pushed::Displaced => self.0.count(EventOutcome::Dropped),
            Pushed::Dropped => return self.0.count(EventOutcome::Dropped),
        }
        self.0.queued.notify_one();
    }
}

impl Recorder {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, outcome: EventOutcome) {
        self.client.metrics.events.get_or_create(&EventLabel { outcome }).inc();
    }

    /// Waits until this time, and for the next notice whose namespace has no request in flight.
    async fn next(&self, at: Instant) -> Notice {
        sleep_until(at).await;
        loop {
            let notice = self.queue().next();
            match notice {
                Some(notice) => return notice,
                None => self.queued.notified().await,
            }
        }
    }

    async fn create(&self, notice: &Notice) {
        let api = Api::<Event>::namespaced(self.client.kube.clone(), &notice.namespace);
        let event = event(notice, &self.instance);
        let answer = timeout(TIMEOUT, api.create(&PostParams::default(), &event)).await;
        let outcome = match answer {
            Ok(Ok(_)) => EventOutcome::Created,
            Ok(Err(kube::Error::Api(status))) => {
                let outcome = classify(&status);
                self.log(notice, outcome, status.code, &status.message);
                outcome
            }
            Ok(Err(error)) => {
                self.log(notice, EventOutcome::Failed, 0, &chain(&error));
                EventOutcome::Failed
            }
            Err(_) => {
                self.log(notice, EventOutcome::Failed, 0, &format!("no answer within {} s", TIMEOUT.as_secs()));
                EventOutcome::Failed
            }
        };
        self.count(outcome);
    }

    /// Logs a failure: the first, and one every ten minutes for each HTTP status.
    fn log(&self, notice: &Notice, outcome: EventOutcome, code: u16, error: &str) {
        let Notice { namespace, workflow, reason, .. } = notice;
        let is_failure = matches!(outcome, EventOutcome::Refused | EventOutcome::Failed);
        if !is_failure || !self.logged.lock().unwrap_or_else(PoisonError::into_inner).allows(code, &()) {
            debug!(%namespace, %workflow, reason, code, error, "Kubernetes Event not created");
            return;
        }
        let hint = (code == 403).then_some(
            "grant this server's service account create on events.events.k8s.io in the namespaces that it serves (chart: \
             kubernetesEvents.enabled=true), or run without --kubernetes-events; events are delivered either way",
        );
        warn!(%namespace, %workflow, reason, code, error, hint, "cannot create a Kubernetes Event");
    }
}

/// Classifies a refusal. An Event of this name exists where another replica, or this server before a restart, created it.
fn classify(status: &Status) -> EventOutcome {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    match status.code {
        409 => EventOutcome::Exists,
        404 => EventOutcome::Gone,
        403 if causes.into_iter().any(|cause| cause.reason == TERMINATING) => EventOutcome::Gone,
        429 | 500.. => EventOutcome::Failed,
        _ => EventOutcome::Refused,
    }
}

/// Returns an id for the content of a notice. A run that was retried has ended at another time.
fn id(notice: &Notice) -> Uuid {
    let Notice { uid, finished, subscription, reason, .. } = notice;
    let subscription = subscription.as_ref().map_or("", |name| name.as_str());
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{uid}/{finished}/{reason}/{subscription}").as_bytes())
}

fn event(notice: &Notice, instance: &str) -> Event {
    let regarding = ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some("Workflow".to_owned()),
        namespace: Some(notice.namespace.to_string()),
        name: Some(notice.workflow.to_string()),
        uid: Some(notice.uid.to_string()),
        ..ObjectReference::default()
    };
    let name = beginning(&notice.workflow, MAX_NAME);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", name.trim_end_matches(['-', '.']), id(notice).simple())),
            namespace: Some(notice.namespace.to_string()),
            ..ObjectMeta::default()
        },
        type_: Some(if notice.is_warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(camel_case(notice.reason)),
        action: Some("Deliver".to_owned()),
        note: Some(beginning(&notice.text, MAX_NOTE).to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        event_time: Some(MicroTime(jiff::Timestamp::now())),
        ..Event::default()
    }
}

/// Returns `NoModel` for `no_model`: Kubernetes writes reasons like that.
fn camel_case(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    for part in word.split('_') {
        let mut letters = part.chars();
        text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        text.push_str(letters.as_str());
    }
    text
}

#[cfg(test)]
mod tests;
