//! The promises of the ledger, one in each test. `harness` plays the driver, the store and time; `properties` runs random
//! inputs.

mod deleted;
mod deliveries;
mod fairness;
mod flow;
mod harness;
mod lookups;
mod marks;
mod memory;
mod patches;
mod properties;
mod retention;
mod streams;
mod wall_clock;
