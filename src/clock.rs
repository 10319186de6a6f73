//! The wall clock. A leaf that every module may use.

use std::{fmt, sync::Arc};

/// The wall clock, in whole seconds since the Unix epoch: the ages of runs follow it, pauses never do. The default is
/// the system's; tests use one that jumps.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl WallClock {
    /// Returns a clock that reads `now`.
    pub fn new(now: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Reads the clock.
    pub fn now(&self) -> i64 {
        (self.0)()
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new(|| jiff::Timestamp::now().as_second())
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}
