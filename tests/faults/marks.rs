//! Patches are refused, and Workflows change under a delivery: fault 7.
