//! The commands of the documentation, run by a shell with kubectl and Helm, as users run them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use super::Peers;

/// Deadline of a command on a busy machine.
const COMMAND: Duration = Duration::from_secs(60);

/// Files of the repository to which the commands refer.
const FILES: [&str; 4] = ["README.md", "helm", "examples", "sidecar"];

/// A shell in a folder of its own, in which the repository's folders appear as in a clone.
#[derive(Debug)]
pub struct Shell {
    folder: TempDir,
    programs: TempDir,
    kubeconfig: PathBuf,
}

/// The output of a command.
#[derive(Clone, Debug)]
pub struct Printed {
    /// True if its exit status was 0.
    pub is_success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Peers {
    /// Returns a shell with these programs on its path, for this cluster.
    ///
    /// # Panics
    /// If [`Peers::with`] was called without one of these names.
    pub fn shell(&self, kubeconfig: &Path, programs: &[&str]) -> Shell {
        let shell = Shell {
            folder: tempfile::tempdir().expect("a temporary folder"),
            programs: tempfile::tempdir().expect("a temporary folder"),
            kubeconfig: kubeconfig.to_owned(),
        };
        for name in programs {
            symlink(self.program(name), shell.programs.path().join(name)).expect("the folder is writable");
        }
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for name in FILES {
            let path = fs::canonicalize(repository.join(name)).expect("a file of the repository");
            symlink(path, shell.folder.path().join(name)).expect("the folder is writable");
        }
        shell
    }
}

impl Shell {
    /// The folder in which commands run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command, and prints it with its output.
    ///
    /// # Panics
    /// If it does not end in time.
    #[allow(clippy::print_stdout, reason = "a transcript, which the test runner shows of failing tests, or on request")]
    pub async fn run(&self, command: &str) -> Printed {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("sh")
            .args(["-c", command])
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PATH", format!("{}:{path}", self.programs.path().display()))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(COMMAND, output).await.unwrap_or_else(|_| panic!("no end in time: {command}"));
        let output = output.expect("sh can be started");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let is_success = output.status.success();
        let printed = Printed { is_success, stdout: text(output.stdout), stderr: text(output.stderr) };
        println!("$ {command}\n{}{}", printed.stdout, printed.stderr);
        printed
    }

    /// Installs the kinds of Argo Events from this folder ([`Peers::argo_crds`]).
    ///
    /// # Panics
    /// If a command fails.
    pub async fn install_argo_events(&self, crds: &Path) {
        self.succeeds(&format!("kubectl create -k {}", crds.display())).await;
        for kind in ["eventbus", "eventsources", "sensors"] {
            self.succeeds(&format!("kubectl wait --for=condition=Established crd/{kind}.argoproj.io")).await;
        }
    }

    /// Runs a command that succeeds, and returns its standard output.
    ///
    /// # Panics
    /// If it fails.
    pub async fn succeeds(&self, command: &str) -> String {
        let printed = self.run(command).await;
        assert!(printed.is_success, "{command}: {}{}", printed.stdout, printed.stderr);
        printed.stdout
    }
}

/// Returns the code blocks of this language in a page, without their indentation.
pub fn code_blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}");
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for line in page.lines() {
        let text = line.trim_start();
        match &mut open {
            Some(_) if text == "```" => blocks.extend(open.take().map(|(_, block)| block)),
            Some((indent, block)) => {
                *block += line.get(*indent..).unwrap_or(text);
                block.push('\n');
            }
            None if text == fence => open = Some((line.len() - text.len(), String::new())),
            None => {}
        }
    }
    blocks
}

/// Returns the commands of a page: each line of its `sh` blocks, with those that continue it.
pub fn documented_commands(page: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut command = String::new();
    for line in code_blocks(page, "sh").iter().flat_map(|block| block.lines()) {
        command += line;
        if line.ends_with(['\\', '|']) {
            command.push('\n');
        } else if !command.trim().is_empty() {
            commands.push(std::mem::take(&mut command));
        }
    }
    commands
}
