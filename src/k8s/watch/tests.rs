//! The watch before an API server in the test's hands, in paused time.

use std::time::Duration;

use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{advance, sleep, timeout},
};

use super::*;
use crate::{
    k8s::fixtures::{Asked, FakeApi, FakeWatch, failure, fake, workflow},
    telemetry::metrics::{
        KubernetesMetrics,
        kubernetes::{RequestLabels, WatchErrorLabel},
    },
};

const PATH: &str = "/apis/argoproj.io/v1alpha1/workflows";
const AS_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// A watch that runs, and what it acts on.
struct Watched {
    api: FakeApi,
    store: Arc<Store>,
    readiness: Readiness,
    metrics: KubernetesMetrics,
    running: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Watched {
    fn start() -> Self {
        Self::of(Scope::All)
    }

    fn of(scope: Scope) -> Self {
        let (client, api) = fake();
        let (store, readiness, metrics) = (Arc::<Store>::default(), Readiness::default(), client.metrics.clone());
        let watch = Watch::new(client, scope, "pipeline/runid".to_owned(), store.clone(), &readiness);
        Self { api, store, readiness, metrics, running: tokio::spawn(watch.run()) }
    }

    async fn started(names: &[&str]) -> (Self, FakeWatch) {
        let mut watched = Self::start();
        let items: Vec<_> = names.iter().map(|name| workflow(name, 7)).collect();
        let watch = watched.api.list_and_watch(&items).await;
        watched.is_ready().await;
        (watched, watch)
    }

    async fn is_ready(&self) {
        self.readiness.subscribe().wait_for(|ready| *ready).await.expect("readiness lives");
    }

    /// Answers every request in this way until the server is not ready any more.
    async fn is_unready_after(&mut self, answer: impl Fn(Asked)) {
        let mut ready = self.readiness.subscribe();
        let unready = async {
            loop {
                tokio::select! {
                    biased;
                    unready = ready.wait_for(|ready| !*ready) => break drop(unready.expect("readiness lives")),
                    asked = self.api.next() => answer(asked),
                }
            }
        };
        timeout(Duration::from_secs(600), unready).await.expect("it is not ready");
    }

    /// What keeps the server from being ready.
    fn blockers(&self) -> String {
        self.readiness.blockers().into_values().collect()
    }

    /// Waits until the store holds exactly these.
    async fn holds(&self, names: &[&str]) {
        let all = || names.iter().all(|name| self.store.get("team", name).is_some());
        happens(|| names.len() == self.store.size().workflows && all()).await;
    }

    fn errors(&self, kind: &'static str) -> u64 {
        self.metrics.watch_errors.get_or_create(&WatchErrorLabel { kind }).get()
    }

    fn requests(&self, verb: &'static str, code: &str) -> u64 {
        self.metrics.requests.get_or_create(&RequestLabels { verb, code: code.to_owned() }).get()
    }
}

/// Waits, in paused time.
async fn happens(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not happen");
        sleep(Duration::from_millis(1)).await;
    }
}

/// How long it takes for the next request to come.
async fn pause_before_next(api: &mut FakeApi) -> (Duration, Asked) {
    let before = Instant::now();
    let asked = api.next().await;
    (before.elapsed(), asked)
}

