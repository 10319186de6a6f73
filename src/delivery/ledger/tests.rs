//! The promises of the ledger, one in each test. `harness` plays the driver, the store and time; `properties` runs random
//! inputs.

mod deliveries;
mod fairness;
mod harness;
mod lookups;
mod marks;
mod memory;
mod properties;
mod streams;
mod wall_clock;
