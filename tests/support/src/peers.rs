//! Real peers of the product.

mod access;
mod argo_events;
mod cluster;
mod grpc_go;
mod jaeger;
mod kfp_runs;
mod kubectl;
mod manifests;
mod metadata_store;
mod metadata_writer;
mod runs;
mod shell;
mod tokens;
mod workflow;

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use tokio::{process::Command, sync::OnceCell, time::timeout};

pub use access::{Grant, ServiceAccount, rule};
pub use argo_events::{ArgoEvents, JetStream, can_have_root};
pub use cluster::{Cluster, SharedCluster, plain_kubeconfig};
pub use grpc_go::{GrpcGoClient, Line, Subscribe};
pub use jaeger::Jaeger;
pub use kfp_runs::{KfpOutput, kfp_task};
pub use manifests::{find_object, manifests};
pub use metadata_store::MetadataStore;
pub use metadata_writer::Writer;
pub use runs::StoredRun;
pub use shell::{Printed, Shell, code_blocks, documented_commands};
pub use workflow::Workflows;

/// Deadline for the start of a peer on a busy machine.
pub const START: Duration = Duration::from_secs(120);

/// Builds the peers that are not in its cache yet.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../peers/build");

/// Deadline of [`SCRIPT`]: `tests/run` calls it before the tests start, `cargo test` alone does not.
const BUILD: Duration = Duration::from_secs(45 * 60);

/// The peers that every test receives.
const DEFAULT: [&str; 4] = ["etcd", "kube-apiserver", "mlmd", "grpc-client"];

/// The built programs of peers.
#[derive(Clone, Debug)]
pub struct Peers {
    programs: BTreeMap<String, PathBuf>,
}

impl Peers {
    /// Returns etcd, kube-apiserver, ML Metadata and the grpc-go client.
    ///
    /// # Panics
    /// If they cannot be built.
    pub async fn find() -> &'static Self {
        static FOUND: OnceCell<Peers> = OnceCell::const_new();
        FOUND.get_or_init(|| Self::with(&[])).await
    }

    /// Returns the same and the peers of these names (`tests/peers/build --list`).
    ///
    /// `tests/run` reads the names from the source, to build these peers before the test starts: write them as literals.
    ///
    /// # Panics
    /// As [`Peers::find`].
    pub async fn with(names: &[&str]) -> Self {
        let mut build = Command::new(SCRIPT);
        // Progress and errors go to the terminal.
        build.args(DEFAULT).args(names).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let output = timeout(BUILD, build.output())
            .await
            .expect("tests/peers/build took too long")
            .expect("tests/peers/build can be started: it needs python3");
        assert!(output.status.success(), "tests/peers/build failed, see its message above");
        let paths = String::from_utf8(output.stdout).expect("paths in UTF-8");
        let programs = paths
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(name, path)| (name.to_owned(), PathBuf::from(path)))
            .collect();
        Self { programs }
    }

    /// Returns the path of a program.
    ///
    /// # Panics
    /// If [`Peers::with`] was called without its name.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.get(name).unwrap_or_else(|| panic!("Peers::with was called without {name}")).clone()
    }
}
