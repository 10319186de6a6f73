//! One process of a neighbour: its folder, its log, its signals, and its end.
//!
//! **Nothing outlives the test.** A process is killed when its [`Neighbour`] is dropped. A test binary that is killed
//! itself, or that holds a neighbour in a static, drops nothing; for these, every process has a companion: a shell that
//! reads from a pipe whose other end only the test binary holds. At the end of that pipe the companion kills the process
//! and removes its folder. (`PR_SET_PDEATHSIG` would need unsafe code, and only Linux has it.) The process takes over the
//! process id of the shell that starts both, so that signals and the exit status are its own.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

use super::eventually;

/// `$1` is the folder; the rest is the command. `$$` in the companion is the process id that `exec` hands on. A process
/// that is dying may still write into the folder once: hence the second attempt to remove it.
const COMPANION: &str = r#"
folder=$1; shift
exec 3<&0
( read -r _ || {
    kill -KILL $$
    rm -rf "$folder" || { sleep 1; rm -rf "$folder"; }
} ) <&3 3<&- >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-
"#;

/// How much of a log is printed when a test fails.
const TAIL: usize = 150;

/// A neighbour's process, which can be started, ended and started again with the same folder and log.
#[derive(Debug)]
pub struct Neighbour {
    name: &'static str,
    program: PathBuf,
    args: Vec<OsString>,
    folder: TempDir,
    running: Option<Running>,
    log_start: u64,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Dropped without a word, it kills the process; a line says that this is not needed any more.
    lifeline: ChildStdin,
}

impl Neighbour {
    /// A neighbour that is not started yet, with a folder of its own.
    pub fn new(name: &'static str, program: PathBuf) -> Self {
        let folder = tempfile::Builder::new().prefix(&format!("peer-{name}-")).tempdir().expect("a temporary folder");
        Self { name, program, args: Vec::new(), folder, running: None, log_start: 0 }
    }

    /// Its folder, which goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The arguments of the next start.
    pub fn set_args(&mut self, args: impl IntoIterator<Item = impl Into<OsString>>) {
        self.args = args.into_iter().map(Into::into).collect();
    }

    /// Starts it; stdout and stderr go to its log, behind those of earlier starts.
    pub fn start(&mut self) {
        let log = self.open_log();
        self.spawn(Stdio::from(log));
    }

    /// Starts it with stdout for the caller to read; stderr goes to its log.
    pub fn start_piped(&mut self) -> ChildStdout {
        self.spawn(Stdio::piped());
        let running = self.running.as_mut().expect("just started");
        running.child.stdout.take().expect("stdout is a pipe")
    }

    fn spawn(&mut self, stdout: Stdio) {
        assert!(self.running.is_none(), "{} is running already", self.name);
        self.log_start = fs::metadata(self.log_path()).map_or(0, |log| log.len());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", COMPANION, "sh"]).arg(self.folder()).arg(&self.program).args(&self.args);
        // A group of its own: an interrupt at the terminal is for the test binary, whose end is then theirs.
        command.process_group(0).stdin(Stdio::piped()).stdout(stdout).stderr(self.open_log());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.name));
        let lifeline = child.stdin.take().expect("stdin is a pipe");
        self.running = Some(Running { child, lifeline });
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.log_path()).expect("the log can be written")
    }

    fn log_path(&self) -> PathBuf {
        self.folder().join("log")
    }

    /// What it has written since its latest start.
    pub fn log(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let start = usize::try_from(self.log_start).expect("a log that fits into memory").min(log.len());
        String::from_utf8_lossy(&log[start..]).into_owned()
    }

    /// Prints the end of its log, of all its starts. A failing test calls it by dropping the neighbour.
    #[allow(clippy::print_stdout, reason = "the test runner shows what a failing test prints")]
    pub fn print_log(&self) {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        println!("--- {}: the last {} of {} lines of its log", self.name, tail.len(), lines.len());
        for line in tail {
            println!("{line}");
        }
        println!("--- {}: end of its log", self.name);
    }

    /// Whether it is still there; a process that ended by itself is reaped.
    pub fn is_running(&mut self) -> bool {
        self.exit_status().is_none() && self.running.is_some()
    }

    /// The exit status of a process that has ended by itself, once.
    fn exit_status(&mut self) -> Option<ExitStatus> {
        let status = self.running.as_mut()?.child.try_wait().expect("it is our child")?;
        self.reaped();
        Some(status)
    }

    /// Waits for its end; returns its exit status.
    ///
    /// # Panics
    /// If it goes on for longer, or was not running.
    pub async fn exited(&mut self, deadline: Duration) -> ExitStatus {
        assert!(self.running.is_some(), "{} is not running", self.name);
        eventually(deadline, &format!("the end of {}", self.name), async || self.exit_status()).await
    }

    /// The companion need not kill what is gone: its process id may soon be another's.
    fn reaped(&mut self) {
        if let Some(mut running) = self.running.take() {
            // It may be gone itself: then it needs no word.
            let _told = running.lifeline.write_all(b"\n");
        }
    }

    /// SIGKILL, and waits until it is gone. Nothing where it does not run.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.as_mut() {
            running.child.kill().expect("it is our child");
            running.child.wait().expect("it is our child");
            self.reaped();
        }
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP; returns when it has stopped.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        waitid(WaitId::Pid(self.pid()), WaitIdOptions::STOPPED).expect("it is our child");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap_or_else(|error| panic!("{}: {signal:?}: {error}", self.name));
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it is not running.
    pub fn pid(&self) -> Pid {
        let running = self.running.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name));
        Pid::from_child(&running.child)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_log();
        }
        self.kill();
    }
}
