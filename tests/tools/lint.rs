//! `lint`, as it is called. It needs no cluster.

use std::{fs, path::Path, process::Stdio, time::Instant};

use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{
    harness::{Ran, Tool},
    *,
};

const WRONG: &str = "\
apiVersion: argoproj.io/v1alpha1
kind: EventSource
metadata: {name: models, namespace: team}
spec:
  generic:
    model-update:
      insecure: false
      url: server.ns.svc:50051
      config: |
        kfpNamespace: team
        pipeline: penguin
";

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

async fn lint(arguments: &[&str]) -> Ran {
    Tool::new(Path::new("/nonexistent"), &[&["lint"], arguments].concat()).run().await
}

#[tokio::test]
async fn lint_prints_the_place_of_each_problem() {
    let folder = folder(&[("source.yaml", WRONG)]);
    let path = folder.path().join("source.yaml");
    let path = path.to_str().unwrap();
    let ran = lint(&[path]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "1 object in 1 file: 2 errors\n"));
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let begins = [format!("{path}:7:7: error: EventSource team/models: "), format!("{path}:11:9: error: ")];
    assert!(
        lines.len() == 2 && lines.iter().zip(&begins).all(|(line, begin)| line.starts_with(begin)),
        "{}",
        ran.stdout
    );
    assert!(lines[0].ends_with("[insecure]") && lines[1].contains("did you mean pipelines?"), "{}", ran.stdout);

    let json = lint(&[path, "-o", "json"]).await;
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, &report["success"], &report["errors"]), (1, &json!(false), &json!(2)));
    let finding = &report["findings"][1];
    assert_eq!(finding["rule"], "config-unknown-key");
    assert_eq!((&finding["line"], &finding["column"], &finding["file"]), (&json!(11), &json!(9), &json!(path)));

    let sarif = lint(&[path, "-o", "sarif"]).await;
    let log: Value = serde_json::from_str(&sarif.stdout).unwrap();
    assert_eq!((sarif.code, &log["version"]), (1, &json!("2.1.0")));
    let run = &log["runs"][0];
    let result = &run["results"][1];
    let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
    assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
    assert_eq!((&result["ruleId"], &result["level"]), (&json!("config-unknown-key"), &json!("error")));
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["region"], json!({"startLine": 11, "startColumn": 9}));
    assert!(place["artifactLocation"]["uri"].as_str().unwrap().starts_with("file:///"), "{place}");
}

#[tokio::test]
async fn lint_fails_on_warnings_only_when_strict() {
    let right = WRONG.replace("insecure: false", "insecure: true").replace("pipeline: penguin", "");
    let other = right.replace("name: models", "name: others");
    let folder = folder(&[("a.yaml", &right), ("b.yml", &other), ("sub/c.yaml", WRONG), ("sub/notes.txt", "{{")]);
    let path = folder.path().to_str().unwrap();
    let ran = lint(&[path]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "2 objects in 2 files: 1 warning\n"));
    assert!(
        ran.stdout.contains("b.yml:10:9: warning:") && ran.stdout.contains("[shared-subscription]"),
        "{}",
        ran.stdout
    );
    assert_eq!(lint(&[path, "--strict"]).await.code, 1);
    let all = lint(&["-R", path]).await;
    assert!(all.code == 1 && all.stderr.contains("3 files: 2 errors, 1 warning"), "{all:?}");
    let one = lint(&[&format!("{path}/a.yaml")]).await;
    assert_eq!((one.code, one.stdout.as_str(), one.stderr.as_str()), (0, "", "1 object in 1 file: no problems\n"));
}

#[tokio::test]
async fn lint_reads_standard_input() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-update-eventsource"));
    command.args(["lint", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    child.stdin.take().unwrap().write_all(WRONG.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && stdout.starts_with("<stdin>:7:7: error: "), "{stdout}");
}

#[tokio::test]
async fn lint_refuses_hostile_files_at_once() {
    let mut bomb = String::from("kind: Sensor\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let previous = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
    }
    let large = "kind: Sensor\n".repeat(10 * 1024 * 1024 / 13);
    let folder = folder(&[("bomb.yaml", &bomb), ("large.yaml", &large)]);
    let started = Instant::now();
    let ran = lint(&[folder.path().to_str().unwrap(), "/nonexistent.yaml"]).await;
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(ran.code, 1);
    for words in ["bomb.yaml:", "too many", "has more than 4 MiB", "/nonexistent.yaml: error: cannot be read"] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    assert_eq!(lint(&[]).await.code, 2);
    assert_eq!(lint(&["x.yaml", "-o", "xml"]).await.code, 2);
}
