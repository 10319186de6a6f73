//! Two servers, and two streams on one subscription: fault 8.
