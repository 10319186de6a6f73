//! Free ports of the loopback interface.

use std::{collections::BTreeSet, net::TcpListener, ops::Range, sync::Mutex};

/// Ports below those of outgoing connections (Linux: from 32768), so that no connection takes the port of a peer that a
/// test has killed and is about to restart.
const RANGE: Range<u16> = 20_000..32_000;

/// Returns a port without a listener that this process has not received before.
pub fn free_port() -> u16 {
    static RETURNED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(RANGE);
        let free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free && RETURNED.lock().expect("not poisoned").insert(port) {
            return port;
        }
    }
}
