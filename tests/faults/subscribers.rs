//! Subscribers die, freeze, vanish, or come again and again: fault 5.
