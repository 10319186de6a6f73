//! The program, run as a command.

use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use test_support::{CATCH_UP, eventually};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// The deadline of a command on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A command line of the program.
#[derive(Debug)]
pub(crate) struct Tool(Command);

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit status.
    pub(crate) code: i32,
    /// The data.
    pub(crate) stdout: String,
    /// The words.
    pub(crate) stderr: String,
}

impl Tool {
    /// A command with this kubeconfig, without a terminal and without the environment's own addresses.
    pub(crate) fn new(kubeconfig: &Path, arguments: &[&str]) -> Self {
        Self::of(Path::new(env!("CARGO_BIN_EXE_model-update-eventsource")), kubeconfig, arguments)
    }

    /// The same with another name of the program.
    pub(crate) fn of(program: &Path, kubeconfig: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).env("KUBECONFIG", kubeconfig);
        let addresses = ["SERVER", "ADMIN", "METADATA_STORE", "KFP_API", "KFP_CA", "KFP_TOKEN_FILE", "ARTIFACTS"];
        for name in addresses.map(|name| format!("MODEL_UPDATE_{name}")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Self(command)
    }

    /// The command, for another way to run it.
    pub(crate) fn into_command(self) -> Command {
        self.0
    }

    /// Runs the command to its end.
    pub(crate) async fn run(mut self) -> Ran {
        let output = timeout(DEADLINE, self.0.output()).await;
        let output = output.unwrap_or_else(|_| panic!("no end in time: {:?}", self.0)).expect("it starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        let code = output.status.code().expect("an exit status");
        Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// A command that runs until it has seen enough.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Arc<Mutex<String>>,
}

impl Tool {
    /// Starts the command.
    pub(crate) fn start(mut self) -> Running {
        let mut child = self.0.spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let stderr = Arc::<Mutex<String>>::default();
        let words = stderr.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                words.lock().expect("no panic").push_str(&format!("{line}\n"));
            }
        });
        Running { child, stdout, stderr }
    }
}

impl Running {
    /// The words so far.
    pub(crate) fn words(&self) -> String {
        self.stderr.lock().expect("no panic").clone()
    }

    /// Waits for words on standard error, this number of times.
    pub(crate) async fn said(&self, words: &str, times: usize) {
        eventually(CATCH_UP, &format!("{words:?} {times} times"), async || {
            let said = self.words();
            if said.matches(words).count() >= times { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// Waits for the next line of data.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let line = timeout(CATCH_UP, self.stdout.next_line()).await;
        line.unwrap_or_else(|_| panic!("no line in time: {}", self.words())).expect("UTF-8")
    }

    /// Waits for the end and returns the exit status.
    pub(crate) async fn ended(&mut self) -> i32 {
        let status = timeout(DEADLINE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("no end in time: {}", self.words())).expect("it was started");
        status.code().expect("an exit status")
    }
}
