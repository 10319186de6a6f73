//! The clock jumps, ten thousand runs finish in a minute, a namespace comes late: fault 9.