#[tokio::test(start_paused = true)]
async fn pages_are_listed_and_then_watched_from_the_lists_version() {
    let mut watched = Watched::start();
    let first = watched.api.next().await;
    assert_eq!(first.line(), format!("GET {PATH}?&labelSelector=pipeline%2Frunid&limit=250"));
    assert_eq!(
        first.header("accept"),
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        "metadata is all that is asked for"
    );
    first.answer_list(&[workflow("a", 5)], Some("more"));
    let second = watched.api.next().await;
    assert_eq!(second.line(), format!("GET {PATH}?&labelSelector=pipeline%2Frunid&limit=250&continue=more"));
    watched.holds(&["a"]).await;
    let blockers: Vec<_> = watched.readiness.blockers().into_iter().collect();
    let reason = "the first list of Workflows is not complete".to_owned();
    assert_eq!(blockers, [("watch of all namespaces".to_owned(), reason)], "a part of the list is no list");
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
    assert_eq!((watched.requests("list", "200"), watched.requests("watch", "200")), (2, 1));
    assert_eq!(watched.metrics.workflows.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_listed_namespace_is_all_that_its_watch_asks_for() {
    let mut watched = Watched::of(Scope::Namespace("team".into()));
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
async fn a_broken_watch_goes_on_where_it_was_without_a_list() {
    let (mut watched, watch) = Watched::started(&["a"]).await;
    watch.event("ADDED", &workflow("b", 108));
    watched.holds(&["a", "b"]).await;
    watch.break_off();
    let (pause, again) = pause_before_next(&mut watched.api).await;
    assert!(again.line().ends_with("&resourceVersion=108"), "{}", again.line());
    assert!((125..=250).contains(&pause.as_millis()), "{pause:?}");
    assert_eq!(watched.errors("stream"), 1);
    assert_eq!(watched.metrics.watches_up.get(), 0);
    let watch = again.answer_watch();
    watch.event("DELETED", &workflow("a", 109));
    watched.holds(&["b"]).await;
    assert_eq!(watched.metrics.watches_up.get(), 1);
    assert_eq!(watched.metrics.lists.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_has_fallen_behind_lists_anew_and_sweeps_what_is_gone() {
    let (mut watched, watch) = Watched::started(&["a", "b"]).await;
    watch.event("ERROR", &failure(410, "too old resource version: 100 (200)"));
    let list = watched.api.next().await;
    assert!(list.line().ends_with("&limit=250"), "{}", list.line());
    watched.holds(&["a", "b"]).await;
    list.answer_list(&[workflow("b", 9), workflow("c", 9)], None);
    watched.holds(&["b", "c"]).await;
    watched.api.next().await.answer_watch();
    assert_eq!((watched.errors("expired"), watched.metrics.lists.get()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_410_as_the_answer_to_a_watch_lists_anew_too() {
    let (mut watched, watch) = Watched::started(&["a"]).await;
    watch.break_off();
    watched.api.next().await.refuse(410, "too old resource version");
    let list = watched.api.next().await;
    assert!(list.line().ends_with("&limit=250"), "{}", list.line());
    list.answer_list(&[workflow("b", 9)], None);
    watched.holds(&["b"]).await;
    assert_eq!(watched.errors("expired"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_half_way_changes_nothing_but_what_it_brought() {
    let (mut watched, watch) = Watched::started(&["a", "b"]).await;
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
async fn pauses_grow_from_a_quarter_of_a_second_to_two_seconds_and_begin_anew_after_a_success() {
    let (mut watched, watch) = Watched::started(&[]).await;
    watch.break_off();
    let mut longest = 250;
    for _ in 0..8 {
        let (pause, refused) = pause_before_next(&mut watched.api).await;
        assert!((longest / 2..=longest).contains(&pause.as_millis()), "{pause:?}, at most {longest} ms");
        refused.break_off();
        longest = (longest * 2).min(2000);
    }
    let watch = watched.api.next().await.answer_watch();
    watch.event("ADDED", &workflow("a", 101));
    watched.holds(&["a"]).await;
    watch.break_off();
    let (pause, _refused) = pause_before_next(&mut watched.api).await;
    assert!((125..=250).contains(&pause.as_millis()), "{pause:?}");
}

#[tokio::test(start_paused = true)]
async fn failing_to_list_pauses_longer_and_longer_too() {
    let mut watched = Watched::start();
    let mut longest = 250;
    watched.api.next().await.refuse(403, "no");
    for _ in 0..5 {
        let (pause, refused) = pause_before_next(&mut watched.api).await;
        assert!((longest / 2..=longest).contains(&pause.as_millis()), "{pause:?}, at most {longest} ms");
        refused.refuse(403, "User \"system:serviceaccount:a:b\" cannot list resource \"workflows\"");
        longest = (longest * 2).min(2000);
    }
    watched.api.next().await;
    let reason = watched.blockers();
    assert!(reason.starts_with("the first list of Workflows is not complete: ") && reason.contains("cannot list"));
}

#[tokio::test(start_paused = true)]
async fn lists_that_are_out_of_date_at_once_pause_longer_and_longer() {
    let mut watched = Watched::start();
    watched.api.next().await.answer_list(&[], None);
    for longest in [250, 500, 1000, 2000, 2000] {
        watched.api.next().await.answer_watch().event("ERROR", &failure(410, "too old resource version"));
        let (pause, list) = pause_before_next(&mut watched.api).await;
        // An established watch is held back, too.
        assert!((longest / 2..=longest + 500).contains(&pause.as_millis()), "{pause:?}, at most {longest} ms");
        list.answer_list(&[], None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_for_two_minutes_makes_the_server_unready_until_it_is_back() {
    let (mut watched, watch) = Watched::started(&["a"]).await;
    let broken = Instant::now();
    watch.break_off();
    watched.is_unready_after(Asked::break_off).await;
    assert_eq!(broken.elapsed().as_secs(), 120);
    let reason = watched.blockers();
    assert!(reason.starts_with("has failed for 120 s and more: ") && reason.contains("reset"), "{reason}");

    // The reason is the last error's.
    watched.api.next().await.refuse(403, "User cannot watch");
    let refused = watched.api.next().await;
    assert!(watched.blockers().contains("User cannot watch"));
    // An answered watch that brings nothing is well once it has stood for a while.
    let answered = Instant::now();
    let _watch = refused.answer_watch();
    watched.is_ready().await;
    assert_eq!(answered.elapsed().as_secs(), 5);
    assert_eq!(watched.metrics.watches_up.get(), 1);
    watched.holds(&["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_shows_at_once_that_the_watch_is_back() {
    let (mut watched, watch) = Watched::started(&[]).await;
    watch.break_off();
    watched.is_unready_after(Asked::break_off).await;
    let asked = watched.api.next().await;
    let answered = Instant::now();
    asked.answer_watch().event("ADDED", &workflow("a", 101));
    watched.is_ready().await;
    assert_eq!(answered.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_answered_and_fails_at_once_again_and_again_is_not_well() {
    let (mut watched, watch) = Watched::started(&[]).await;
    watch.break_off();
    let since = Instant::now();
    watched.is_unready_after(|asked| asked.answer_watch().event("ERROR", &failure(500, "etcdserver: no leader"))).await;
    assert_eq!(since.elapsed().as_secs(), 120);
    assert!(watched.requests("watch", "200") < 120, "{}", watched.requests("watch", "200"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_well_is_no_error_and_goes_on_at_once() {
    let (mut watched, watch) = Watched::started(&[]).await;
    advance(Duration::from_secs(60)).await;
    drop(watch);
    let (pause, again) = pause_before_next(&mut watched.api).await;
    assert_eq!(pause, Duration::ZERO);
    let _watch = again.answer_watch();
    assert_eq!(watched.metrics.watches_up.get(), 1);
    assert_eq!(watched.requests("watch", "200"), 1, "not counted yet");
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_as_soon_as_they_begin_are_no_storm() {
    let (mut watched, watch) = Watched::started(&[]).await;
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
async fn an_api_server_that_does_not_answer_is_given_up_after_half_a_minute() {
    let mut watched = Watched::start();
    let silent = watched.api.next().await;
    let (pause, _again) = pause_before_next(&mut watched.api).await;
    assert!((30_125..=30_250).contains(&pause.as_millis()), "{pause:?}");
    assert_eq!(watched.requests("list", "error"), 1);
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn a_workflow_that_is_malformed_is_counted_and_left_out_and_the_others_are_kept() {
    let mut watched = Watched::start();
    let mut odd = workflow("odd", 6);
    odd["metadata"]["uid"] = json!("7");
    let watch = watched.api.list_and_watch(&[workflow("a", 5), odd.clone(), workflow("b", 6), json!(null)]).await;
    watched.is_ready().await;
    odd["metadata"]["resourceVersion"] = json!("101");
    watch.event("MODIFIED", &odd);
    watch.event("ADDED", &workflow("c", 102));
    watched.holds(&["a", "b", "c"]).await;
    assert_eq!(watched.metrics.malformed.get(), 3);
    assert!(watched.api.is_quiet());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_dropped_is_counted_no_more() {
    let (watched, _watch) = Watched::started(&[]).await;
    watched.running.abort();
    happens(|| watched.metrics.watches.get() == 0).await;
    assert_eq!(watched.metrics.watches_up.get(), 0);
}
