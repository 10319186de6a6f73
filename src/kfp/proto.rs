//! Types generated from `proto/kfp_run.proto`. They do not leave this adapter.
#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("kubeflow.pipelines.backend.api.v2beta1");
