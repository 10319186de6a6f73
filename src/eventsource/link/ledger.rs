//! The account book of one connection: how many DATA octets went out on each stream, which of them somebody wants
//! proven, and the one PING that may prove them. Synchronous and without I/O: the two directions report what they see,
//! [`Link`](super::Link) asks whether a PING is due.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The least time from the beginning of one PING to that of the next: proxies and servers end connections that send
/// many.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(10);

/// So many streams of one connection have an account at once, twice as many as the server lets a peer open: those that
/// hyper is about to refuse are seen here first. A stream beyond goes without.
pub(super) const MAX_STREAMS: usize = 2_048;

/// So many totals are remembered for a stream, as many hand-offs as may wait for their acknowledgement. Beyond it the
/// newest two become one.
pub(super) const MAX_WANTED: usize = 256;

/// The payload of a PING.
pub(super) type PingPayload = [u8; 8];

/// When a PING may be begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// There is nothing that one could prove, or one is under way.
    No,
    /// One is wanted, but the last is too recent.
    At(Instant),
    /// One is wanted now.
    Now,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// In the order of their ids, in which they are opened.
    streams: Vec<Stream>,
    /// The PING whose acknowledgement is awaited.
    ping: Option<Ping>,
    /// When the last PING was begun.
    begun: Option<Instant>,
    /// The connection has ended, or was never one that can be followed.
    over: bool,
}

#[derive(Debug)]
struct Ping {
    payload: PingPayload,
    /// Its last octet has been written. An acknowledgement before that is a forgery.
    written: bool,
}

#[derive(Debug)]
struct Stream {
    id: u32,
    /// DATA octets of frames that were written whole.
    octets: u64,
    /// `octets` when the outstanding PING was begun, which is what its acknowledgement proves.
    pinged: u64,
    /// Our side has ended the stream: `octets` is final.
    ended: bool,
    /// Present once somebody has asked for the account. Most streams of most connections have none.
    watcher: Option<Box<Watcher>>,
}

#[derive(Debug)]
struct Watcher {
    proven: watch::Sender<u64>,
    /// Totals that are to be proven and are not yet, ascending.
    wanted: VecDeque<u64>,
}

impl Stream {
    /// Whether a PING would prove something that is wanted.
    fn is_due(&self) -> bool {
        self.watcher.as_ref().is_some_and(|watcher| {
            watcher.wanted.front().is_some_and(|total| *total <= self.octets) && !watcher.proven.is_closed()
        })
    }

    /// Whether the entry serves no purpose any more: our side has ended the stream and no wanted octet is unproven.
    fn is_done(&self) -> bool {
        self.ended && !self.is_due()
    }
}

impl Ledger {
    /// Whether [`open`](Self::open) would be accepted.
    pub(super) fn has_room(&self) -> bool {
        !self.over && self.streams.len() < MAX_STREAMS
    }

    /// The peer has opened a stream. Ids ascend, as HTTP/2 demands; one that does not is left out.
    pub(super) fn open(&mut self, id: u32) {
        if self.has_room() && self.streams.last().is_none_or(|last| last.id < id) {
            self.streams.push(Stream { id, octets: 0, pinged: 0, ended: false, watcher: None });
        }
    }

    /// A DATA frame with this many octets of payload has been written whole.
    pub(super) fn data_written(&mut self, id: u32, octets: u32) {
        if let Some(stream) = self.stream(id) {
            stream.octets += u64::from(octets);
        }
    }

    /// The frame with which our side ends the stream has been written whole. What went out before it can still be
    /// proven, so the account stays for as long as something that is wanted may be; nothing can be added to it.
    pub(super) fn end_written(&mut self, id: u32) {
        let Some(stream) = self.stream(id) else { return };
        stream.ended = true;
        let octets = stream.octets;
        if let Some(watcher) = &mut stream.watcher {
            watcher.wanted.retain(|total| *total <= octets);
        }
        self.streams.retain(|stream| !stream.is_done());
    }

    /// The stream was reset, by either side: nothing of it that is not proven will ever be.
    pub(super) fn reset(&mut self, id: u32) {
        if let Ok(index) = self.position(id) {
            self.streams.remove(index);
        }
    }

    /// The connection has ended, or is none that can be followed: every account is closed, none is opened any more.
    pub(super) fn end(&mut self) {
        self.over = true;
        self.streams = Vec::new();
    }

    /// How many octets of a stream are proven, from now on. `None` where the stream has no account or has ended.
    pub(super) fn watch(&mut self, id: u32) -> Option<watch::Receiver<u64>> {
        let stream = self.stream(id)?;
        let watcher = stream
            .watcher
            .get_or_insert_with(|| Box::new(Watcher { proven: watch::Sender::new(0), wanted: VecDeque::new() }));
        Some(watcher.proven.subscribe())
    }

    /// Asks for proof that the stream's first `total` DATA octets were read. Returns whether they are written already,
    /// so that nothing else may come along to bring a PING about.
    pub(super) fn expect(&mut self, id: u32, total: u64) -> bool {
        let Some(stream) = self.stream(id) else { return false };
        let (octets, ended) = (stream.octets, stream.ended);
        let Some(watcher) = &mut stream.watcher else { return false };
        let known = watcher.wanted.back().copied().unwrap_or_else(|| *watcher.proven.borrow());
        if total <= known || (ended && total > octets) {
            return false;
        }
        if watcher.wanted.len() >= MAX_WANTED {
            watcher.wanted.pop_back();
        }
        watcher.wanted.push_back(total);
        stream.is_due()
    }

    /// Whether, and when, a PING is to be begun.
    pub(super) fn due(&self, now: Instant) -> Due {
        if self.ping.is_some() || !self.streams.iter().any(Stream::is_due) {
            return Due::No;
        }
        match self.begun.map(|begun| begun + PING_INTERVAL) {
            Some(at) if now < at => Due::At(at),
            _ => Due::Now,
        }
    }

    /// A PING with this payload is the next thing to be written, before any further octet of ours.
    pub(super) fn ping_begun(&mut self, now: Instant, payload: PingPayload) {
        self.begun = Some(now);
        self.ping = Some(Ping { payload, written: false });
        for stream in &mut self.streams {
            stream.pinged = stream.octets;
        }
    }

    /// The PING has been written whole.
    pub(super) fn ping_written(&mut self) {
        if let Some(ping) = &mut self.ping {
            ping.written = true;
        }
    }

    /// The peer has acknowledged a PING with this payload. Returns whether it was ours; if so, every octet that was
    /// counted when it was begun is proven to have been read.
    pub(super) fn acknowledged(&mut self, payload: PingPayload) -> bool {
        if !self.ping.as_ref().is_some_and(|ping| ping.written && ping.payload == payload) {
            return false;
        }
        self.ping = None;
        for stream in &mut self.streams {
            let pinged = stream.pinged;
            let Some(watcher) = &mut stream.watcher else { continue };
            let proven = watcher.wanted.partition_point(|total| *total <= pinged);
            watcher.wanted.drain(..proven);
            watcher.proven.send_if_modified(|proven| {
                let more = pinged > *proven;
                *proven = pinged.max(*proven);
                more
            });
        }
        self.streams.retain(|stream| !stream.is_done());
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
