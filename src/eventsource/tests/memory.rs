//! The memory of a connected subscriber, in allocated bytes, which do not depend on the machine.

use allocation_counter::measure;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime,
};

use super::harness::*;
use crate::{delivery::fake::FakeStream, eventsource::Limits};

/// Subscribers, each with a connection and a namespace.
const SUBSCRIBERS: usize = 100;
/// The frame types DATA and HEADERS, and the flag of the last frame of a stream.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// Connects a subscriber, and returns it once the server has answered. The client itself allocates a registered socket.
async fn subscribe(server: &mut TestServer, namespace: &str) -> (RawClient, FakeStream) {
    let mut client = RawClient::connect(server).await;
    let request =
        [headers(1, "/generic.Eventing/StartEventSource"), frame(DATA, END_STREAM, 1, &message(namespace, 0))];
    client.0.write_all(&request.concat()).await.unwrap();
    let stream = in_time(server.delivery.attached()).await;
    loop {
        let mut header = [0; 9];
        in_time(client.0.read_exact(&mut header)).await.unwrap();
        let len = usize::from(u16::from_be_bytes([header[1], header[2]]));
        in_time(client.0.read_exact(&mut vec![0; len])).await.unwrap();
        if header[3] == HEADERS {
            return (client, stream);
        }
    }
}

/// The state in delivery has a test of its own. 40,082 bytes were measured, of which 28.7 KB are the three buffers of
/// h2: an idle connection uses their first bytes. The limit is about 10 % above that, so that other versions of
/// compiler, h2, hyper and tonic pass. A change that needs more raises the limit, with the reason in the commit.
#[test]
fn an_idle_subscriber_takes_a_limited_number_of_bytes() {
    // Allocations are counted by thread.
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut server = runtime.block_on(TestServer::start(Limits::default()));
    let mut connected = Vec::with_capacity(1 + SUBSCRIBERS);
    connected.push(runtime.block_on(subscribe(&mut server, "first")));
    let memory = measure(|| {
        for number in 0..SUBSCRIBERS {
            connected.push(runtime.block_on(subscribe(&mut server, &format!("team-{number}"))));
        }
    });
    let each = memory.bytes_current / SUBSCRIBERS as i64;
    assert!((30_000..=44_000).contains(&each), "each subscriber takes {each} B");
}
