//! The server is killed at every step of a delivery: fault 6.
