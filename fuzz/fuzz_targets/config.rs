//! `EventSource.config`: no input panics, and each is answered within a second with a message of bounded size.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use model_update_eventsource::eventsource::config::parse;

fuzz_target!(|config: &[u8]| {
    let start = Instant::now();
    let parsed = parse("event-source", config);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?} for {} bytes", config.len());
    match parsed {
        Ok(subscription) => assert!(!subscription.namespace.is_empty() && !subscription.name.as_str().is_empty()),
        // An error is sent to the client, so its size is bounded.
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 2048, "{message}");
            assert!(!error.reason().is_empty());
        }
    }
});
