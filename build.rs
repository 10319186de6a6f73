//! Compiles `proto/` (pure Rust, no system `protoc`) and passes the git revision on to `--version`.

#[path = "build/revision.rs"]
mod revision;

use std::{env, fs, path::PathBuf};

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

    println!("cargo:rustc-env={}={}", revision::VARIABLE, revision::of_this_build());
    Ok(())
}
