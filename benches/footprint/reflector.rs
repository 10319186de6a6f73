//! The baseline of memory: a reflector of kube with the metadata of all Workflows, as controllers in Rust usually have
//! it. It runs in a process of its own, which is this benchmark with a hidden flag.

use std::pin::pin;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DynamicObject, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        reflector::store::Writer,
        watcher::{self, Event, watcher},
    },
};
use test_support::{ChildProcess, eventually, process_stats::resident_kib};

use super::{SELECTOR, START, settle, workflows_resource};

/// The line that the process prints once it has all Workflows.
const LISTED: &str = "listed";

/// Keeps the metadata of all Workflows, without managed fields, until the process is killed.
#[expect(clippy::print_stdout, reason = "the benchmark waits for it")]
pub(crate) async fn run(api_server: &str) -> anyhow::Result<()> {
    let client = Client::try_from(Config::new(api_server.parse()?))?;
    let resource = workflows_resource();
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource);
    let writer = Writer::new(resource);
    let _store = writer.as_reader();
    let watched = watcher(api, watcher::Config::default().labels(SELECTOR)).default_backoff();
    let mut kept = pin!(watched.modify(|workflow| workflow.managed_fields_mut().clear()).reflect(writer));
    while let Some(event) = kept.try_next().await? {
        if matches!(event, Event::InitDone) {
            println!("{LISTED}");
        }
    }
    anyhow::bail!("the watch has ended")
}

/// Returns the resident memory in bytes of a process that keeps the Workflows of this API server.
pub(crate) async fn memory(api_server: &str) -> anyhow::Result<f64> {
    let program = std::env::current_exe().context("the path of the benchmark")?;
    let mut process = ChildProcess::new("reflector", program);
    process.set_args(["--reflector", api_server]);
    process.start();
    eventually(START, "the reflector's list", async || {
        let log = process.log();
        if log.lines().any(|line| line == LISTED) { Ok(()) } else { Err(log) }
    })
    .await;
    settle().await;
    Ok(resident_kib(process.pid()) as f64 * 1024.0)
}
