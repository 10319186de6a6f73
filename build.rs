//! Compiles `proto/` (pure Rust, no system `protoc`) and passes the git revision on to `--version`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // One set of descriptors each: reflection is to show what is served, and nothing else.
    // Streams live long and are many, calls are short and few: whoever includes the former brings a `Codec` for them.
    for (name, codec) in [("generic", "super::Codec"), ("metadata_store", "tonic_prost::ProstCodec")] {
        let descriptors = protox::compile([format!("{name}.proto")], ["proto"])?;
        fs::write(out.join(name).with_extension("bin"), descriptors.encode_to_vec())?;
        tonic_prost_build::configure().codec_path(codec).compile_fds(descriptors)?;
    }
    compile_test_protocol(&out)?;

    // A source archive has no git folder: the revision is then what the environment says, or unknown.
    println!("cargo:rerun-if-env-changed=GIT_REVISION");
    // HEAD names the branch; its log grows with whatever moves it. In a worktree neither is under .git.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file])
            && PathBuf::from(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let revision = env::var("GIT_REVISION").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!("cargo:rustc-env=GIT_REVISION={}", revision.as_deref().unwrap_or("unknown"));
    Ok(())
}

/// The tests write runs into a real ML Metadata store through calls that the product does not have. What is generated
/// for them lies apart, for `tests/peers` to include; a source tree without tests builds without it.
fn compile_test_protocol(out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let source = Path::new("tests/peers/proto");
    if !source.is_dir() {
        return Ok(());
    }
    println!("cargo:rerun-if-changed={}", source.display());
    let target = out.join("peers");
    fs::create_dir_all(&target)?;
    let descriptors = protox::compile(["metadata_store_write.proto"], [source])?;
    tonic_prost_build::configure().build_server(false).out_dir(target).compile_fds(descriptors)?;
    Ok(())
}

/// The answer of a git command, where there is git and this is a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| answer.trim().to_owned())
}
