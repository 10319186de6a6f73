//! Facts about the neighbours that the product relies on, and about the harness that starts them.

mod argo;
mod harness;
mod jaeger;
mod kubernetes;
mod metadata;
#[path = "../peers/mod.rs"]
mod peers;
mod subscriber;
