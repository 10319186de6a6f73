//! A child process with a folder, a log and signals, which never outlives the test binary.
//!
//! A process is killed when its [`ChildProcess`] is dropped. A test binary that is killed, or that has a process in a
//! static, drops nothing. So each process has a guard: a shell that reads from a pipe whose other end only the test
//! binary has open. At the end of that pipe the guard kills the process and removes its folder. (`PR_SET_PDEATHSIG` would
//! need unsafe code, and only Linux has it.) The process replaces the shell that starts the guard, so signals and the
//! exit status are its own.

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

use crate::eventually;

/// Starts the guard and becomes the program. `$1` is the folder, the rest is the command; `$$` in the guard is the
/// process id that `exec` keeps. A dying process may still write into the folder once: hence the second attempt to
/// remove it.
const START_WITH_GUARD: &str = r#"
folder=$1; shift
exec 3<&0
( read -r _ || {
    kill -KILL $$
    rm -rf "$folder" || { sleep 1; rm -rf "$folder"; }
} ) <&3 3<&- >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-
"#;

/// Lines of a log that are printed when a test fails.
const TAIL: usize = 150;

/// A process that can be started, ended and restarted with the same folder and log.
#[derive(Debug)]
pub struct ChildProcess {
    name: &'static str,
    program: PathBuf,
    args: Vec<OsString>,
    folder: TempDir,
    running: Option<Running>,
    /// Length of the log before the latest start.
    log_start: u64,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// The guard's pipe: a line ends the guard, the end of the pipe makes it kill the process.
    guard: ChildStdin,
}

impl ChildProcess {
    /// Returns a process that is not started yet, with a temporary folder.
    pub fn new(name: &'static str, program: PathBuf) -> Self {
        let folder = tempfile::Builder::new().prefix(&format!("test-{name}-")).tempdir().expect("a temporary folder");
        Self { name, program, args: Vec::new(), folder, running: None, log_start: 0 }
    }

    /// The folder of the process, removed with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sets the arguments of the next start.
    pub fn set_args(&mut self, args: impl IntoIterator<Item = impl Into<OsString>>) {
        self.args = args.into_iter().map(Into::into).collect();
    }

    /// Starts the process; stdout and stderr are appended to its log.
    pub fn start(&mut self) {
        let log = self.open_log();
        self.spawn(Stdio::from(log));
    }

    /// Starts the process and returns its stdout; stderr is appended to its log.
    pub fn start_piped(&mut self) -> ChildStdout {
        self.spawn(Stdio::piped());
        let running = self.running.as_mut().expect("just started");
        running.child.stdout.take().expect("stdout is a pipe")
    }

    fn spawn(&mut self, stdout: Stdio) {
        assert!(self.running.is_none(), "{} is running already", self.name);
        self.log_start = fs::metadata(self.log_path()).map_or(0, |log| log.len());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", START_WITH_GUARD, "sh"]).arg(self.folder()).arg(&self.program).args(&self.args);
        // A process group for each, so that an interrupt at the terminal reaches the test binary only.
        command.process_group(0).stdin(Stdio::piped()).stdout(stdout).stderr(self.open_log());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.name));
        let guard = child.stdin.take().expect("stdin is a pipe");
        self.running = Some(Running { child, guard });
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.log_path()).expect("the log can be written")
    }

    fn log_path(&self) -> PathBuf {
        self.folder().join("log")
    }

    /// The log since the latest start.
    pub fn log(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let start = usize::try_from(self.log_start).expect("a log that fits into memory").min(log.len());
        String::from_utf8_lossy(&log[start..]).into_owned()
    }

    /// Prints the tail of the log of all starts. Dropping the process in a failing test calls this.
    #[allow(clippy::print_stdout, reason = "the test runner shows what a failing test prints")]
    pub(crate) fn print_log(&self) {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        println!("--- {}: the last {} of {} log lines", self.name, tail.len(), lines.len());
        for line in tail {
            println!("{line}");
        }
        println!("--- {}: end of the log", self.name);
    }

    /// Returns whether the process has been started and not ended. A process that ended by itself is reaped.
    pub(crate) fn is_running(&mut self) -> bool {
        self.exit_status().is_none() && self.running.is_some()
    }

    /// Returns the exit status of a process that ended by itself, once.
    fn exit_status(&mut self) -> Option<ExitStatus> {
        let status = self.running.as_mut()?.child.try_wait().expect("it is a child of this process")?;
        self.release_guard();
        Some(status)
    }

    /// Waits until the process ends by itself and returns its exit status.
    ///
    /// # Panics
    /// If it runs longer than `deadline`, or was not running.
    pub async fn exited(&mut self, deadline: Duration) -> ExitStatus {
        assert!(self.running.is_some(), "{} is not running", self.name);
        eventually(deadline, &format!("the end of {}", self.name), async || self.exit_status()).await
    }

    /// Ends the guard of a reaped process: another process may soon have the same id.
    fn release_guard(&mut self) {
        if let Some(mut running) = self.running.take() {
            // The guard may have ended as well.
            let _written = running.guard.write_all(b"\n");
        }
    }

    /// Sends SIGKILL and reaps the process. Does nothing if it is not running.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.as_mut() {
            running.child.kill().expect("it is a child of this process");
            running.child.wait().expect("it is a child of this process");
            self.release_guard();
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGSTOP and waits until the process has stopped.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        waitid(WaitId::Pid(self.pid()), WaitIdOptions::STOPPED).expect("it is a child of this process");
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap_or_else(|error| panic!("{}: {signal:?}: {error}", self.name));
    }

    /// The process id.
    ///
    /// # Panics
    /// If it is not running.
    pub fn pid(&self) -> Pid {
        let running = self.running.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name));
        Pid::from_child(&running.child)
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_log();
        }
        self.kill();
    }
}
