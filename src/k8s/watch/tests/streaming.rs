//! Answers that arrive slowly, in pieces, or larger than usual.

use super::*;

/// A Workflow whose annotations have this size.
fn large(name: &str, bytes: usize) -> Value {
    let mut workflow = workflow(name, 7);
    workflow["metadata"]["annotations"] = json!({"pipelines.kubeflow.org/component": "x".repeat(bytes)});
    workflow
}

/// Returns the value of `limit` in the query of a list.
fn limit(request: &PendingRequest) -> u32 {
    let line = request.line();
    let (_, limit) = line.split_once("&limit=").unwrap_or_else(|| panic!("not a list: {line}"));
    limit.split('&').next().unwrap().parse().unwrap()
}

async fn answer_page(watched: &mut RunningWatch, items: &[Value], continued: Option<&str>) -> u32 {
    let request = watched.api.next().await;
    let limit = limit(&request);
    request.answer_list(items, continued);
    limit
}

/// Headers after 80 s and a byte every 50 s are slow, but not silent.
#[tokio::test(start_paused = true)]
async fn a_slow_list_succeeds() {
    let mut watched = RunningWatch::start();
    let request = watched.api.next().await;
    sleep(Duration::from_secs(80)).await;
    let body = request.begin(200, "application/json");
    let text = list(&[workflow("a", 5), workflow("b", 6)], None).to_string();
    let chunks = text.as_bytes().chunks(60);
    assert!(chunks.len() > 5, "{}", chunks.len());
    for chunk in chunks {
        sleep(Duration::from_secs(50)).await;
        body.chunk(chunk.to_vec());
    }
    drop(body);
    watched.is_ready().await;
    watched.holds(&["a", "b"]).await;
    assert_eq!(watched.errors(WatchErrorKind::List), 0);
}

