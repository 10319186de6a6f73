//! Watches of several namespaces: none affects another.

use super::*;

fn scope(namespace: &str) -> Scope {
    Scope::Namespace(namespace.into())
}

async fn pair() -> (RunningWatch, RunningWatch) {
    let a = RunningWatch::with_scope(scope("a"));
    let b = RunningWatch::beside(scope("b"), a.store.clone(), a.readiness.clone());
    (a, b)
}

/// The RoleBinding of one namespace was deleted before the start.
#[tokio::test(start_paused = true)]
async fn a_forbidden_scope_does_not_affect_another() {
    let (mut a, mut b) = pair().await;
    b.api.next().await.refuse(403, "cannot list resource \"workflows\" in the namespace \"b\"");
    let _watch = a.api.list_and_watch(&[]).await;
    a.is_ready().await;
    assert!(b.api.next().await.line().contains("namespaces/b/"));
    let problems: Vec<_> = a.readiness.problems().into_iter().collect();
    let [(name, reason)] = &problems[..] else { panic!("one problem, not {problems:?}") };
    assert_eq!(name, "watch of namespace b");
    assert!(reason.contains("not complete: list failed: 403: cannot list"), "{reason}");
    eventually(|| a.is_up("a")).await;
    assert!(!b.is_up("b"));
}

/// The RoleBinding of one namespace is deleted while the server runs.
#[tokio::test(start_paused = true)]
async fn a_scope_that_fails_later_does_not_affect_another() {
    let (mut a, mut b) = pair().await;
    let _watch = a.api.list_and_watch(&[]).await;
    let watch = b.api.list_and_watch(&[]).await;
    eventually(|| a.is_up("a") && b.is_up("b")).await;
    assert!(a.readiness.problems().is_empty());
    let since = Instant::now();
    watch.reset();
    let refused = async {
        loop {
            b.api.next().await.refuse(403, "cannot watch");
        }
    };
    // The other watch is ended and begun again by the API server all the time.
    let served = async {
        loop {
            let watch = a.api.next().await.answer_watch();
            sleep(WATCH_DURATION).await;
            drop(watch);
        }
    };
    let (readiness, ready) = (a.readiness.clone(), a.readiness.subscribe());
    let reported = eventually_within(Duration::from_secs(130), || !readiness.problems().is_empty());
    drop(_watch);
    tokio::select! {
        () = refused => {}
        () = served => {}
        () = reported => {}
    }
    assert_eq!(since.elapsed().as_secs(), 120);
    assert!(readiness.problems()["watch of namespace b"].contains("cannot watch"));
    assert!(readiness.is_ready() && !ready.has_changed().unwrap(), "ready all the time");
    assert!(!b.is_up("b"));

    let _watch = b.api.next().await.answer_watch();
    eventually(|| readiness.problems().is_empty()).await;
    assert!(b.is_up("b"));
}

/// The watches of hundreds of namespaces make few attempts a second while the API server does not answer. Once it is
/// back, one watch notices it at once, and the others follow.
#[tokio::test(start_paused = true)]
async fn watches_take_turns_after_an_outage() {
    const WATCHES: usize = 200;
    let (client, mut api) = fake_client();
    let (selector, in_use) = ("pipeline/runid".to_owned(), SubscriptionsInUse::default());
    let watches = Watches::new(client, selector, Arc::default(), Readiness::default(), in_use, LimitHits::default());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..WATCHES {
        tasks.spawn(watches.watch(scope(&format!("team-{number}"))).run());
    }
    for _ in 0..WATCHES {
        api.next().await.reset();
    }
    let away = Instant::now();
    let mut attempts = 0;
    while away.elapsed() < Duration::from_secs(10) {
        api.next().await.reset();
        attempts += 1;
    }
    assert!((190..=201).contains(&attempts), "{attempts} in ten seconds");

    let (back, mut first) = (Instant::now(), None);
    let mut established = Vec::new();
    while established.len() < WATCHES {
        let request = api.next().await;
        first.get_or_insert(back.elapsed());
        if request.line().contains("watch=true") {
            established.push(request.answer_watch());
        } else {
            request.answer_list(&[], None);
        }
    }
    assert!(first <= Some(Duration::from_millis(51)), "{first:?}");
    assert!(back.elapsed() < Duration::from_millis(1200), "{:?}", back.elapsed());
}
