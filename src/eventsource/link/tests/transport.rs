//! A connection that the test holds both ends of, and that takes and gives octets in whatever pieces it is told.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end, shared by the link and the test.
#[derive(Clone, Debug, Default)]
pub(super) struct Wire(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    /// What the peer sends and the link has not read.
    pub(super) incoming: VecDeque<u8>,
    pub(super) eof: bool,
    /// All that the link has written.
    pub(super) outgoing: Vec<u8>,
    /// How much of it has been flushed.
    pub(super) flushed: usize,
    pub(super) shut_down: bool,
    /// Takes nothing, as a socket whose buffer is full.
    pub(super) full: bool,
    pub(super) broken: bool,
    pub(super) vectored: bool,
    /// What each call in turn does, over and over: 0 is "come again", n moves at most n octets. Empty: as many as can be.
    pub(super) moods: Vec<u8>,
    calls: [usize; 3],
}

/// What is called, each with a count of its own, so that no two of them can get in step and hold each other up for ever.
#[derive(Clone, Copy)]
enum Call {
    Read,
    Write,
    Flush,
}

impl Wire {
    pub(super) fn new(moods: &[u8], vectored: bool) -> Self {
        let wire = Self::default();
        wire.state().moods = moods.to_vec();
        wire.state().vectored = vectored;
        wire
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    pub(super) fn send(&self, octets: &[u8]) {
        self.state().incoming.extend(octets);
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
    /// How many octets this call may move.
    fn mood(&mut self, call: Call, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let calls = &mut self.calls[call as usize];
        let Some(mood) = self.moods.get(*calls % self.moods.len().max(1)) else {
            return Poll::Ready(Ok(usize::MAX));
        };
        *calls += 1;
        match *mood {
            0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            most => Poll::Ready(Ok(most.into())),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        if state.incoming.is_empty() && !state.broken {
            return if state.eof { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let most = std::task::ready!(state.mood(Call::Read, cx))?;
        let n = most.min(buf.remaining()).min(state.incoming.len());
        let octets: Vec<u8> = state.incoming.drain(..n).collect();
        buf.put_slice(&octets);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
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
        let most = std::task::ready!(state.mood(Call::Write, cx))?;
        let before = state.outgoing.len();
        state.outgoing.extend(bufs.iter().flat_map(|buf| buf.iter()).take(most));
        Poll::Ready(Ok(state.outgoing.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        self.state().vectored
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        if state.flushed < state.outgoing.len() || state.broken {
            std::task::ready!(state.mood(Call::Flush, cx))?;
        }
        state.flushed = state.outgoing.len();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state().shut_down = true;
        Poll::Ready(Ok(()))
    }
}

/// A task that only remembers that it was woken.
#[derive(Debug, Default)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    pub(super) fn waker() -> (Arc<Self>, Waker) {
        let flag = Arc::<Self>::default();
        (flag.clone(), flag.into())
    }

    /// Whether it was woken since this was last asked.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
