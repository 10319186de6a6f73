//! ML Metadata is down, slow, wrong or empty: fault 4.
