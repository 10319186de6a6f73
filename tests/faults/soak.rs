//! Random faults for as long as one likes, from a seed: fault 10.
