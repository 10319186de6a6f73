//! The rate of retries of all watches of the process after an outage of the API server. Each watch reconnects several
//! times a second, so that the first event after the outage is prompt. Hundreds of them would make thousands of
//! attempts, just when the API server starts.
//!
//! So watches that have failed take turns. While the API server does not answer, the next watch makes an attempt every
//! [`WHILE_AWAY`]. The first success shows that the API server is back, and the other watches follow at intervals of
//! [`ONCE_BACK`]. A single watch never waits for its turn, because its own pauses are longer.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// The interval between two attempts while the API server does not answer, or starts. Shorter than the pauses of one
/// watch.
const WHILE_AWAY: Duration = Duration::from_millis(50);
/// The interval between two attempts after the first success: 500 watches are established within two seconds.
const ONCE_BACK: Duration = Duration::from_millis(4);
/// The time after the last unanswered attempt in which errors are those of a starting API server. Until it knows its
/// CustomResourceDefinitions and roles, it answers with 403, 404 and 503.
pub(super) const STARTING: Duration = Duration::from_secs(10);

/// The turns of retries, shared by all watches.
#[derive(Debug)]
pub(super) struct Reconnects {
    is_back: watch::Sender<bool>,
    turns: Mutex<Turns>,
}

#[derive(Debug)]
struct Turns {
    /// The time of the next turn.
    next: Instant,
    /// The last attempt of any watch without an answer.
    unanswered: Instant,
}

impl Default for Reconnects {
    fn default() -> Self {
        let now = Instant::now();
        Self { is_back: watch::Sender::new(true), turns: Mutex::new(Turns { next: now, unanswered: now }) }
    }
}

impl Reconnects {
    /// Handles an attempt without an answer.
    pub(super) fn unanswered(&self) {
        self.turns().unanswered = Instant::now();
        self.is_back.send_if_modified(|is_back| mem::replace(is_back, false));
    }

    /// Handles an error that the API server answers with.
    pub(super) fn refused(&self) {
        let since = self.turns().unanswered.elapsed();
        if since >= STARTING {
            self.succeeded();
        }
    }

    /// Handles a list or an established watch.
    pub(super) fn succeeded(&self) {
        self.is_back.send_if_modified(|is_back| {
            let is_changed = !mem::replace(is_back, true);
            if is_changed {
                // Turns reserved during the outage no longer count. Each watch reserves a new one.
                self.turns().next = Instant::now();
            }
            is_changed
        });
    }

    /// Waits for the turn of a watch that has failed.
    pub(super) async fn turn(&self) {
        let mut is_back = self.is_back.subscribe();
        let is_away = !*is_back.borrow_and_update();
        if is_away {
            let Some(at) = self.reserve(WHILE_AWAY) else { return };
            tokio::select! {
                // In this order: a watch whose turn has come needs no other one.
                biased;
                () = sleep_until(at) => return,
                // Never an error: `self` has the sender.
                _ = is_back.wait_for(|is_back| *is_back) => {}
            }
        }
        if let Some(at) = self.reserve(ONCE_BACK) {
            sleep_until(at).await;
        }
    }

    /// Reserves the next turn. Returns its time, or `None` if it is now.
    fn reserve(&self, interval: Duration) -> Option<Instant> {
        let now = Instant::now();
        let mut turns = self.turns();
        let at = turns.next.max(now);
        turns.next = at + interval;
        (at > now).then_some(at)
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        // Every operation under this lock is complete or has no effect.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const WATCHES: usize = 500;

    /// Returns the times of the attempts of this number of watches, with the shortest pauses. `succeeds` returns
    /// whether an attempt at a time succeeds; `None` without an answer.
    async fn attempts(watches: usize, time: Duration, succeeds: fn(Duration) -> Option<bool>) -> Vec<Duration> {
        let (reconnects, times) = (Arc::new(Reconnects::default()), Arc::new(Mutex::new(Vec::new())));
        let start = Instant::now();
        let watches = (0..watches).map(|_| {
            let (reconnects, times) = (reconnects.clone(), times.clone());
            tokio::spawn(async move {
                loop {
                    times.lock().unwrap().push(start.elapsed());
                    match succeeds(start.elapsed()) {
                        Some(true) => break reconnects.succeeded(),
                        Some(false) => reconnects.refused(),
                        None => reconnects.unanswered(),
                    }
                    sleep_until(Instant::now() + Duration::from_millis(150)).await;
                    reconnects.turn().await;
                }
            })
        });
        let watches: Vec<_> = watches.collect();
        sleep_until(start + time).await;
        watches.iter().for_each(tokio::task::JoinHandle::abort);
        let times = times.lock().unwrap();
        times.clone()
    }

    fn within(times: &[Duration], from: u64, to: u64) -> usize {
        times.iter().filter(|time| (from..to).contains(&(time.as_millis() as u64))).count()
    }

    /// Hundreds of watches make no more attempts than a few while the API server does not answer, or starts. Once it is
    /// back, one of them notices it at once, and the others follow within two seconds.
    #[tokio::test(start_paused = true)]
    async fn all_watches_together_have_a_limited_rate() {
        let times = attempts(WATCHES, Duration::from_secs(40), |at| match at.as_secs() {
            0..20 => None,
            20..25 => Some(false),
            _ => Some(true),
        });
        let times = times.await;
        assert_eq!(within(&times, 0, 1), WATCHES, "nothing is known before the first attempts");
        for second in 1..25 {
            assert!(within(&times, second * 1000, second * 1000 + 1000) <= 20, "second {second}");
        }
        assert!(within(&times, 25_000, 25_050) >= 1);
        assert_eq!(within(&times, 25_000, 27_100), WATCHES);
        assert_eq!(within(&times, 27_100, 40_000), 0);
    }

    /// The outage ends ten seconds after the last attempt without an answer, also for watches that are refused.
    #[tokio::test(start_paused = true)]
    async fn watches_that_are_refused_have_the_faster_rate() {
        let times = attempts(WATCHES, Duration::from_secs(20), |at| (at.as_secs() >= 2).then_some(false));
        let times = times.await;
        assert!(within(&times, 2000, 11_000) <= 9 * 20);
        assert!((500..=2010).contains(&within(&times, 12_000, 20_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_watch_never_waits_for_its_turn() {
        let times = attempts(1, Duration::from_secs(10), |at| (at.as_secs() >= 5).then_some(false)).await;
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= Duration::from_millis(151)), "{times:?}");
    }
}
