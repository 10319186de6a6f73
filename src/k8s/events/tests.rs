use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::{
    k8s::fixtures::{FakeApi, failure, fake_client, uid_of},
    model::{SubscriptionName, Uid},
};

fn notice(namespace: &str, workflow: &str) -> Notice {
    Notice {
        namespace: namespace.into(),
        workflow: workflow.into(),
        uid: Uid::parse(&uid_of(workflow)).unwrap(),
        finished: 7,
        subscription: Some(SubscriptionName::new("deploy").unwrap()),
        reason: "no_model",
        is_warning: false,
        text: "no event for the subscription deploy: the run produced no serving model".to_owned(),
    }
}

/// A recorder that runs, its API server, and its metrics.
struct Env {
    recorder: EventRecorder,
    api: FakeApi,
}

impl Env {
    fn start() -> Self {
        let (client, api) = fake_client();
        let recorder = EventRecorder::new(client, Some("pod-1".to_owned()));
        tokio::spawn(recorder.clone().run());
        Self { recorder, api }
    }

    fn count(&self, outcome: EventOutcome) -> u64 {
        self.recorder.0.client.metrics.events.get_or_create(&EventLabel { outcome }).get()
    }

    /// The outcomes that were counted once.
    fn counted(&self) -> Vec<EventOutcome> {
        EventOutcome::ALL.iter().copied().filter(|outcome| self.count(*outcome) == 1).collect()
    }

    /// Waits for the next request, answers it with success, and returns its Event.
    async fn created(&mut self) -> Value {
        let request = self.api.next().await;
        let event = request.json();
        request.answer(201, &event);
        event
    }
}

/// Lets the other tasks proceed until they wait for time.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_regards_the_workflow_and_has_the_text_of_the_notice() {
    let mut env = Env::start();
    env.recorder.notify(notice("team", "run-x"));
    let request = env.api.next().await;
    assert_eq!(request.line(), "POST /apis/events.k8s.io/v1/namespaces/team/events?");
    let mut event = request.json();
    let name = event["metadata"]["name"].take();
    assert!(name.as_str().unwrap().starts_with("run-x."), "{name}");
    assert!(event["eventTime"].take().as_str().unwrap().ends_with('Z'));
    assert_eq!(
        event,
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": null, "namespace": "team"}, "eventTime": null,
            "type": "Normal", "reason": "NoModel", "action": "Deliver",
            "note": "no event for the subscription deploy: the run produced no serving model",
            "regarding": {
                "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "namespace": "team", "name": "run-x",
                "uid": uid_of("run-x"),
            },
            "reportingController": "model-update-eventsource", "reportingInstance": "pod-1",
        })
    );
}

/// So the API server refuses what another replica has created.
#[test]
fn the_name_of_an_event_follows_from_its_content() {
    let name = |notice: &Notice, instance: &str| event(notice, instance).metadata.name.unwrap();
    let base = notice("team", "run-x");
    assert_eq!(name(&base, "a"), name(&Notice { text: String::new(), ..base.clone() }, "b"));
    for other in [
        Notice { finished: 8, ..base.clone() },
        Notice { subscription: None, ..base.clone() },
        Notice { reason: "delivered", ..base.clone() },
        Notice { uid: Uid::from(1), ..base.clone() },
    ] {
        assert_ne!(name(&other, "a"), name(&base, "a"), "{other:?}");
    }
    let long = Notice { workflow: "x".repeat(300).into(), text: "é".repeat(1000), ..base };
    assert!(name(&long, "a").len() <= 253);
    assert_eq!(event(&long, "a").note.unwrap().len(), MAX_NOTE);
}

#[test]
fn reasons_are_written_as_kubernetes_does() {
    assert_eq!(
        ["delivered", "no_model", "foreign_context"].map(camel_case),
        ["Delivered", "NoModel", "ForeignContext"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_limited() {
    let mut env = Env::start();
    let start = Instant::now();
    for namespace in 0..21 {
        env.recorder.notify(notice(&namespace.to_string(), &format!("run-{namespace}")));
    }
    for _ in 0..21 {
        env.created().await;
    }
    assert_eq!(start.elapsed().as_millis() / 100, 20, "{:?}", start.elapsed());
}

/// A tenant with thousands of runs delays the Event of another by one turn.
#[tokio::test(start_paused = true)]
async fn a_tenant_does_not_take_all_events() {
    let mut env = Env::start();
    for run in 0..5000 {
        env.recorder.notify(notice("large", &format!("run-{run}")));
    }
    env.recorder.notify(notice("small", "run"));
    let namespaces = [env.created().await, env.created().await].map(|event| event["metadata"]["namespace"].clone());
    assert_eq!(namespaces, ["large", "small"]);
    assert_eq!(env.count(EventOutcome::Dropped), 5000 - queue::MAX_OF_NAMESPACE as u64);
}

/// Its next Event follows after the deadline.
#[tokio::test(start_paused = true)]
async fn a_namespace_without_answers_does_not_delay_others() {
    let mut env = Env::start();
    for run in ["a", "b"] {
        env.recorder.notify(notice("hangs", run));
    }
    let unanswered = env.api.next().await;
    for run in 0..20 {
        env.recorder.notify(notice("works", &run.to_string()));
        assert_eq!(env.created().await["metadata"]["namespace"], "works");
    }
    advance(TIMEOUT).await;
    assert_eq!(env.created().await["regarding"]["name"], "b");
    drop(unanswered);
    settle().await;
    assert_eq!((env.count(EventOutcome::Failed), env.count(EventOutcome::Created)), (1, 21));
}

#[tokio::test(start_paused = true)]
async fn an_event_is_created_once() {
    let mut env = Env::start();
    for _ in 0..3 {
        env.recorder.notify(notice("team", "run"));
    }
    env.created().await;
    env.recorder.notify(notice("team", "run"));
    env.recorder.notify(notice("team", "other"));
    assert_eq!(env.created().await["regarding"]["name"], "other");
    settle().await;
    assert!(env.api.is_idle());
}

#[tokio::test(start_paused = true)]
async fn every_answer_is_counted_and_none_is_retried() {
    let mut terminating = failure(403, "forbidden: unable to create new content in namespace team");
    terminating["details"] = json!({"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]});
    for (status, body, outcome) in [
        (201, json!({"metadata": {}}), EventOutcome::Created),
        (409, failure(409, "already exists"), EventOutcome::Exists),
        (404, failure(404, "namespaces \"team\" not found"), EventOutcome::Gone),
        (403, terminating, EventOutcome::Gone),
        (403, failure(403, "forbidden"), EventOutcome::Refused),
        (422, failure(422, "invalid"), EventOutcome::Refused),
        (429, failure(429, "too many requests"), EventOutcome::Failed),
        (500, failure(500, "internal"), EventOutcome::Failed),
    ] {
        let mut env = Env::start();
        env.recorder.notify(notice("team", "run"));
        env.api.next().await.answer(status, &body);
        settle().await;
        assert_eq!(env.counted(), [outcome], "{status}");
        advance(TIMEOUT * 10).await;
        assert!(env.api.is_idle());
    }
    let mut env = Env::start();
    env.recorder.notify(notice("team", "run"));
    env.api.next().await.reset();
    settle().await;
    assert_eq!(env.counted(), [EventOutcome::Failed]);
}
