//! Tests of the parts and of whole connections, over a transport that injects faults.

mod directions;
mod harness;
mod http2;
mod io;
mod properties;
mod socket;
