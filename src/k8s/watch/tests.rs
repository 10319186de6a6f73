//! The watch with a fake API server, in paused time.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{advance, sleep, timeout},
};

use super::*;
use crate::k8s::{
    fixtures::{FakeApi, FakeBody, PendingRequest, failure, fake_client, list, workflow},
    metrics::{Code, KubernetesMetrics, RequestLabels, ScopeLabel, Verb, WatchErrorKind, WatchErrorLabel},
};

mod allocations;
mod scopes;
mod streaming;

const PATH: &str = "/apis/argoproj.io/v1alpha1/workflows";
const AS_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// A running watch, and its environment.
struct RunningWatch {
    api: FakeApi,
    store: Arc<Store>,
    readiness: Readiness,
    metrics: KubernetesMetrics,
    limits: LimitHits,
    task: JoinHandle<()>,
}

impl Drop for RunningWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RunningWatch {
    fn start() -> Self {
        Self::with_scope(Scope::All)
    }

    fn with_scope(scope: Scope) -> Self {
        Self::beside(scope, Arc::default(), Readiness::default())
    }

    /// A watch of one scope beside those of others.
    fn beside(scope: Scope, store: Arc<Store>, readiness: Readiness) -> Self {
        let (client, api) = fake_client();
        let (metrics, limits) = (client.metrics.clone(), LimitHits::default());
        let (selector, in_use) = ("pipeline/runid".to_owned(), SubscriptionsInUse::default());
        let watches = Watches::new(client, selector, store.clone(), readiness.clone(), in_use, limits.clone());
        Self { api, store, readiness, metrics, limits, task: tokio::spawn(watches.watch(scope).run()) }
    }

    async fn started(names: &[&str]) -> (Self, FakeBody) {
        let mut running = Self::start();
        let items: Vec<_> = names.iter().map(|name| workflow(name, 7)).collect();
        let watch = running.api.list_and_watch(&items).await;
        running.is_ready().await;
        (running, watch)
    }

    async fn is_ready(&self) {
        self.readiness.subscribe().wait_for(|ready| *ready).await.expect("the readiness exists");
    }

    /// Answers every request in this way until the server is not ready.
    async fn is_unready_after(&mut self, answer: impl Fn(PendingRequest)) {
        let mut ready = self.readiness.subscribe();
        let unready = async {
            loop {
                tokio::select! {
                    biased;
                    unready = ready.wait_for(|ready| !*ready) => break drop(unready.expect("the readiness exists")),
                    request = self.api.next() => answer(request),
                }
            }
        };
        timeout(Duration::from_secs(600), unready).await.expect("the server becomes unready");
    }

    /// Returns the reasons why the server is not ready.
    fn problems(&self) -> String {
        self.readiness.problems().into_values().collect()
    }

    /// Waits until the store holds exactly these Workflows.
    async fn holds(&self, names: &[&str]) {
        let all = || names.iter().all(|name| self.store.get("team", name).is_some());
        eventually(|| names.len() == self.store.size().workflows && all()).await;
    }

    fn errors(&self, kind: WatchErrorKind) -> u64 {
        self.metrics.watch_errors.get_or_create(&WatchErrorLabel { kind }).get()
    }

    fn is_up(&self, namespace: &str) -> bool {
        self.metrics.scope_up.get_or_create(&ScopeLabel { namespace: namespace.to_owned() }).get() == 1
    }

    fn successful(&self, verb: Verb) -> u64 {
        self.requests(verb, Code::Status(StatusCode::OK))
    }

    fn requests(&self, verb: Verb, code: Code) -> u64 {
        self.metrics.requests.get_or_create(&RequestLabels { verb, code }).get()
    }
}

/// Waits for a condition, in paused time.
async fn eventually(condition: impl Fn() -> bool) {
    eventually_within(Duration::from_secs(10), condition).await;
}

async fn eventually_within(limit: Duration, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition does not become true");
        sleep(Duration::from_millis(1)).await;
    }
}

/// Waits for the next request, and measures the time until then.
async fn pause_before_next(api: &mut FakeApi) -> (Duration, PendingRequest) {
    let start = Instant::now();
    let request = api.next().await;
    (start.elapsed(), request)
}

