//! The books of a soak: who got what when, through which stream of which server, and what befell them meanwhile. From
//! these, and from nothing that the server says of itself, follows whether a duplicate is one that G2 lets pass.

use std::{collections::BTreeMap, fmt, time::Duration};

/// How long a subscriber that is awake and keeps its stream may take to confirm an event: `--confirm-after` (1 s), and
/// what a busy machine adds.
pub(crate) const CONFIRMED_WITHIN: Duration = Duration::from_secs(4);
/// How much later than the observer another server may hear of a mark, once the API server is back: its watch pauses
/// for 2 s at most, and reads the whole list.
pub(crate) const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// One event to one subscriber: the numbers of the subscriber and of the run.
pub(crate) type Delivery = (usize, usize);

/// All times are since the beginning of the soak.
#[derive(Debug, Default)]
pub(crate) struct Books {
    streams: Vec<Stream>,
    servers: Vec<Server>,
    received: BTreeMap<Delivery, Vec<Receipt>>,
    marked: BTreeMap<Delivery, Duration>,
    /// When a subscriber did not run.
    frozen: Vec<(usize, Span)>,
    /// When the API server could not be reached, or refused our account.
    troubles: Vec<Span>,
}

/// A time that has begun and may have ended.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Duration,
    to: Option<Duration>,
}

/// A stream of a subscriber.
#[derive(Debug)]
struct Stream {
    server: usize,
    ended: Option<Duration>,
}

/// One life of a server, from its start to its end.
#[derive(Debug)]
struct Server {
    number: usize,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
struct End {
    how: How,
    asked: Duration,
    gone: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Killed,
    Terminated,
}

#[derive(Clone, Copy, Debug)]
struct Receipt {
    at: Duration,
    stream: usize,
}

/// Why an event may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Its stream ended before it could be confirmed.
    BrokenUnconfirmed,
    /// The server that had delivered it was killed before its mark was written.
    KilledBeforeMark,
    /// The server that had delivered it was shut down while the API server took no marks.
    ShutDownWithoutApiServer,
    /// The next stream was another replica's, and the API server took no marks from which that could have known.
    OtherReplicaWithoutApiServer,
}

impl Span {
    fn contains_any_of(&self, from: Duration, to: Duration) -> bool {
        self.from <= to && self.to.is_none_or(|end| end >= from)
    }

    /// For how long both last.
    fn overlap(&self, from: Duration, to: Duration) -> Duration {
        self.to.unwrap_or(to).min(to).saturating_sub(self.from.max(from))
    }
}

impl Books {
    // === what happened ===

    /// A life of this server begins; its number is returned.
    pub(crate) fn server_started(&mut self, number: usize) -> usize {
        self.servers.push(Server { number, end: None });
        self.servers.len() - 1
    }

    /// It ended between these times.
    pub(crate) fn server_ended(&mut self, life: usize, how: How, asked: Duration, gone: Duration) {
        self.servers[life].end = Some(End { how, asked, gone });
    }

    /// A stream was accepted; its number is returned.
    pub(crate) fn stream_began(&mut self, server: usize) -> usize {
        self.streams.push(Stream { server, ended: None });
        self.streams.len() - 1
    }

    /// The earlier of two ends counts: of the subscriber's own, and of what it heard.
    pub(crate) fn stream_ended(&mut self, stream: usize, at: Duration) {
        let ended = &mut self.streams[stream].ended;
        *ended = Some(ended.map_or(at, |earlier| earlier.min(at)));
    }

    pub(crate) fn received(&mut self, delivery: Delivery, stream: usize, at: Duration) {
        self.received.entry(delivery).or_default().push(Receipt { at, stream });
    }

    /// The mark of a delivery was seen; only the first time counts.
    pub(crate) fn marked(&mut self, delivery: Delivery, at: Duration) {
        self.marked.entry(delivery).or_insert(at);
    }

    pub(crate) fn freezes(&mut self, subscriber: usize, at: Duration) {
        self.frozen.push((subscriber, Span { from: at, to: None }));
    }

    pub(crate) fn thaws(&mut self, subscriber: usize, at: Duration) {
        let open = self.frozen.iter_mut().rev().find(|(who, span)| *who == subscriber && span.to.is_none());
        open.expect("it was frozen").1.to = Some(at);
    }

    pub(crate) fn trouble_begins(&mut self, at: Duration) {
        self.troubles.push(Span { from: at, to: None });
    }

    pub(crate) fn trouble_ends(&mut self, at: Duration) {
        self.troubles.last_mut().expect("there was trouble").to = Some(at);
    }

    // === what follows ===

    pub(crate) fn has(&self, delivery: Delivery) -> bool {
        self.received.contains_key(&delivery)
    }

