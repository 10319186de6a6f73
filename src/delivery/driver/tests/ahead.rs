//! Lookups of runs that have not ended.

use super::*;
use crate::model::Phase;

/// The success of the very run included.
#[tokio::test(start_paused = true)]
async fn a_lookup_ahead_that_hangs_delays_no_event() {
    let harness = Harness::new();
    harness.set("team", Behavior::Hangs);
    let mut stream = harness.attach(subscription("a"));
    harness.store.apply(Workflow { phase: Phase::Active, finished: 0, ..run("one") });
    assert_silent(&mut stream).await;
    assert_eq!(*lock(&harness.lookup.looked_ahead), [uid("one")]);
    harness.set("team", Behavior::Works);
    harness.store.apply(run("one"));
    event(&mut stream).await;
    assert_silent(&mut stream).await;
    assert_eq!(lock(&harness.lookup.looked_ahead).len(), 1);
}
