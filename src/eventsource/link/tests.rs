//! The parts put together: by hand, over a transport that misbehaves on purpose, and at random.

mod directions;
mod io;
mod properties;
mod transport;
mod wire;
mod world;