    pub(crate) fn is_marked(&self, delivery: Delivery) -> bool {
        self.marked.contains_key(&delivery)
    }

    /// Each event that came, and how often.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Delivery, usize)> {
        self.received.iter().map(|(delivery, receipts)| (*delivery, receipts.len()))
    }

    /// How many repetitions each cause explains, and the deliveries with one that nothing explains.
    pub(crate) fn audit(&self) -> (BTreeMap<Cause, usize>, Vec<Delivery>) {
        let (mut explained, mut unexplained) = (BTreeMap::new(), Vec::new());
        for (delivery, receipts) in &self.received {
            for pair in receipts.windows(2) {
                match self.explain(*delivery, pair[0], pair[1]) {
                    Some(cause) => *explained.entry(cause).or_default() += 1,
                    None => unexplained.push(*delivery),
                }
            }
        }
        (explained, unexplained)
    }

    fn explain(&self, delivery: Delivery, first: Receipt, second: Receipt) -> Option<Cause> {
        let stream = &self.streams[first.stream];
        let ended = stream.ended.filter(|_| first.stream != second.stream)?;
        if self.awake(delivery.0, first.at, ended) < CONFIRMED_WITHIN {
            return Some(Cause::BrokenUnconfirmed);
        }
        let marked = self.marked.get(&delivery).copied().unwrap_or(Duration::MAX);
        // When the others could begin to know.
        let mut told = marked;
        if let Some(end) = self.servers[stream.server].end.filter(|end| end.asked <= second.at) {
            match end.how {
                How::Killed if marked >= end.asked => return Some(Cause::KilledBeforeMark),
                How::Killed => {}
                How::Terminated if marked < end.gone => {}
                How::Terminated if self.trouble(end.asked, end.gone) => return Some(Cause::ShutDownWithoutApiServer),
                How::Terminated => told = end.gone,
            }
        }
        let other = self.streams[second.stream].server != stream.server;
        let unheard = told.saturating_add(HEARD_WITHIN) > second.at;
        (other && unheard && self.trouble(first.at, second.at)).then_some(Cause::OtherReplicaWithoutApiServer)
    }

    /// For how long the subscriber ran in this time.
    fn awake(&self, subscriber: usize, from: Duration, to: Duration) -> Duration {
        let frozen = self.frozen.iter().filter(|(who, _)| *who == subscriber);
        to.saturating_sub(from).saturating_sub(frozen.map(|(_, span)| span.overlap(from, to)).sum())
    }

    fn trouble(&self, from: Duration, to: Duration) -> bool {
        self.troubles.iter().any(|span| span.contains_any_of(from, to))
    }

    /// All that is known of one delivery, for whoever has to find out what went wrong.
    pub(crate) fn story(&self, delivery: Delivery) -> String {
        let mut lines = Vec::new();
        let mut line = |at: Duration, what: String| lines.push((at, what));
        let receipts = self.received.get(&delivery).map_or(&[][..], Vec::as_slice);
        for &Receipt { at, stream } in receipts {
            let Stream { server: life, ended } = self.streams[stream];
            line(at, format!("received on stream {stream} of life {life}, a server {}", self.servers[life].number));
            if let Some(ended) = ended {
                line(ended, format!("stream {stream} ended"));
            }
            if let Some(End { how, asked, gone }) = self.servers[life].end {
                line(asked, format!("life {life}: {how:?}, gone at {gone:.3?}"));
            }
        }
        if let Some(at) = self.marked.get(&delivery) {
            line(*at, "the mark was seen".to_owned());
        }
        let (Some(first), Some(last)) = (receipts.first(), receipts.last()) else {
            return format!("{delivery:?}: never received; marked: {:?}", self.marked.get(&delivery));
        };
        let frozen = self.frozen.iter().filter(|(who, _)| *who == delivery.0).map(|(_, span)| ("frozen", span));
        let troubles = self.troubles.iter().map(|span| ("no API server, or no rights", span));
        for (what, span) in frozen.chain(troubles).filter(|(_, span)| span.contains_any_of(first.at, last.at)) {
            line(span.from, format!("{what}, until {:.3?}", span.to));
        }
        lines.sort();
        lines.dedup();
        let lines: Vec<_> = lines.iter().map(|(at, what)| format!("  {at:.3?} {what}")).collect();
        format!("{delivery:?}:\n{}", lines.join("\n"))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BrokenUnconfirmed => "a stream that ended unconfirmed",
            Self::KilledBeforeMark => "a server killed before its mark",
            Self::ShutDownWithoutApiServer => "a shutdown while the API server was away",
            Self::OtherReplicaWithoutApiServer => "another replica while the API server was away",
        })
    }
}

#[cfg(test)]
mod tests;
