//! Subscribers that die, freeze, become unreachable or reconnect continuously. Unconfirmed events are delivered again,
//! confirmed events are not. Each test has a steady subscriber beside them, which misses nothing.
//!
//! The subscribers use grpc-go, as Argo does, unless a fault needs what grpc-go cannot do. Half-closed streams need no
//! test: gRPC ends the client's side of every stream after the request.

mod disconnects;
mod unresponsive;

/// Subscription of the subscriber without faults.
const STEADY: &str = "steady";
