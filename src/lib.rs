//! Model Update Eventsource: when a Kubeflow pipeline run succeeds and has pushed a serving model, every subscription
//! to the run's namespace gets the event.
//!
//! # The house
//!
//! | module | what it is |
//! |---|---|
//! | `cli` | the command line: `serve`, `demo`, `health` |
//! | `app` | the composition root: binds, wires, supervises |
//! | [`eventsource`] | the side of Argo Events: gRPC, its configuration, the connection under a stream |
//! | [`mlmd`] | the side of ML Metadata: which models a run has put out |
//! | [`k8s`] | the side of Kubernetes: the watch, and the marks on the Workflows |
//! | [`sim`] | a small API server and ML Metadata store in memory, for the demo and for tests |
//! | `admin` | health, readiness and metrics over HTTP |
//! | [`delivery`] | the product's sentence: who gets which event when, and what is remembered |
//! | [`store`] | the Workflows' records by namespace |
//! | [`model`] | plain data and pure rules |
//! | [`telemetry`], [`readiness`], [`backoff`], [`net`] | leaves that every module may use |
//! | `failpoint` | one more: where fault tests kill the process; empty in a build for use |
//!
//! # Imports run one way
//!
//! main → cli → app → {eventsource, mlmd, k8s, sim, admin} → delivery → store → model. The adapters (the modules in
//! braces) never import each other, and the types generated from `proto/` never leave their adapter. The test
//! `tests/imports.rs` keeps these rules.

pub mod admin;
pub mod app;
pub mod backoff;
pub mod cli;
pub mod delivery;
pub mod eventsource;
mod failpoint;
pub mod k8s;
pub mod mlmd;
pub mod model;
pub mod net;
pub mod readiness;
pub mod sim;
pub mod store;
pub mod telemetry;
