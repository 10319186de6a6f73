//! The commands for people, as they are called: with a kubeconfig, against a real API server, store and server.
//!
//! One API server serves all tests of this binary; each test has a namespace of its own.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

mod browser;
mod check;
mod cluster;
mod completion;
mod explain;
mod harness;
mod in_pod;
mod kubeflow_api;
mod kubelet;
mod lint;
mod plugin;
mod redeliver;
mod report;
mod status_page;
mod subscribe;
mod terminal;

use serde_json::{Value, json};
use test_support::{CATCH_UP, Cluster, Peers, SOON, TestEnv, eventually, rule};

use self::harness::Tool;
