//! The logic of commands for people: what they ask of a cluster and of the server, and what follows from the answers.
//!
//! `cli` has the flags of each command and prints its results. Here are no flags, no colors and no questions to the user.
//!
//! - [`check`]: an installation and its neighbors, subject by subject
//! - [`endpoints`]: the addresses of the server and of ML Metadata, reached through a port-forward where needed
//! - [`admin`]: pages of the server's admin port
//! - [`names`]: subscriptions as people name them
//! - [`explain`]: why a run's event arrived, has not arrived yet, or never will
//! - [`lint`]: problems of EventSources and Sensors, from their manifests
//! - [`report`]: one archive for a bug report
//! - [`runbooks`]: the runbooks of the alerts
//! - [`redeliver`]: which marks have to go for a redelivery, and their removal
//! - [`subscribe`]: the configuration of a stream for a person, and its course over connections

pub mod admin;
pub mod check;
pub mod endpoints;
pub mod explain;
pub mod lint;
pub mod names;
pub mod redeliver;
pub mod report;
pub mod runbooks;
pub mod subscribe;
