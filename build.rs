//! Compiles `proto/` (pure Rust, no system `protoc`) and passes the git revision on to `--version`.

#[path = "build/revision.rs"]
mod revision;

use std::{
    env, fs,
    path::{Path, PathBuf},
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

    println!("cargo:rustc-env={}={}", revision::VARIABLE, revision::of_this_build());
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
