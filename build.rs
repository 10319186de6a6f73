//! Compiles `proto/` with a compiler in pure Rust, without `protoc`, and passes the git revision to the program.

mod build_info;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Each with its own descriptors, because reflection must show only the service that is served.
    // Streams are many and long-lived, so `generic` has a codec with small buffers.
    for (name, codec) in [("generic", "super::Codec"), ("metadata_store", "tonic_prost::ProstCodec")] {
        let descriptors = protox::compile([format!("{name}.proto")], ["proto"])?;
        fs::write(out.join(name).with_extension("bin"), descriptors.encode_to_vec())?;
        tonic_prost_build::configure().codec_path(codec).compile_fds(descriptors)?;
    }
    compile_test_protocol(&out)?;

    println!("cargo:rustc-env={}={}", build_info::VARIABLE, build_info::revision());
    Ok(())
}

/// Compiles the calls with which tests write into a real ML Metadata server, for `tests/peers`. A source tree without
/// tests builds without them.
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
