//! Types generated from `proto/metadata_store.proto`. They do not leave this adapter.
#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("ml_metadata");
