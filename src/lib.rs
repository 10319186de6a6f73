//! Model Update Eventsource: delivers an event to every subscription of a namespace for each Kubeflow pipeline run there
//! that succeeded and pushed a serving model.
//!
//! # Modules
//!
//! | module | content |
//! |---|---|
//! | `cli` | the command line: `serve`, `demo`, `health` and the commands for people |
//! | [`tools`] | the logic of the commands for people |
//! | `app` | the composition root: binds ports, wires the parts, supervises their tasks |
//! | [`eventsource`] | the adapter for Argo Events: gRPC, its configuration, the connection under a stream |
//! | [`mlmd`] | the adapter for ML Metadata: the models of runs |
//! | [`kfp`] | the adapter for Kubeflow's own API: the models of runs, without ML Metadata |
//! | [`lookup`] | what the adapters for the sources of models have in common |
//! | [`k8s`] | the adapter for Kubernetes: the watch, and the marks on Workflows |
//! | [`sim`] | an API server and an ML Metadata store in memory, for the demo and for tests |
//! | `admin` | health, readiness and metrics over HTTP |
//! | [`access`] | who may subscribe: reviews of tokens and rights, and their answers |
//! | [`delivery`] | delivers every succeeded run to every subscription, at least once |
//! | [`store`] | the Workflows' records by namespace |
//! | [`model`] | plain data and pure rules |
//! | [`telemetry`], [`readiness`], [`backoff`], [`clock`], [`net`] | leaves that every module may use |
//! | `failpoint` | a leaf, too: points at which fault tests kill the process; empty in a release build |
//!
//! # Imports run one way
//!
//! main → cli → {app, tools} → {eventsource, mlmd, kfp, k8s, sim, admin} → lookup → {delivery, access} → store → model. The
//! adapters (in the second braces) never import each other, and the types generated from `proto/` never leave their adapter.
//! `tests/imports.rs` checks this.

pub mod access;
pub mod admin;
pub mod app;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod delivery;
pub mod eventsource;
mod failpoint;
pub mod k8s;
pub mod kfp;
pub mod lookup;
pub mod mlmd;
pub mod model;
pub mod net;
pub mod readiness;
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod tools;
