//! The program under the name that makes it a plugin of kubectl.

use std::{os::unix::fs::symlink, path::Path};

use super::*;

/// No cluster is needed for help and usage errors.
#[tokio::test]
async fn kubectl_finds_it_as_modelupdate() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("kubectl-modelupdate");
    symlink(env!("CARGO_BIN_EXE_model-update-eventsource"), &plugin).unwrap();
    let none = Path::new("/nonexistent");
    let help = Tool::of(&plugin, none, &["health", "--help"]).run().await;
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("Usage: kubectl modelupdate health"), "{}", help.stdout);
    let wrong = Tool::of(&plugin, none, &["health", "--none"]).run().await;
    assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""));
    assert!(wrong.stderr.contains("Usage: kubectl modelupdate health"), "{}", wrong.stderr);
    let version = Tool::new(none, &["version"]).run().await;
    assert!(version.code == 0 && version.stdout.starts_with("model-update-eventsource "), "{version:?}");
}
