//! Facts about the peers that the product relies on, and tests of the test support that starts them.

mod argo;
mod harness;
mod jaeger;
mod kubernetes;
mod subscriber;
