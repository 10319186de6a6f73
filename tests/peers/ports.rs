//! Free ports of the loopback interface.

use std::{collections::BTreeSet, net::TcpListener, sync::Mutex};

/// Below the ports that the systems give to outgoing connections (Linux: from 32768), so that nothing takes the port of
/// a neighbour that a test has killed and is about to start again.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port that nobody listens on and that this process was not given before.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(RANGE);
        let free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free && GIVEN.lock().expect("nothing panics while it is held").insert(port) {
            return port;
        }
    }
}
