//! Which refusals are logged: an EventSource repeats a refused request every five seconds for ever.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

/// How often the same refusal of the same EventSource is logged.
const AGAIN: Duration = Duration::from_secs(600);
/// How many EventSources are remembered; whoever was refused longest ago is forgotten first.
const REMEMBERED: usize = 1024;

/// Remembers who was refused why. The first refusal, a changed one, and one every ten minutes are worth a log line.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<Who, Logged>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Who {
    peer: Option<IpAddr>,
    /// A hash of the EventSource's name, which can be of any length.
    event_source: u64,
}

#[derive(Debug)]
struct Logged {
    message: u64,
    at: Instant,
}

impl Refusals {
    /// Whether this refusal is to be logged.
    pub(super) fn is_news(&mut self, peer: Option<IpAddr>, event_source: &str, message: &str) -> bool {
        let now = Instant::now();
        let who = Who { peer, event_source: hash(event_source) };
        let message = hash(message);
        if self.0.get(&who).is_some_and(|logged| logged.message == message && now < logged.at + AGAIN) {
            return false;
        }
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&who) {
            let oldest = self.0.iter().min_by_key(|(_, logged)| logged.at).map(|(who, _)| who.clone());
            oldest.and_then(|who| self.0.remove(&who));
        }
        self.0.insert(who, Logged { message, at: now });
        true
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_a_changed_and_one_every_ten_minutes_are_news() {
        let mut refusals = Refusals::default();
        let peer = Some(IpAddr::from([10, 0, 0, 1]));
        assert!(refusals.is_news(peer, "a", "no namespace"));
        assert!(!refusals.is_news(peer, "a", "no namespace"));
        assert!(refusals.is_news(peer, "a", "not YAML"), "changed");
        assert!(refusals.is_news(peer, "b", "not YAML"), "another EventSource");
        assert!(refusals.is_news(None, "a", "not YAML"), "another peer");
        tokio::time::advance(AGAIN - Duration::from_secs(1)).await;
        assert!(!refusals.is_news(peer, "a", "not YAML"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(refusals.is_news(peer, "a", "not YAML"), "ten minutes later");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let mut refusals = Refusals::default();
        for i in 0..3 * REMEMBERED {
            refusals.is_news(None, &i.to_string(), "x");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(refusals.0.len(), REMEMBERED);
        assert!(!refusals.is_news(None, &(3 * REMEMBERED - 1).to_string(), "x"), "the youngest is remembered");
    }
}
