//! Compiles the protocols that tests speak themselves: both sides of Argo Events' generic EventSource, the server's side
//! of Kubeflow's API, and the calls that write to ML Metadata, which the product does not have.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (folder, name, servers) in [
        ("../../proto", "generic.proto", true),
        ("../../proto", "kfp_run.proto", true),
        ("proto", "metadata_store_write.proto", false),
    ] {
        println!("cargo:rerun-if-changed={folder}/{name}");
        tonic_prost_build::configure().build_server(servers).compile_fds(protox::compile([name], [folder])?)?;
    }
    Ok(())
}
