//! Subscribers die, freeze, vanish, or come again and again: fault 5. What was not confirmed comes again, what was
//! confirmed does not, and others go on meanwhile: a steady subscriber is there in each of these, and misses nothing.
//!
//! The subscribers are grpc-go's, the library with which Argo dials, except where a fault needs what it does not do.
//! A stream that its client has half-closed is what each of them is: gRPC ends the client's side after the request.

mod silent;
mod sudden;

/// The subscription of the one that goes on.
const STEADY: &str = "steady";
