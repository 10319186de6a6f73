//! Percentiles of times.

use std::time::Duration;

/// Times in ascending order.
#[derive(Clone, Debug)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Sorts times.
    ///
    /// # Panics
    /// Without a single time there are no percentiles.
    pub fn new(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "nothing was measured");
        times.sort_unstable();
        Self(times)
    }

    /// Returns the time in milliseconds that this share of the times does not exceed.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).clamp(1, self.0.len());
        self.0[rank - 1].as_secs_f64() * 1e3
    }
}

#[test]
fn a_percentile_is_one_of_the_times() {
    let latencies = Latencies::new([3, 1, 4, 2].map(Duration::from_millis).into());
    assert_eq!([0, 25, 26, 50, 99, 100].map(|percent| latencies.percentile(percent) as u64), [1, 1, 2, 2, 4, 4]);
}
