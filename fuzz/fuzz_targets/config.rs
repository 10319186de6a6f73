//! `EventSource.config`: no input panics, and each is answered within a second with a message of bounded size.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use model_update_eventsource::eventsource::config::parse;

/// The time limit. A usual configuration takes less than a millisecond.
const LIMIT: Duration = Duration::from_secs(1);
/// Attempts, of which the fastest counts: on a busy machine, any may be interrupted.
const ATTEMPTS: usize = 5;

fn time(config: &[u8]) -> Duration {
    let start = Instant::now();
    drop(parse("event-source", config));
    start.elapsed()
}

fuzz_target!(|config: &[u8]| {
    let is_fast = (0..ATTEMPTS).any(|_| time(config) < LIMIT);
    assert!(is_fast, "{} bytes take longer than {LIMIT:?}", config.len());
    match parse("event-source", config) {
        Ok(subscription) => assert!(!subscription.namespace.is_empty() && !subscription.name.as_str().is_empty()),
        // The message is sent to the client.
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 2048, "{message}");
            assert!(!error.reason().is_empty());
        }
    }
});
