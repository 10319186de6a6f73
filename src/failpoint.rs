//! Points in a delivery at which a fault test kills the process.
//!
//! `MODEL_UPDATE_FAILPOINT=acknowledged:3` in the environment ends it by SIGKILL when it passes that point for the third
//! time. All this is compiled with the feature `failpoints` only, which the tests turn on for themselves (the package is
//! a development dependency of its own); a build for use has none of it.

/// A step of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailPoint {
    /// A succeeded run is about to be looked up.
    Asking,
    /// Its models have come from ML Metadata, and nobody has been told.
    Asked,
    /// Its event is about to go to the stream.
    HandingOff,
    /// Its event is with the stream, and no octet of it is on its way.
    HandedOff,
    /// Its receipt has been proved, and nobody has been told.
    Acknowledged,
    /// It counts as delivered, and its mark is about to be patched.
    Confirmed,
    /// The API server has answered the patch, and nobody has been told.
    Marked,
}

impl FailPoint {
    /// The process is at this point.
    #[inline]
    pub(crate) fn pass(self) {
        #[cfg(feature = "failpoints")]
        enabled::pass(self);
    }
}

#[cfg(feature = "failpoints")]
mod enabled {
    use std::{
        env,
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    use rustix::process::{Signal, getpid, kill_process};

    use super::FailPoint;

    const VARIABLE: &str = "MODEL_UPDATE_FAILPOINT";

    /// Where to end, and how many passes before that are let through.
    static CHOSEN: LazyLock<Option<(FailPoint, AtomicU64)>> = LazyLock::new(|| {
        let value = env::var(VARIABLE).ok()?;
        let chosen = value.split_once(':').and_then(|(name, pass)| Some((by_name(name)?, pass.parse::<u64>().ok()?)));
        let (point, pass) = chosen.unwrap_or_else(|| panic!("{VARIABLE}={value}: no POINT:PASS"));
        Some((point, pass.into()))
    });

    fn by_name(name: &str) -> Option<FailPoint> {
        Some(match name {
            "asking" => FailPoint::Asking,
            "asked" => FailPoint::Asked,
            "handing_off" => FailPoint::HandingOff,
            "handed_off" => FailPoint::HandedOff,
            "acknowledged" => FailPoint::Acknowledged,
            "confirmed" => FailPoint::Confirmed,
            "marked" => FailPoint::Marked,
            _ => return None,
        })
    }

    pub(super) fn pass(point: FailPoint) {
        let Some((chosen, left)) = &*CHOSEN else { return };
        if *chosen == point && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            kill_process(getpid(), Signal::KILL).expect("we may signal ourselves");
            // The signal may go to another thread first; this one does nothing more.
            loop {
                std::thread::park();
            }
        }
    }
}
