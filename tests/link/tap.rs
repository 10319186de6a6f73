//! A wire between a client and the server that can be stalled and cut, and that remembers what the server sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Tap {
    pub(crate) addr: SocketAddr,
    flows: watch::Sender<bool>,
    sent: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Tap {
    /// Takes one connection and joins it to the server.
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let (flows, mut flowing) = watch::channel(true);
        let sent = Arc::new(Mutex::new(Vec::new()));
        let seen = sent.clone();
        let task = tokio::spawn(async move {
            let (client, _) = listener.accept().await.expect("a client");
            let server = TcpStream::connect(server).await.expect("the server is up");
            client.set_nodelay(true).expect("nodelay");
            server.set_nodelay(true).expect("nodelay");
            let (mut client_reads, mut client_writes) = client.into_split();
            let (mut server_reads, mut server_writes) = server.into_split();
            let requests = async {
                let _ = tokio::io::copy(&mut client_reads, &mut server_writes).await;
                let _ = server_writes.shutdown().await;
            };
            let responses = async {
                let mut octets = vec![0; 16 * 1024];
                loop {
                    flowing.wait_for(|flows| *flows).await.expect("the test goes on");
                    let Ok(n @ 1..) = server_reads.read(&mut octets).await else { break };
                    // Stalled while it waited: what has come by then is held here, too.
                    flowing.wait_for(|flows| *flows).await.expect("the test goes on");
                    seen.lock().expect("no panic").extend_from_slice(&octets[..n]);
                    if client_writes.write_all(&octets[..n]).await.is_err() {
                        break;
                    }
                }
            };
            tokio::join!(requests, responses);
        });
        Self { addr, flows, sent, task }
    }

    /// The client reads nothing more, though what it writes still passes.
    pub(crate) fn stall(&self) {
        self.flows.send_replace(false);
    }

    pub(crate) fn go_on(&self) {
        self.flows.send_replace(true);
    }

    /// Both connections end at once.
    pub(crate) fn cut(&self) {
        self.task.abort();
    }

    /// Holds what the server has sent to the rules of framing, and returns how many PINGs are in it.
    pub(crate) fn check(&self) -> usize {
        self.frames().into_iter().filter(|(kind, flags)| (*kind, flags & 1) == (6, 0)).count()
    }

    /// Whether the server has told the client to go away.
    pub(crate) fn saw_goaway(&self) -> bool {
        self.frames().into_iter().any(|(kind, _)| kind == 7)
    }

    /// Type and flags of every frame that the server has sent.
    fn frames(&self) -> Vec<(u8, u8)> {
        let sent = self.sent.lock().expect("no panic");
        let (mut rest, mut frames, mut block) = (&sent[..], Vec::new(), None);
        while let Some((head, tail)) = rest.split_first_chunk::<9>() {
            let [a, b, c, kind, flags, id @ ..] = *head;
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            let stream = u32::from_be_bytes(id);
            assert!(!frames.is_empty() || kind == 4, "SETTINGS come first");
            assert!(kind <= 9, "an unknown frame of type {kind}: the framing is lost");
            assert_eq!(block.is_some(), kind == 9, "a frame of type {kind} within a header block, or the reverse");
            assert!(kind != 6 || (len, stream) == (8, 0), "a malformed PING");
            if matches!(kind, 1 | 9) {
                block = (flags & 4 == 0).then_some(stream);
            }
            frames.push((kind, flags));
            let Some(tail) = tail.get(len..) else { break };
            rest = tail;
        }
        frames
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}
