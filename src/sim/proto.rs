//! What is generated from `proto/metadata_store.proto`. Nothing of it leaves this adapter.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::all)]

tonic::include_proto!("ml_metadata");
