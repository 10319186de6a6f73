//! A TCP proxy for one connection, which pauses, half-closes and cuts it, and records what the server sends.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// The directions in which the proxy forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Both,
    /// Nothing; both TCP connections stay open.
    Nothing,
    /// Only what the client sends; both TCP connections stay open.
    Requests,
    /// Only what the server sends; the server sees the end of the client's side.
    Responses,
}

/// A proxy between a client and a server. Both connections end when it is dropped.
#[derive(Debug)]
pub struct TcpProxy {
    /// Address for the client.
    pub address: SocketAddr,
    flow: watch::Sender<Flow>,
    sent: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl TcpProxy {
    /// Starts a proxy that accepts one connection and connects it to the server.
    pub async fn start(server: SocketAddr) -> Self {
        Self::with_receive_buffer(server, None).await
    }

    /// Starts a proxy that receives little more than this number of bytes from the server while it is paused.
    pub async fn with_small_buffer(server: SocketAddr, bytes: u32) -> Self {
        Self::with_receive_buffer(server, Some(bytes)).await
    }

    async fn with_receive_buffer(server: SocketAddr, bytes: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (flow, flows) = watch::channel(Flow::Both);
        let sent = Arc::new(Mutex::new(Vec::new()));
        let record = sent.clone();
        let task = tokio::spawn(async move {
            let (client, _) = listener.accept().await.expect("a client");
            let socket = TcpSocket::new_v4().expect("a socket");
            if let Some(bytes) = bytes {
                socket.set_recv_buffer_size(bytes).expect("a socket option");
            }
            let server = socket.connect(server).await.expect("the server listens");
            for stream in [&client, &server] {
                stream.set_nodelay(true).expect("a socket option");
            }
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::join!(
                forward_requests(from_client, to_server, flows.clone()),
                forward_responses(from_server, to_client, flows, &record)
            );
        });
        Self { address, flow, sent, task }
    }

    /// Forwards nothing from now on. Neither side notices.
    pub fn pause(&self) {
        self.flow.send_replace(Flow::Nothing);
    }

    /// Forwards nothing to the client from now on. Neither side notices.
    pub fn pause_responses(&self) {
        self.flow.send_replace(Flow::Requests);
    }

    /// Forwards everything again.
    pub fn resume(&self) {
        self.flow.send_replace(Flow::Both);
    }

    /// Ends the client's side of the connection to the server, and nothing else.
    pub fn half_close(&self) {
        self.flow.send_replace(Flow::Responses);
    }

    /// Ends both connections at once.
    pub fn cut(&self) {
        self.task.abort();
    }

    /// Waits until both sides have ended their connection.
    pub async fn closed(&mut self) {
        (&mut self.task).await.expect("the proxy does not panic");
    }

    /// Returns what the server has sent.
    pub fn sent_by_server(&self) -> Vec<u8> {
        self.sent.lock().expect("not poisoned").clone()
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward_requests(from: OwnedReadHalf, mut to: OwnedWriteHalf, flows: watch::Receiver<Flow>) {
    let mut half_closed = flows.clone();
    tokio::select! {
        () = forward(from, &mut to, flows, |flow| matches!(flow, Flow::Both | Flow::Requests), None) => {}
        _ = half_closed.wait_for(|flow| *flow == Flow::Responses) => {}
    }
    // The server may have closed the connection before.
    let _closed = to.shutdown().await;
}

async fn forward_responses(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    flows: watch::Receiver<Flow>,
    record: &Mutex<Vec<u8>>,
) {
    forward(from, &mut to, flows, |flow| matches!(flow, Flow::Both | Flow::Responses), Some(record)).await;
}

/// Forwards bytes until either side has ended.
async fn forward(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut flows: watch::Receiver<Flow>,
    passes: fn(Flow) -> bool,
    record: Option<&Mutex<Vec<u8>>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        // An error means that the proxy was dropped.
        let Ok(_) = flows.wait_for(|flow| passes(*flow)).await else { return };
        let Ok(n @ 1..) = from.read(&mut buffer).await else { return };
        // A pause during the read also applies to these bytes.
        let Ok(_) = flows.wait_for(|flow| passes(*flow)).await else { return };
        if let Some(record) = record {
            record.lock().expect("not poisoned").extend_from_slice(&buffer[..n]);
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
