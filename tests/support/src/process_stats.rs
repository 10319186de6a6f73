//! The kernel's figures of a process: memory, CPU time and wake-ups. Linux only.

use std::{collections::HashMap, fs, time::Duration};

use rustix::process::Pid;
use tokio::time::sleep;

/// Returns the resident memory of a process in KiB.
///
/// # Panics
/// If the process has ended, or outside of Linux.
pub fn resident_kib(pid: Pid) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// Returns the highest resident memory since the start of a process in KiB.
///
/// # Panics
/// As [`resident_kib`].
pub fn peak_resident_kib(pid: Pid) -> u64 {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: Pid, key: &str) -> u64 {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = fs::read_to_string(path).expect("the process runs on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel counts memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Returns the CPU time that the threads of a process have used.
///
/// # Panics
/// As [`resident_kib`].
pub fn cpu_time(pid: Pid) -> Duration {
    let of_thread = |statistics: &str| statistics.split_whitespace().next()?.parse().ok();
    Duration::from_nanos(of_threads(pid, "schedstat", of_thread).into_values().sum())
}

/// Counts the wake-ups of all threads of a process within a time: their voluntary context switches.
///
/// # Panics
/// As [`resident_kib`].
pub async fn wake_ups(pid: Pid, time: Duration) -> u64 {
    let waits = || {
        of_threads(pid, "status", |status| {
            let number = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            number.trim().parse().ok()
        })
    };
    let before = waits();
    sleep(time).await;
    // A thread that has ended is left out, a new one counts from its start.
    waits().into_iter().map(|(thread, now)| now - before.get(&thread).copied().unwrap_or_default()).sum()
}

/// Returns a number for each thread of a process, by its id: the one that `read` finds in this file of the thread.
fn of_threads(pid: Pid, file: &str, read: impl Fn(&str) -> Option<u64>) -> HashMap<String, u64> {
    let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).expect("the process runs on Linux");
    let of_thread = |thread: fs::DirEntry| {
        // A thread may end meanwhile.
        let text = fs::read_to_string(thread.path().join(file)).ok()?;
        Some((thread.file_name().to_string_lossy().into_owned(), read(&text)?))
    };
    threads.flatten().filter_map(of_thread).collect()
}
