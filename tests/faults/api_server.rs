//! The API server dies, forgets, refuses or hangs: faults 1 to 3.
