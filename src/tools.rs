//! The logic of commands for people: what they ask of a cluster and of the server, and what follows from the answers.
//!
//! `cli` has the flags of each command and prints its results. Here are no flags, no colors and no questions to the user.
//!
//! - [`lint`]: problems of EventSources and Sensors, from their manifests

pub mod lint;
