//! Exponential pauses between attempts, with jitter. A leaf that every module may use.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Pauses that double from `first` up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest pause after the first failure.
    pub first: Duration,
    /// The longest pause after any number of failures.
    pub max: Duration,
}

impl Backoff {
    /// Returns the longest pause after this many failures in a row, counted from 1.
    pub fn ceiling(self, failures: u32) -> Duration {
        self.first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(self.max)
    }

    /// Returns a random pause between half of [`Backoff::ceiling`] and all of it: long enough to relieve a peer, spread
    /// enough that clients do not retry in step.
    pub fn pause(self, failures: u32, random: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling(failures);
        random.random_range(ceiling / 2..=ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), max: Duration::from_secs(30) };

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let ceilings = [0, 1, 2, 3, 7, 8, u32::MAX].map(|failures| BACKOFF.ceiling(failures).as_millis());
        assert_eq!(ceilings, [250, 250, 500, 1000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn a_pause_lies_in_the_upper_half() {
        for failures in 1..100 {
            let (pause, ceiling) = (BACKOFF.pause(failures, &mut rand::rng()), BACKOFF.ceiling(failures));
            assert!((ceiling / 2..=ceiling).contains(&pause), "{pause:?} after {failures} failures");
        }
    }
}
