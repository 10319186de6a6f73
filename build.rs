//! Compiles `proto/` with a compiler in pure Rust, without `protoc`, and passes the git revision to the program.

mod build_info;

use std::{env, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Each with its own descriptors, because reflection must show only the service that is served.
    // Streams are many and long-lived, so `generic` has a codec with small buffers.
    for (name, codec) in [
        ("generic", "super::Codec"),
        ("metadata_store", "tonic_prost::ProstCodec"),
        ("kfp_run", "tonic_prost::ProstCodec"),
    ] {
        let descriptors = protox::compile([format!("{name}.proto")], ["proto"])?;
        fs::write(out.join(name).with_extension("bin"), descriptors.encode_to_vec())?;
        tonic_prost_build::configure().codec_path(codec).compile_fds(descriptors)?;
    }

    println!("cargo:rustc-env={}={}", build_info::VARIABLE, build_info::revision());
    Ok(())
}
