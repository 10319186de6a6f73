//! The metrics: families with bounded labels, never a Workflow's name, a UID or an error's text.

pub mod delivery;

pub use delivery::DeliveryMetrics;