#[tokio::test(start_paused = true)]
async fn records_are_stored_before_their_page_is_complete() {
    let mut watched = RunningWatch::start();
    let body = watched.api.next().await.begin(200, "application/json");
    let text = list(&[workflow("a", 5), workflow("b", 6)], None).to_string();
    let (first, rest) = text.split_at(text.find("\"b\"").unwrap());
    body.chunk(first.to_owned());
    watched.holds(&["a"]).await;
    assert!(!watched.readiness.is_ready());
    body.chunk(rest.to_owned());
    drop(body);
    watched.is_ready().await;
    watched.holds(&["a", "b"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_list_fails() {
    let mut watched = RunningWatch::start();
    let silent = watched.api.next().await;
    let (pause, second) = pause_before_next(&mut watched.api).await;
    assert!((90_125..=90_250).contains(&pause.as_millis()), "{pause:?} without headers");
    assert_eq!(watched.requests(Verb::List, Code::Error), 1);
    drop(silent);
    let body = second.begin(200, "application/json");
    body.chunk(r#"{"metadata":"#);
    let (pause, _third) = pause_before_next(&mut watched.api).await;
    assert!((60_250..=60_500).contains(&pause.as_millis()), "{pause:?} without a byte");
    assert!(watched.problems().contains("nothing arrived for 60 s"), "{}", watched.problems());
    assert_eq!(watched.errors(WatchErrorKind::List), 2);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_ends_early_removes_nothing() {
    let (mut watched, watch) = RunningWatch::started(&["a", "b"]).await;
    watch.event("ERROR", &failure(410, "too old resource version"));
    let text = list(&[workflow("c", 9)], None).to_string();
    watched.api.next().await.answer_text(200, &text[..text.len() - 2]);
    let again = watched.api.next().await;
    watched.holds(&["a", "b", "c"]).await;
    assert_eq!(watched.errors(WatchErrorKind::List), 1);
    again.answer_text(200, "<html>Sign in</html>");
    watched.api.next().await.answer_text(200, r#"{"metadata": {}, "items": []}"#);
    watched.api.next().await;
    watched.holds(&["a", "b", "c"]).await;
    assert_eq!((watched.errors(WatchErrorKind::List), watched.errors(WatchErrorKind::Other)), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn large_pages_become_smaller_and_grow_back() {
    let mut watched = RunningWatch::start();
    let mib = |count: usize| vec![large("a", count << 20)];
    for (size, expected) in [(5, 250), (5, 125), (3, 62), (5, 62), (0, 31), (0, 62), (0, 124), (0, 248), (0, 250)] {
        assert_eq!(answer_page(&mut watched, &mib(size), Some("more")).await, expected);
    }
    assert_eq!(watched.limits.count(Limit::ListPage), 3);
    for expected in [250, 125, 62, 31, 15, 7, 3, 1, 1] {
        assert_eq!(answer_page(&mut watched, &mib(5), Some("more")).await, expected);
    }
    answer_page(&mut watched, &[], None).await;
    watched.is_ready().await;
}

/// A page that was too large is remembered for the next list.
#[tokio::test(start_paused = true)]
async fn the_page_size_outlives_the_list() {
    let mut watched = RunningWatch::start();
    let page = [large("a", 2 << 20), large("b", 3 << 20)];
    assert_eq!(answer_page(&mut watched, &page, None).await, 250);
    watched.is_ready().await;
    watched.api.next().await.refuse(410, "too old resource version");
    assert_eq!(limit(&watched.api.next().await), 125);
}

#[tokio::test(start_paused = true)]
async fn an_oversized_workflow_is_skipped_and_the_others_kept() {
    let mut watched = RunningWatch::start();
    let items = [workflow("a", 5), large("huge", MAX_OBJECT), workflow("b", 6)];
    let watch = watched.api.list_and_watch(&items).await;
    watch.event("ADDED", &large("huge", MAX_OBJECT));
    watch.event("ADDED", &workflow("c", 108));
    watched.holds(&["a", "b", "c"]).await;
    assert_eq!(watched.metrics.malformed.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_fails_and_resumes() {
    let (mut watched, _silent) = RunningWatch::started(&["a"]).await;
    let (pause, again) = pause_before_next(&mut watched.api).await;
    assert!((20_125..=20_250).contains(&pause.as_millis()), "{pause:?} without a byte");
    assert!(again.line().ends_with("&resourceVersion=100"), "{}", again.line());
    assert_eq!(watched.errors(WatchErrorKind::Stream), 1);
    let (pause, _third) = pause_before_next(&mut watched.api).await;
    assert!((30_150..=30_300).contains(&pause.as_millis()), "{pause:?} without headers");
    assert_eq!(watched.errors(WatchErrorKind::Start), 1);
    assert_eq!(watched.requests(Verb::Watch, Code::Error), 1);
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn a_line_may_arrive_in_pieces() {
    let (watched, watch) = RunningWatch::started(&[]).await;
    let text = format!("{}\n\n", json!({"object": workflow("a", 101), "type": "ADDED"}));
    for byte in text.into_bytes() {
        watch.chunk(vec![byte]);
    }
    watched.holds(&["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_continues_from_its_latest_bookmark() {
    let (mut watched, watch) = RunningWatch::started(&["a"]).await;
    watch.event("BOOKMARK", &json!({"kind": "PartialObjectMetadata", "metadata": {"resourceVersion": "117"}}));
    watch.chunk(r#"{"type":"ADDED","object":{"metadata":{"name":"incompl"#);
    drop(watch);
    let again = watched.api.next().await;
    assert!(again.line().ends_with("&resourceVersion=117"), "{}", again.line());
    watched.holds(&["a"]).await;
}

/// Behind a line that cannot be read there may be a change that was missed.
#[tokio::test(start_paused = true)]
async fn a_line_that_is_no_event_lists_again() {
    let (mut watched, watch) = RunningWatch::started(&["a"]).await;
    let odd =
        ["<html>", "{}", r#"{"type":"MOVED","object":{}}"#, r#"{"type":"ADDED"}"#, r#"{"type":"ERROR","object":7}"#];
    let mut watch = Some(watch);
    for (count, line) in (1..).zip(odd) {
        let open = watch.take().unwrap();
        open.chunk(format!("{line}\n"));
        watch = Some(watched.api.list_and_watch(&[workflow("a", 7)]).await);
        assert_eq!(watched.errors(WatchErrorKind::Stream), count, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_in_a_watch_is_an_error_and_the_watch_resumes() {
    let (mut watched, watch) = RunningWatch::started(&["a"]).await;
    watch.chunk(format!("{}\n", failure(500, "etcdserver: no leader")));
    let again = watched.api.next().await;
    assert!(again.line().ends_with("&resourceVersion=100"), "{}", again.line());
    assert_eq!(watched.errors(WatchErrorKind::Status), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ended_without_a_phase_is_counted() {
    let mut watched = RunningWatch::start();
    let mut odd = workflow("odd", 6);
    odd["metadata"]["labels"] = json!({"workflows.argoproj.io/completed": "true"});
    let watch = watched.api.list_and_watch(&[odd.clone(), workflow("a", 5)]).await;
    watched.holds(&["a", "odd"]).await;
    assert_eq!(watched.metrics.undecidable.get(), 1);
    watch.event("MODIFIED", &odd);
    eventually(|| watched.metrics.undecidable.get() == 2).await;
}
