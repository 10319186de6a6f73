//! Tests of completions without a cluster.

use super::*;

fn complete(words: &[&str]) -> String {
    let words = std::iter::once("x").chain(words.iter().copied()).map(OsString::from).collect();
    Line::of_kubectl(words).complete(super::super::Cli::command(), None)
}

#[test]
fn commands_flags_and_runbooks_are_completed() {
    assert!(complete(&["redel"]).starts_with("redeliver\t"), "{}", complete(&["redel"]));
    let flags = complete(&["explain", "--sub"]);
    assert!(flags.starts_with("--subscription\t") && flags.ends_with(":4\n"), "{flags}");
    assert_eq!(complete(&["runbook", "ModelUpdateLimit"]), "ModelUpdateLimitHit\n:4\n");
    assert!(complete(&["runbook", ""]).lines().count() == runbook_count() + 1, "{}", complete(&["runbook", ""]));
    assert_eq!(complete(&["man", "redel"]), "redeliver\n:4\n");
    assert_eq!(complete(&["explain", "-o", "ya"]).lines().next(), Some("yaml\tYAML"));
}

/// kubectl asks at least for an empty word; without any, there is nothing to complete.
#[test]
fn after_an_error_kubectl_gets_its_directive_only() {
    assert_eq!(complete(&[]), ":1\n");
    let line = Line::of_shell("fish", vec![OsString::from("x")], None);
    assert_eq!(line.complete(super::super::Cli::command(), None), "");
}

fn runbook_count() -> usize {
    crate::tools::runbooks::all().count()
}

#[test]
fn only_shells_and_kubectl_are_answered() {
    let requested = |program: &str, shell: Option<&str>, arguments: &[&str]| {
        requested(OsStr::new(program), shell.map(OsString::from), arguments.iter().map(OsString::from))
    };
    assert_eq!(requested("/x/model-update-eventsource", None, &["serve"]), None);
    assert_eq!(requested("/x/model-update-eventsource", Some(""), &["serve"]), None);
    assert!(requested("/x/model-update-eventsource", Some("fish"), &["--", "x", "serve"]).is_some());
    assert!(requested("/x/kubectl_complete-modelupdate", None, &["explain", ""]).is_some());
}

#[test]
fn scripts_name_the_program_as_it_was_called() {
    let script = |shell, program: &str| {
        String::from_utf8(script(shell, Path::new(program), Some(Path::new("/home"))).unwrap()).unwrap()
    };
    let bash = script(Shell::Bash, "model-update-eventsource");
    assert!(bash.contains("=bash 'model-update-eventsource' --"), "{bash}");
    let plugin = script(Shell::Bash, "bin/kubectl-modelupdate");
    assert!(plugin.contains("=bash '/home/bin/kubectl-modelupdate' --"), "{plugin}");
    assert!(plugin.ends_with("-F _kubectl_modelupdate 'kubectl-modelupdate'\n"), "{plugin}");
    for shell in [Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
        assert!(script(shell, "model-update-eventsource").contains(VARIABLE), "{shell}");
    }
}
