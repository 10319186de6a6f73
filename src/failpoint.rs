//! Points in a delivery at which a fault test kills the process, or stalls the task that passes.
//!
//! `MODEL_UPDATE_FAILPOINT=acknowledged:3` in the environment kills the process (SIGKILL) on its third pass of that
//! point; `acknowledged:3:stall` blocks the thread there forever. Compiled only with the feature `failpoints`, which no
//! release build has.

/// A step of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailPoint {
    /// Before the lookup of a succeeded run.
    BeforeLookup,
    /// After the answer of a lookup, before the ledger has it.
    AfterLookup,
    /// Before an event is handed to its stream.
    BeforeHandoff,
    /// After the stream has taken an event, before any byte of it is sent.
    AfterHandoff,
    /// After an event was acknowledged, before delivery has the acknowledgement.
    Acknowledged,
    /// After an event was confirmed, before its mark is patched.
    Confirmed,
    /// After the API server's answer to a patch, before the ledger has it.
    Marked,
}

impl FailPoint {
    /// Kills the process or stalls the task, where the environment says so.
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

    /// The fault of the environment.
    struct Fault {
        point: FailPoint,
        /// The number of the pass, counted down.
        passes: AtomicU64,
        stalls: bool,
    }

    static FAULT: LazyLock<Option<Fault>> = LazyLock::new(|| {
        let value = env::var(VARIABLE).ok()?;
        Some(parse(&value).unwrap_or_else(|| panic!("{VARIABLE}={value}: not of the form POINT:PASS[:stall]")))
    });

    fn parse(value: &str) -> Option<Fault> {
        let (name, rest) = value.split_once(':')?;
        let (pass, stalls) = match rest.split_once(':') {
            Some((pass, "stall")) => (pass, true),
            Some(_) => return None,
            None => (rest, false),
        };
        Some(Fault { point: by_name(name)?, passes: pass.parse::<u64>().ok()?.into(), stalls })
    }

    fn by_name(name: &str) -> Option<FailPoint> {
        Some(match name {
            "before_lookup" => FailPoint::BeforeLookup,
            "after_lookup" => FailPoint::AfterLookup,
            "before_handoff" => FailPoint::BeforeHandoff,
            "after_handoff" => FailPoint::AfterHandoff,
            "acknowledged" => FailPoint::Acknowledged,
            "confirmed" => FailPoint::Confirmed,
            "marked" => FailPoint::Marked,
            _ => return None,
        })
    }

    pub(super) fn pass(point: FailPoint) {
        let Some(Fault { point: chosen, passes, stalls }) = &*FAULT else { return };
        if *chosen == point && passes.fetch_sub(1, Ordering::Relaxed) == 1 {
            if !stalls {
                kill_process(getpid(), Signal::KILL).expect("a process may signal itself");
            }
            // Another thread may receive the signal first: this one must not go on.
            loop {
                std::thread::park();
            }
        }
    }
}
