//! Compiles `proto/` (pure Rust, no system `protoc`) and passes the git revision on to `--version`.

use std::{env, path::PathBuf, process::Command};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(["generic.proto", "metadata_store.proto"], ["proto"])?;
    tonic_prost_build::configure().file_descriptor_set_path(out.join("descriptors.bin")).compile_fds(descriptors)?;

    // A source archive has no git folder: the revision is then what the environment says, or unknown.
    println!("cargo:rerun-if-env-changed=GIT_REVISION");
    println!("cargo:rerun-if-changed=.git/HEAD");
    let revision = env::var("GIT_REVISION").ok().or_else(git_revision);
    println!("cargo:rustc-env=GIT_REVISION={}", revision.as_deref().unwrap_or("unknown"));
    Ok(())
}

fn git_revision() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let revision = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| revision.trim().to_owned())
}
