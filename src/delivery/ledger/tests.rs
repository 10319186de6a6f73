//! The promises of the ledger, one in each test. `harness` plays the driver, the store and time; `properties` runs random
//! inputs.

mod ahead;
mod attaching;
mod connection_age;
mod deleted;
mod deliveries;
mod fairness;
mod filtered;
mod flow;
mod guests;
mod harness;
mod latest;
mod lookups;
mod marks;
mod memory;
mod outcomes;
mod patches;
mod properties;
mod records;
mod retention;
mod streams;
mod wall_clock;
