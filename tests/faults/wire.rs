//! A wire between a subscriber and the server that fails in ways that TCP does not tell.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What the wire does with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Both,
    /// Nothing passes in either direction; both TCP connections stay open.
    Nothing,
    /// The client's side has ended, as the server sees it; what the server sends still passes.
    HalfClosed,
}

/// A wire for one connection. Both its ends close when it is dropped.
pub(crate) struct Wire {
    /// Where the client connects.
    pub(crate) address: SocketAddr,
    flow: watch::Sender<Flow>,
    task: JoinHandle<()>,
}

impl Wire {
    /// Takes one connection and joins it to the server.
    pub(crate) async fn to(server: SocketAddr) -> Self {
        Self::with_buffer(server, None).await
    }

    /// One whose end at the server takes little more than so many octets while nothing passes.
    pub(crate) async fn narrow(server: SocketAddr, octets: u32) -> Self {
        Self::with_buffer(server, Some(octets)).await
    }

    async fn with_buffer(server: SocketAddr, octets: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (flow, flows) = watch::channel(Flow::Both);
        let task = tokio::spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            if let Some(octets) = octets {
                socket.set_recv_buffer_size(octets).unwrap();
            }
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = socket.connect(server).await.unwrap().into_split();
            tokio::join!(requests(from_client, to_server, flows.clone()), answers(from_server, to_client, flows));
        });
        Self { address, flow, task }
    }

    /// From now on nothing passes, and nobody is told.
    pub(crate) fn swallow_everything(&self) {
        self.flow.send_replace(Flow::Nothing);
    }

    /// Ends the client's side of the connection to the server, and nothing else.
    pub(crate) fn half_close(&self) {
        self.flow.send_replace(Flow::HalfClosed);
    }

    /// Waits until the server has closed its side.
    pub(crate) async fn closed_by_server(&mut self) {
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn requests(from: OwnedReadHalf, mut to: OwnedWriteHalf, flows: watch::Receiver<Flow>) {
    let mut half_closed = flows.clone();
    tokio::select! {
        () = pass(from, &mut to, flows, |flow| flow == Flow::Both) => {}
        _ = half_closed.wait_for(|flow| *flow == Flow::HalfClosed) => {}
    }
    // The server may have gone first.
    let _closed = to.shutdown().await;
}

async fn answers(from: OwnedReadHalf, mut to: OwnedWriteHalf, flows: watch::Receiver<Flow>) {
    pass(from, &mut to, flows, |flow| flow != Flow::Nothing).await;
}

/// Passes octets on until either side has ended.
async fn pass(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut flows: watch::Receiver<Flow>,
    passes: fn(Flow) -> bool,
) {
    let mut octets = vec![0; 16 * 1024];
    loop {
        // The wire's owner holds the sender for as long as this runs.
        let Ok(_) = flows.wait_for(|flow| passes(*flow)).await else { return };
        let Ok(n @ 1..) = from.read(&mut octets).await else { return };
        // What came while it waited is held, too.
        let Ok(_) = flows.wait_for(|flow| passes(*flow)).await else { return };
        if to.write_all(&octets[..n]).await.is_err() {
            return;
        }
    }
}
