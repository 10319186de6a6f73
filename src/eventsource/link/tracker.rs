//! The acknowledgements of one connection: the DATA bytes written on each stream, the totals whose acknowledgement is
//! expected, and the PING in flight. Synchronous and without I/O: the two directions report frames, and
//! [`Link`](super::Link) asks whether a PING is due.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

/// The minimum time from the start of one PING to the start of the next. Proxies and servers close connections that
/// send many.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(10);

/// The tracked streams of one connection. Twice as many as the server lets a peer open, because streams that hyper is
/// about to refuse are seen here first. A stream beyond the limit is not tracked.
pub(super) const MAX_STREAMS: usize = 2_048;

/// The expected totals of one stream: as many as the hand-offs that may be unacknowledged. Beyond the limit the newest
/// total replaces the one before it.
pub(super) const MAX_EXPECTED: usize = 256;

/// The payload of a PING.
pub(super) type PingPayload = [u8; 8];

/// The time at which the next PING may start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PingDue {
    /// No PING is needed, or one is in flight.
    No,
    /// One is needed, but the last one was started too recently.
    At(Instant),
    /// One is needed now.
    Now,
}

/// The largest payload of a usual frame from the peer. hyper reads a frame as a whole, and keeps the buffer.
pub(super) const USUAL_FRAME: u32 = 4 * 1024;

/// The resources that a connection occupies, as its frames show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Open streams. A stream is open from its HEADERS until its end is written to the connection, however long the
    /// peer takes to read. Streams that the link cannot follow count until the connection ends.
    pub streams: usize,
    /// The peer has begun a frame of more than 4 KiB. From then on, hyper's buffer is larger than usual.
    pub has_large_frames: bool,
}

/// Receives the usage of a connection after each change.
#[derive(Clone, Default)]
pub(super) struct UsageObserver(Option<Arc<dyn Fn(Usage) + Send + Sync>>);

impl UsageObserver {
    pub(super) fn new(observer: impl Fn(Usage) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observer)))
    }
}

impl fmt::Debug for UsageObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UsageObserver")
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AckTracker {
    /// Sorted by id, the order in which HTTP/2 opens streams.
    streams: Vec<Stream>,
    /// Streams that the peer has opened and that are not tracked. Their end is not noticed, so they count as open for
    /// as long as the connection.
    untracked: u32,
    /// The streams that the peer has opened since [`AckTracker::take_opened`].
    opened: u32,
    has_large_frames: bool,
    observer: UsageObserver,
    /// The PING whose acknowledgement is pending.
    ping: Option<Ping>,
    last_ping: Option<Instant>,
    /// The connection has ended, or does not follow HTTP/2.
    closed: bool,
}

#[derive(Debug)]
struct Ping {
    payload: PingPayload,
    /// Its last byte was written. An acknowledgement before that is forged.
    written: bool,
}

#[derive(Debug)]
struct Stream {
    id: u32,
    /// The DATA bytes of completely written frames.
    written: u64,
    /// `written` when the PING in flight was started: what its acknowledgement covers.
    pinged: u64,
    /// The server has ended the stream, so `written` is final.
    ended: bool,
    /// Present once a handler watches the stream's acknowledgements. Most streams have none.
    watcher: Option<Box<Watcher>>,
}

#[derive(Debug)]
struct Watcher {
    acked: watch::Sender<u64>,
    /// Totals whose acknowledgement is expected, ascending.
    expected: VecDeque<u64>,
}

impl Stream {
    /// Returns whether the acknowledgement of a PING would cover an expected total.
    fn needs_ping(&self) -> bool {
        self.watcher.as_ref().is_some_and(|watcher| {
            watcher.expected.front().is_some_and(|total| *total <= self.written) && !watcher.acked.is_closed()
        })
    }

    /// Returns whether the stream needs no tracking any more: the server has ended it, and no expected byte is
    /// unacknowledged.
    fn is_complete(&self) -> bool {
        self.ended && !self.needs_ping()
    }
}

impl AckTracker {
    /// Sets the observer of the connection's usage.
    pub(super) fn observe(&mut self, observer: UsageObserver) {
        self.observer = observer;
    }

    fn report(&self) {
        if let UsageObserver(Some(observer)) = &self.observer {
            let streams = self.streams.len() + usize::try_from(self.untracked).unwrap_or(usize::MAX);
            observer(Usage { streams, has_large_frames: self.has_large_frames });
        }
    }

    /// Handles the header of a frame from the peer whose payload has this length.
    pub(super) fn frame_begun(&mut self, bytes: u32) {
        if bytes > USUAL_FRAME && !self.has_large_frames {
            self.has_large_frames = true;
            self.report();
        }
    }

    /// Returns whether [`stream_opened`](Self::stream_opened) would track another stream.
    pub(super) fn has_room(&self) -> bool {
        !self.closed && self.streams.len() < MAX_STREAMS
    }

    /// Tracks a stream that the peer has opened. HTTP/2 requires ascending ids. A stream with a smaller one is ignored.
    pub(super) fn stream_opened(&mut self, id: u32) {
        if self.has_room() && self.streams.last().is_none_or(|last| last.id < id) {
            if self.streams.is_empty() {
                // Most connections have one stream. Without this, the first one takes the room of four.
                self.streams.reserve_exact(1);
            }
            self.streams.push(Stream { id, written: 0, pinged: 0, ended: false, watcher: None });
            self.opened += 1;
            self.report();
        }
    }

