//! A throttle for repeated log lines: the first is logged, then each that differs, and one every ten minutes. Lines that
//! keep differing are limited, too: a client can alternate between two errors.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    time::Duration,
};

use tokio::time::Instant;

/// The interval at which an unchanged line is logged.
const REPEAT: Duration = Duration::from_secs(600);

/// The lines of a key in such an interval.
const MAX_LINES: u32 = 32;

/// Decides which occurrences of an event are logged, by key. Bounded: a new key replaces the one that was logged
/// longest ago.
#[derive(Debug)]
pub struct LogThrottle<K> {
    logged: HashMap<K, Logged>,
    capacity: usize,
    hasher: RandomState,
}

#[derive(Debug)]
struct Logged {
    content: u64,
    at: Instant,
    /// The begin of the interval in which the lines are counted.
    since: Instant,
    lines: u32,
}

impl<K: Clone + Eq + Hash> LogThrottle<K> {
    /// A throttle that remembers at most this many keys.
    pub fn new(capacity: usize) -> Self {
        Self { logged: HashMap::new(), capacity, hasher: RandomState::new() }
    }

    /// Returns whether to log this occurrence. Two occurrences of a key differ if their `content` differs.
    pub fn allows(&mut self, key: K, content: &impl Hash) -> bool {
        let (content, now) = (self.hasher.hash_one(content), Instant::now());
        if let Some(logged) = self.logged.get_mut(&key) {
            if now >= logged.since + REPEAT {
                (logged.since, logged.lines) = (now, 0);
            }
            let is_repeated = logged.content == content && now < logged.at + REPEAT;
            if is_repeated || logged.lines >= MAX_LINES {
                return false;
            }
            (logged.content, logged.at, logged.lines) = (content, now, logged.lines + 1);
            return true;
        }
        if self.logged.len() >= self.capacity {
            let oldest = self.logged.iter().min_by_key(|(_, logged)| logged.at).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.logged.remove(&key));
        }
        self.logged.insert(key, Logged { content, at: now, since: now, lines: 1 });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn logs_the_first_a_changed_and_one_every_ten_minutes() {
        let mut throttle = LogThrottle::new(10);
        assert!(throttle.allows("a", &"no namespace"));
        assert!(!throttle.allows("a", &"no namespace"));
        assert!(throttle.allows("a", &"not YAML"), "changed");
        assert!(throttle.allows("b", &"not YAML"), "another key");
        tokio::time::advance(REPEAT - Duration::from_secs(1)).await;
        assert!(!throttle.allows("a", &"not YAML"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(throttle.allows("a", &"not YAML"), "ten minutes later");
    }

    #[tokio::test(start_paused = true)]
    async fn alternating_lines_are_limited() {
        let mut throttle = LogThrottle::new(10);
        let mut logged = || (0..1000).filter(|n| throttle.allows("a", &(n % 2))).count();
        assert_eq!([logged(), logged()], [32, 0]);
        tokio::time::advance(REPEAT).await;
        assert_eq!(logged(), 32, "ten minutes later");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let mut throttle = LogThrottle::new(100);
        for key in 0..300 {
            throttle.allows(key, &"x");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(throttle.logged.len(), 100);
        assert!(!throttle.allows(299, &"x"), "the youngest is remembered");
    }
}
