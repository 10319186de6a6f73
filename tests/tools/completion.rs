//! Shell completion in real shells at a terminal, against a real API server.

use std::{env, path::Path};

use test_support::{NewWorkflow, PIPELINE};
use tokio::process::Command;

use super::{terminal::OnTerminal, *};

const PROGRAM: &str = env!("CARGO_BIN_EXE_model-update-eventsource");

/// A shell, the command line that starts it, and the lines after which `say` is completed as the program is. `say` prints the
/// words of a line.
type Shell = (&'static str, &'static [&'static str], &'static str);
const SHELLS: [Shell; 2] = [
    (
        "bash",
        &["--norc", "--noprofile", "-i"],
        "source <(\"$PROGRAM\" completion bash); complete -o bashdefault -o default -F _model_update_eventsource say\n\
         say() { printf '<%s>' said \"$@\"; }\n",
    ),
    (
        "zsh",
        &["-f", "-i"],
        "autoload -U compinit; compinit -u -D; source <($PROGRAM completion zsh); \
         compdef _clap_dynamic_completer_model_update_eventsource say\n\
         say() { printf '<%s>' said \"$@\"; }\n",
    ),
];

/// Returns whether this machine has a program.
fn has(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

fn command(program: &str, arguments: &[&str], kubeconfig: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env("KUBECONFIG", kubeconfig).env("PROGRAM", PROGRAM).env("TERM", "xterm");
    command
}

/// Bash is everywhere; other shells are tested where they are installed.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn names_of_the_cluster_are_completed_in_shells() {
    let cluster = Peers::find().await.cluster().await;
    let namespace = cluster.namespace("tab").await;
    let workflows = cluster.workflows(&namespace).await;
    let run = workflows.create(NewWorkflow::tfx_v1("run-tab", PIPELINE).phase("Succeeded")).await;
    let mark = "published.pipelines.kubeflow.org/deployer-tab";
    workflows.annotate("run-tab", mark, Some(&run.metadata.uid.expect("a UID"))).await;
    let kubeconfig = cluster.admin_kubeconfig_file();

    let lines = [
        ("explain -n tab-\t\n".to_owned(), format!("<said><explain><-n><{namespace}>")),
        (format!("explain -n {namespace} run-\t\n"), format!("<said><explain><-n><{namespace}><run-tab>")),
        (
            format!("redeliver --namespace={namespace} --subscription=dep\t\n"),
            format!("<said><redeliver><--namespace={namespace}><--subscription=deployer-tab>"),
        ),
        ("runbook ModelUpdateLimit\t\n".to_owned(), "<said><runbook><ModelUpdateLimitHit>".to_owned()),
    ];
    for (name, arguments, setup) in SHELLS.into_iter().filter(|(name, ..)| *name == "bash" || has(name)) {
        let mut shell = OnTerminal::start(command(name, arguments, &kubeconfig));
        shell.type_in(setup);
        shell.type_in("say ready\n");
        shell.shown("<said><ready>").await;
        for (line, expected) in &lines {
            shell.type_in(&format!("say {line}"));
            shell.shown(expected).await;
        }
    }
    if has("fish") {
        let script = format!("$PROGRAM completion fish | source; complete -C \"$PROGRAM explain -n {namespace} run-\"");
        let output = command("fish", &["--no-config", "-c", &script], &kubeconfig).output().await.expect("it starts");
        let found = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(found.trim_end(), "run-tab", "{}", String::from_utf8_lossy(&output.stderr));
    }

    // As kubectl calls its plugin's completions; without the right to read anything, there are none, and no words.
    let folder = tempfile::tempdir().expect("a folder");
    let plugin = folder.path().join("kubectl_complete-modelupdate");
    std::os::unix::fs::symlink(PROGRAM, &plugin).expect("the folder is writable");
    let found = Tool::of(&plugin, &kubeconfig, &["explain", "-n", &namespace, "run-"]).run().await;
    assert_eq!((found.code, &*found.stdout, &*found.stderr), (0, "run-tab\n:4\n", ""));
    let account = cluster.service_account(&namespace, "nobody").await;
    let user = account.user();
    let none = Tool::of(&plugin, &kubeconfig, &["explain", "-n", &namespace, "--as", &user, "run-"]).run().await;
    assert_eq!((none.code, &*none.stdout, &*none.stderr), (0, ":0\n", ""));
    let unreachable = Tool::of(&plugin, Path::new("/none"), &["redeliver", "run-"]).run().await;
    assert_eq!((unreachable.code, &*unreachable.stdout, &*unreachable.stderr), (0, ":0\n", ""));
    let failed = Tool::of(&plugin, &kubeconfig, &[]).run().await;
    assert_eq!((failed.code, &*failed.stdout, &*failed.stderr), (0, ":1\n", ""), "the directive of an error");
}
