//! The time budget of a shutdown, from SIGTERM to the end of the process. Every part receives its share as a parameter.
//!
//! ```text
//! delivery      CONFIRMATIONS ──────▶ MARKS ──────▶
//! connections   CONFIRMATIONS ──────▶ CONNECTIONS ▶
//! admin                                             LAST_ANSWERS ▶
//! spans                                                           SPANS ▶
//! ```

use std::time::Duration;

/// The limit for all parts together. Kubernetes sends SIGKILL after 30 s by default; kfp-operator's Pods set 10 s.
const LIMIT: Duration = Duration::from_secs(10);

/// Time for the confirmations of events that were handed off. Delivery ends every stream at the end of it.
pub(crate) const CONFIRMATIONS: Duration = Duration::from_millis(4500);
/// Time for the remaining marks, after the confirmations.
pub(crate) const MARKS: Duration = Duration::from_millis(2500);
/// Time for closing the connections of subscribers, after the last stream has ended.
const CONNECTIONS: Duration = Duration::from_millis(500);
/// Time for answers of the admin port that have begun, after delivery and the connections.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// Time for sending the last spans, after everything else.
pub(crate) const SPANS: Duration = Duration::from_secs(2);

/// Time for the connections of subscribers, from the beginning of the shutdown.
pub(crate) const SERVER: Duration = CONFIRMATIONS.saturating_add(CONNECTIONS);
/// Time for all tasks, from the beginning of the shutdown; those that still run are dropped.
pub(super) const TASKS: Duration = CONFIRMATIONS.saturating_add(MARKS).saturating_add(LAST_ANSWERS);

/// The largest value of `--confirm-after`. With a larger one, an event that is handed off just before a shutdown could
/// not be confirmed, and every shutdown would cause duplicates.
pub(crate) const MAX_CONFIRM_AFTER: Duration = Duration::from_secs(4);

const _: () = {
    assert!(TASKS.saturating_add(SPANS).as_millis() <= LIMIT.as_millis(), "a shutdown takes longer than its limit");
    assert!(SERVER.as_millis() <= CONFIRMATIONS.saturating_add(MARKS).as_millis(), "connections outlive delivery");
    assert!(MAX_CONFIRM_AFTER.as_millis() < CONFIRMATIONS.as_millis(), "--confirm-after exceeds its share");
};