#[tokio::test(start_paused = true)]
async fn pages_are_listed_and_then_watched_from_the_lists_version() {
    let mut watched = RunningWatch::start();
    let first = watched.api.next().await;
    assert_eq!(first.line(), format!("GET {PATH}?&labelSelector=pipeline%2Frunid&limit=250"));
    assert_eq!(
        first.header("accept"),
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        "only metadata is requested"
    );
    first.answer_list(&[workflow("a", 5)], Some("more"));
    let second = watched.api.next().await;
    assert_eq!(second.line(), format!("GET {PATH}?&labelSelector=pipeline%2Frunid&limit=250&continue=more"));
    watched.holds(&["a"]).await;
    let blockers: Vec<_> = watched.readiness.problems().into_iter().collect();
    let reason = "the first list of Workflows is not complete".to_owned();
    assert_eq!(blockers, [("watch of all namespaces".to_owned(), reason)], "an incomplete list does not count");
    second.answer_list(&[workflow("b", 6)], None);

    let watch = watched.api.next().await;
    assert_eq!(
        watch.line(),
        format!(
            "GET {PATH}?&watch=true&timeoutSeconds=15&labelSelector=pipeline%2Frunid&allowWatchBookmarks=true&resourceVersion=100"
        )
    );
    assert_eq!(watch.header("accept"), AS_METADATA);
    watched.is_ready().await;
    watched.holds(&["a", "b"]).await;
    let watch = watch.answer_watch();
    watch.event("ADDED", &workflow("c", 101));
    watch.event("DELETED", &workflow("a", 102));
    watched.holds(&["b", "c"]).await;
    assert_eq!((watched.metrics.watches.get(), watched.metrics.watches_up.get()), (1, 1));
    assert_eq!((watched.successful(Verb::List), watched.successful(Verb::Watch)), (2, 1));
    assert_eq!(watched.metrics.workflows.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_a_namespace_requests_only_that_namespace() {
    let mut watched = RunningWatch::with_scope(Scope::Namespace("team".into()));
    let list = watched.api.next().await;
    let path = "/apis/argoproj.io/v1alpha1/namespaces/team/workflows";
    assert_eq!(list.line(), format!("GET {path}?&labelSelector=pipeline%2Frunid&limit=250"));
    list.answer_list(&[], None);
    let watch = watched.api.next().await.answer_watch();
    watch.event("ADDED", &workflow("a", 101));
    watched.holds(&["a"]).await;
    assert_eq!(watched.metrics.watches_up.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_resumes_without_a_list() {
    let (mut watched, watch) = RunningWatch::started(&["a"]).await;
    watch.event("ADDED", &workflow("b", 108));
    watched.holds(&["a", "b"]).await;
    watch.reset();
    let (pause, again) = pause_before_next(&mut watched.api).await;
    assert!(again.line().ends_with("&resourceVersion=108"), "{}", again.line());
    assert!((125..=250).contains(&pause.as_millis()), "{pause:?}");
    assert_eq!(watched.errors(WatchErrorKind::Stream), 1);
    assert_eq!(watched.metrics.watches_up.get(), 0);
    let watch = again.answer_watch();
    watch.event("DELETED", &workflow("a", 109));
    watched.holds(&["b"]).await;
    assert_eq!(watched.metrics.watches_up.get(), 1);
    assert_eq!(watched.metrics.lists.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_lists_again_and_removes_the_deleted() {
    let (mut watched, watch) = RunningWatch::started(&["a", "b"]).await;
    watch.event("ERROR", &failure(410, "too old resource version: 100 (200)"));
    let list = watched.api.next().await;
    assert!(list.line().ends_with("&limit=250"), "{}", list.line());
    watched.holds(&["a", "b"]).await;
    list.answer_list(&[workflow("b", 9), workflow("c", 9)], None);
    watched.holds(&["b", "c"]).await;
    watched.api.next().await.answer_watch();
    assert_eq!((watched.errors(WatchErrorKind::Expired), watched.metrics.lists.get()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_410_as_the_answer_to_a_watch_lists_again() {
    let (mut watched, watch) = RunningWatch::started(&["a"]).await;
    watch.reset();
    watched.api.next().await.refuse(410, "too old resource version");
    let list = watched.api.next().await;
    assert!(list.line().ends_with("&limit=250"), "{}", list.line());
    list.answer_list(&[workflow("b", 9)], None);
    watched.holds(&["b"]).await;
    assert_eq!(watched.errors(WatchErrorKind::Expired), 1);
}

#[tokio::test(start_paused = true)]
async fn an_aborted_list_removes_nothing() {
    let (mut watched, watch) = RunningWatch::started(&["a", "b"]).await;
    watch.event("ERROR", &failure(410, "too old resource version"));
    watched.api.next().await.answer_list(&[workflow("c", 9)], Some("more"));
    watched.api.next().await.refuse(503, "the server is currently unable to handle the request");
    let again = watched.api.next().await;
    assert!(!again.line().contains("continue"), "{}", again.line());
    watched.holds(&["a", "b", "c"]).await;
    again.answer_list(&[workflow("a", 9)], None);
    watched.holds(&["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_to_two_seconds_and_reset_after_a_success() {
    let (mut watched, watch) = RunningWatch::started(&[]).await;
    watch.reset();
    let mut longest = 250;
    for _ in 0..8 {
        let (pause, refused) = pause_before_next(&mut watched.api).await;
        assert!((longest / 2..=longest).contains(&pause.as_millis()), "{pause:?}, at most {longest} ms");
        refused.refuse(503, "the server is currently unable to handle the request");
        longest = (longest * 2).min(2000);
    }
    let watch = watched.api.next().await.answer_watch();
    watch.event("ADDED", &workflow("a", 101));
    watched.holds(&["a"]).await;
    watch.reset();
    let (pause, _refused) = pause_before_next(&mut watched.api).await;
    assert!((125..=250).contains(&pause.as_millis()), "{pause:?}");
}

/// An API server that restarts refuses connections, then answers with errors, and has forgotten the version.
#[tokio::test(start_paused = true)]
async fn pauses_stay_short_while_the_api_server_restarts() {
    let (mut watched, watch) = RunningWatch::started(&[]).await;
    advance(Duration::from_secs(10)).await;
    watch.reset();
    let mut request = watched.api.next().await;
    for number in 0..70 {
        if number < 60 {
            request.reset()
        } else {
            request.refuse(404, "404 page not found")
        }
        let (pause, next) = pause_before_next(&mut watched.api).await;
        assert!((125..=300).contains(&pause.as_millis()), "{pause:?} after {number}");
        request = next;
    }
    request.refuse(410, "too old resource version");
    let (pause, list) = pause_before_next(&mut watched.api).await;
    assert_eq!(pause, Duration::ZERO);
    list.answer_list(&[workflow("a", 9)], None);
    watched.holds(&["a"]).await;
}

/// The errors of an API server that has been back for a while are not those of its start.
#[tokio::test(start_paused = true)]
async fn pauses_grow_while_a_started_api_server_refuses() {
    let (mut watched, watch) = RunningWatch::started(&[]).await;
    watch.reset();
    watched.api.next().await.reset();
    let since = Instant::now();
    let mut attempts = 0;
    while since.elapsed() < Duration::from_secs(60) {
        watched.api.next().await.refuse(403, "no");
        attempts += 1;
    }
    assert!((60..=125).contains(&attempts), "{attempts} in a minute");
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_while_lists_fail() {
    let mut watched = RunningWatch::start();
    let mut longest = 250;
    watched.api.next().await.refuse(403, "no");
    for _ in 0..5 {
        let (pause, refused) = pause_before_next(&mut watched.api).await;
        assert!((longest / 2..=longest).contains(&pause.as_millis()), "{pause:?}, at most {longest} ms");
        refused.refuse(403, "User \"system:serviceaccount:a:b\" cannot list resource \"workflows\"");
        longest = (longest * 2).min(2000);
    }
    watched.api.next().await;
    let reason = watched.problems();
    assert!(reason.starts_with("the first list of Workflows is not complete: ") && reason.contains("cannot list"));
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_while_lists_expire_at_once() {
    let mut watched = RunningWatch::start();
    watched.api.next().await.answer_list(&[], None);
    for longest in [250, 500, 1000, 2000, 2000] {
        watched.api.next().await.answer_watch().event("ERROR", &failure(410, "too old resource version"));
        let (pause, list) = pause_before_next(&mut watched.api).await;
        // The answer to a second watch within half a second is delayed, too.
        assert!((longest / 2..=longest + 500).contains(&pause.as_millis()), "{pause:?}, at most {longest} ms");
        list.answer_list(&[], None);
    }
}

#[tokio::test(start_paused = true)]
async fn two_minutes_of_failure_make_the_server_unready() {
    let (mut watched, watch) = RunningWatch::started(&["a"]).await;
    let broken = Instant::now();
    watch.reset();
    watched.is_unready_after(PendingRequest::reset).await;
    assert_eq!(broken.elapsed().as_secs(), 120);
    let reason = watched.problems();
    assert!(reason.starts_with("failing for 120 s or longer: ") && reason.contains("reset"), "{reason}");

    // The reason contains the last error.
    watched.api.next().await.refuse(403, "User cannot watch");
    let refused = watched.api.next().await;
    assert!(watched.problems().contains("User cannot watch"));
    // A silent watch has recovered when it has been established for a while.
    let answered = Instant::now();
    let _watch = refused.answer_watch();
    watched.is_ready().await;
    assert_eq!(answered.elapsed().as_secs(), 5);
    assert_eq!(watched.metrics.watches_up.get(), 1);
    watched.holds(&["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_ends_the_unreadiness_at_once() {
    let (mut watched, watch) = RunningWatch::started(&[]).await;
    watch.reset();
    watched.is_unready_after(PendingRequest::reset).await;
    let request = watched.api.next().await;
    let answered = Instant::now();
    request.answer_watch().event("ADDED", &workflow("a", 101));
    watched.is_ready().await;
    assert_eq!(answered.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_after_each_answer_has_not_recovered() {
    let (mut watched, watch) = RunningWatch::started(&[]).await;
    watch.reset();
    let since = Instant::now();
    watched
        .is_unready_after(|request| request.answer_watch().event("ERROR", &failure(500, "etcdserver: no leader")))
        .await;
    assert_eq!(since.elapsed().as_secs(), 120);
    assert!(watched.successful(Verb::Watch) < 120, "{}", watched.successful(Verb::Watch));
}

#[tokio::test(start_paused = true)]
async fn the_regular_end_of_a_watch_is_no_error() {
    let (mut watched, watch) = RunningWatch::started(&[]).await;
    advance(WATCH_DURATION).await;
    drop(watch);
    let (pause, again) = pause_before_next(&mut watched.api).await;
    assert_eq!(pause, Duration::ZERO);
    let _watch = again.answer_watch();
    assert_eq!(watched.metrics.watches_up.get(), 1);
    assert_eq!(watched.successful(Verb::Watch), 1, "not counted yet");
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_make_no_busy_loop() {
    let (mut watched, watch) = RunningWatch::started(&[]).await;
    drop(watch);
    let since = Instant::now();
    let mut watches = 0;
    while since.elapsed() < Duration::from_secs(10) {
        watched.api.next().await.answer_watch();
        watches += 1;
    }
    assert!((15..=22).contains(&watches), "{watches} watches in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_malformed_workflow_is_ignored_and_the_others_kept() {
    let mut watched = RunningWatch::start();
    let mut odd = workflow("odd", 6);
    odd["metadata"]["uid"] = json!("7");
    let watch = watched.api.list_and_watch(&[workflow("a", 5), odd.clone(), workflow("b", 6), json!(null)]).await;
    watched.is_ready().await;
    odd["metadata"]["resourceVersion"] = json!("101");
    watch.event("MODIFIED", &odd);
    watch.event("ADDED", &workflow("c", 102));
    watched.holds(&["a", "b", "c"]).await;
    assert_eq!(watched.metrics.malformed.get(), 3);
    assert!(watched.api.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_watch_is_no_longer_counted() {
    let (watched, _watch) = RunningWatch::started(&[]).await;
    watched.task.abort();
    eventually(|| watched.metrics.watches.get() == 0).await;
    assert_eq!(watched.metrics.watches_up.get(), 0);
}
