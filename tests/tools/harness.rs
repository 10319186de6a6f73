//! The program, run as a command.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

/// The deadline of a command on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

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
        for name in ["MODEL_UPDATE_SERVER", "MODEL_UPDATE_ADMIN", "MODEL_UPDATE_METADATA_STORE"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Self(command)
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
