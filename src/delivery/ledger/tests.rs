//! What the ledger promises, one promise a test. `bench` plays the world around it by hand and by a clock of its own;
//! `properties` lets chance play it.

mod bench;
mod clock;
mod deliveries;
mod fairness;
mod lookups;
mod marks;
mod memory;
mod properties;
mod streams;
