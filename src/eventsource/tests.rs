//! Tests of the whole server over real sockets.

mod access;
mod connections;
mod harness;
mod memory;
mod requests;
mod streams;