    /// Counts a stream that the peer has opened and that cannot be tracked.
    pub(super) fn stream_untracked(&mut self) {
        self.untracked = self.untracked.saturating_add(1);
        self.opened += 1;
        self.report();
    }

    /// Returns the number of streams that the peer has opened since the last call.
    pub(super) fn take_opened(&mut self) -> u32 {
        std::mem::take(&mut self.opened)
    }

    /// Counts a completely written DATA frame with a payload of this many bytes.
    pub(super) fn data_written(&mut self, id: u32, bytes: u32) {
        if let Some(stream) = self.stream(id) {
            stream.written += u64::from(bytes);
        }
    }

    /// Handles a completely written frame by which the server ends the stream. The stream stays tracked while expected
    /// bytes that precede this frame are unacknowledged.
    pub(super) fn end_written(&mut self, id: u32) {
        let Some(stream) = self.stream(id) else { return };
        stream.ended = true;
        let written = stream.written;
        if let Some(watcher) = &mut stream.watcher {
            watcher.expected.retain(|total| *total <= written);
        }
        self.remove_complete();
    }

    fn remove_complete(&mut self) {
        let before = self.streams.len();
        self.streams.retain(|stream| !stream.is_complete());
        if self.streams.len() != before {
            self.report();
        }
    }

    /// Handles a reset of the stream, by either side. Nothing more of it will be acknowledged.
    pub(super) fn stream_reset(&mut self, id: u32) {
        if let Ok(index) = self.position(id) {
            self.streams.remove(index);
            self.report();
        }
    }

    /// Handles the end of the connection, or a violation of HTTP/2: every receiver closes, and no stream is tracked any
    /// more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.streams = Vec::new();
    }

    /// A receiver of the stream's acknowledged bytes. `None` if the stream is not tracked or has ended.
    pub(super) fn watch(&mut self, id: u32) -> Option<watch::Receiver<u64>> {
        let stream = self.stream(id)?;
        let watcher = stream
            .watcher
            .get_or_insert_with(|| Box::new(Watcher { acked: watch::Sender::new(0), expected: VecDeque::new() }));
        Some(watcher.acked.subscribe())
    }

    /// Requests an acknowledgement of the stream's first `total` DATA bytes. Returns whether they are written already.
    /// The caller then wakes the connection's task, because no further write may occur that would send the PING.
    pub(super) fn expect(&mut self, id: u32, total: u64) -> bool {
        let Some(stream) = self.stream(id) else { return false };
        let (written, ended) = (stream.written, stream.ended);
        let Some(watcher) = &mut stream.watcher else { return false };
        let covered = watcher.expected.back().copied().unwrap_or_else(|| *watcher.acked.borrow());
        if total <= covered || (ended && total > written) {
            return false;
        }
        if watcher.expected.len() >= MAX_EXPECTED {
            watcher.expected.pop_back();
        }
        watcher.expected.push_back(total);
        stream.needs_ping()
    }

    /// Returns whether, and when, a PING is to be started.
    pub(super) fn ping_due(&self, now: Instant) -> PingDue {
        if self.ping.is_some() || !self.streams.iter().any(Stream::needs_ping) {
            return PingDue::No;
        }
        match self.last_ping.map(|last| last + PING_INTERVAL) {
            Some(at) if now < at => PingDue::At(at),
            _ => PingDue::Now,
        }
    }

    /// Handles the start of a PING with this payload: it is written before any further byte of hyper's.
    pub(super) fn ping_started(&mut self, now: Instant, payload: PingPayload) {
        self.last_ping = Some(now);
        self.ping = Some(Ping { payload, written: false });
        for stream in &mut self.streams {
            stream.pinged = stream.written;
        }
    }

    /// Handles the last byte of the PING.
    pub(super) fn ping_written(&mut self) {
        if let Some(ping) = &mut self.ping {
            ping.written = true;
        }
    }

    /// Handles the peer's acknowledgement of a PING with this payload. Returns whether it was the link's own PING. If
    /// so, every byte that was written when the PING was started is acknowledged.
    pub(super) fn ping_acked(&mut self, payload: PingPayload) -> bool {
        if !self.ping.as_ref().is_some_and(|ping| ping.written && ping.payload == payload) {
            return false;
        }
        self.ping = None;
        for stream in &mut self.streams {
            let pinged = stream.pinged;
            let Some(watcher) = &mut stream.watcher else { continue };
            let covered = watcher.expected.partition_point(|total| *total <= pinged);
            watcher.expected.drain(..covered);
            if watcher.expected.is_empty() {
                watcher.expected = VecDeque::new();
            }
            watcher.acked.send_if_modified(|acked| {
                let more = pinged > *acked;
                *acked = pinged.max(*acked);
                more
            });
        }
        self.remove_complete();
        true
    }

    fn position(&self, id: u32) -> Result<usize, usize> {
        self.streams.binary_search_by_key(&id, |stream| stream.id)
    }

    fn stream(&mut self, id: u32) -> Option<&mut Stream> {
        let index = self.position(id).ok()?;
        self.streams.get_mut(index)
    }
}

#[cfg(test)]
mod tests;
