//! A transport of which the test holds both ends, and that injects faults.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end of the transport, shared by the link and the test.
#[derive(Clone, Debug, Default)]
pub(super) struct TestSocket(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    /// Bytes from the peer that the link has not read.
    pub(super) incoming: VecDeque<u8>,
    pub(super) eof: bool,
    /// All bytes that the link has written.
    pub(super) outgoing: Vec<u8>,
    /// The bytes of `outgoing` that were flushed.
    pub(super) flushed: usize,
    pub(super) shut_down: bool,
    /// Accepts no bytes, like a socket whose buffer is full.
    pub(super) full: bool,
    pub(super) broken: bool,
    pub(super) vectored: bool,
    /// The fault of each call, repeated from the start at the end. Empty: no call has a fault.
    pub(super) faults: Vec<Fault>,
    calls: [usize; 3],
}

/// The deviation of a call from transferring all bytes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Returns `Pending` and wakes the task at once.
    Pending,
    /// Transfers at most this many bytes.
    Short(usize),
}

/// The calls, each with a counter of its own, so that no two of them can alternate in a way that blocks both.
#[derive(Clone, Copy)]
enum Call {
    Read,
    Write,
    Flush,
}

impl TestSocket {
    pub(super) fn new(faults: &[Fault], vectored: bool) -> Self {
        let socket = Self::default();
        socket.state().faults = faults.to_vec();
        socket.state().vectored = vectored;
        socket
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    /// Sends bytes from the peer to the link.
    pub(super) fn send(&self, bytes: &[u8]) {
        self.state().incoming.extend(bytes);
    }

    pub(super) fn outgoing(&self) -> Vec<u8> {
        self.state().outgoing.clone()
    }

    pub(super) fn is_flushed(&self) -> bool {
        let state = self.state();
        state.flushed == state.outgoing.len()
    }
}

impl State {
    /// Injects the next fault of this call. Returns how many bytes it may transfer.
    fn inject(&mut self, call: Call, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let calls = &mut self.calls[call as usize];
        let Some(fault) = self.faults.get(*calls % self.faults.len().max(1)) else {
            return Poll::Ready(Ok(usize::MAX));
        };
        *calls += 1;
        match *fault {
            Fault::Pending => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Fault::Short(len) => Poll::Ready(Ok(len)),
        }
    }
}

impl AsyncRead for TestSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        if state.incoming.is_empty() && !state.broken {
            return if state.eof { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let limit = ready!(state.inject(Call::Read, cx))?;
        let len = limit.min(buf.remaining()).min(state.incoming.len());
        let bytes: Vec<u8> = state.incoming.drain(..len).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TestSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        if state.full {
            return Poll::Pending;
        }
        let limit = ready!(state.inject(Call::Write, cx))?;
        let before = state.outgoing.len();
        state.outgoing.extend(bufs.iter().flat_map(|buf| buf.iter()).take(limit));
        Poll::Ready(Ok(state.outgoing.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        self.state().vectored
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        if state.flushed < state.outgoing.len() || state.broken {
            ready!(state.inject(Call::Flush, cx))?;
        }
        state.flushed = state.outgoing.len();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state().shut_down = true;
        Poll::Ready(Ok(()))
    }
}

/// A waker that records that it was called.
#[derive(Debug, Default)]
pub(super) struct WakeFlag(AtomicBool);

impl WakeFlag {
    pub(super) fn waker() -> (Arc<Self>, Waker) {
        let flag = Arc::<Self>::default();
        (flag.clone(), flag.into())
    }

    /// Returns whether the waker was called since the last call of this function.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
