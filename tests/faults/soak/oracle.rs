//! The oracle of a soak. It records which subscriber received which event, on which stream of which server process, and
//! the faults meanwhile. From these records, and not from what the server reports, it decides which duplicates guarantee
//! G2 allows.

use std::{collections::BTreeMap, fmt, time::Duration};

/// Limit for the confirmation of an event by a subscriber that runs and keeps its stream: `--confirm-after` (1 s), and
/// the delay of a busy machine.
pub(crate) const CONFIRMED_WITHIN: Duration = Duration::from_secs(4);
/// Limit for the delay between the observer of a mark and another server that sees it, once the API server is back: its
/// watch pauses for 2 s at most and then lists everything.
pub(crate) const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// An event of a run for a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Delivery {
    /// Index into [`super::SUBSCRIBERS`].
    pub(crate) subscriber: usize,
    /// Number of the run.
    pub(crate) run: usize,
}

/// The recorded history of a soak. All times are since its start.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    streams: Vec<Stream>,
    processes: Vec<Process>,
    received: BTreeMap<Delivery, Vec<Arrival>>,
    marked: BTreeMap<Delivery, Duration>,
    /// When a subscriber was stopped.
    pauses: Vec<(usize, Span)>,
    /// When the API server was unreachable, or rejected the server's account.
    outages: Vec<Span>,
}

/// A period that may not have ended yet.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: Duration,
    end: Option<Duration>,
}

/// A stream of a subscriber.
#[derive(Debug)]
struct Stream {
    process: usize,
    ended: Option<Duration>,
}

/// A process of a server, from its start to its exit.
#[derive(Debug)]
struct Process {
    server: usize,
    exit: Option<Exit>,
}

#[derive(Clone, Copy, Debug)]
struct Exit {
    signal: StopSignal,
    signaled: Duration,
    exited: Duration,
}

/// A signal that ends a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopSignal {
    Kill,
    Term,
}

/// An event that a subscriber received.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    at: Duration,
    stream: usize,
}

/// Why an event may be delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Its stream ended before it could be confirmed.
    StreamEndedUnconfirmed,
    /// The server that had delivered it was killed before its mark was written.
    KilledBeforeMark,
    /// The server that had delivered it was shut down during an outage of the API server.
    ShutDownDuringOutage,
    /// The next stream was another replica's, which could not see the mark because of an outage of the API server.
    OtherReplicaDuringOutage,
}

/// The duplicates of a soak.
#[derive(Debug)]
pub(crate) struct Audit {
    /// Number of duplicates of each cause.
    pub(crate) explained: BTreeMap<Cause, usize>,
    pub(crate) unexplained: Vec<Delivery>,
}

impl Span {
    fn from(start: Duration) -> Self {
        Self { start, end: None }
    }

    fn intersects(&self, start: Duration, end: Duration) -> bool {
        self.start <= end && self.end.is_none_or(|own_end| own_end >= start)
    }

    /// Returns the duration of the intersection.
    fn overlap(&self, start: Duration, end: Duration) -> Duration {
        self.end.unwrap_or(end).min(end).saturating_sub(self.start.max(start))
    }
}

/// Recording.
impl Oracle {
    /// Records the start of a server and returns the number of its process.
    pub(crate) fn server_started(&mut self, server: usize) -> usize {
        self.processes.push(Process { server, exit: None });
        self.processes.len() - 1
    }

    /// Records the end of a process: when the signal was sent, and when the process had exited.
    pub(crate) fn server_stopped(&mut self, process: usize, signal: StopSignal, signaled: Duration, exited: Duration) {
        self.processes[process].exit = Some(Exit { signal, signaled, exited });
    }

    /// Records an accepted stream and returns its number.
    pub(crate) fn stream_opened(&mut self, process: usize) -> usize {
        self.streams.push(Stream { process, ended: None });
        self.streams.len() - 1
    }

    /// Records the end of a stream. A kill of the subscriber and the end that its output reports may both be recorded:
    /// the earlier one counts.
    pub(crate) fn stream_ended(&mut self, stream: usize, at: Duration) {
        let ended = &mut self.streams[stream].ended;
        *ended = Some(ended.map_or(at, |earlier| earlier.min(at)));
    }

    pub(crate) fn received(&mut self, delivery: Delivery, stream: usize, at: Duration) {
        self.received.entry(delivery).or_default().push(Arrival { at, stream });
    }

    /// Records that a delivery's mark was seen; only the first time counts.
    pub(crate) fn marked(&mut self, delivery: Delivery, at: Duration) {
        self.marked.entry(delivery).or_insert(at);
    }

    pub(crate) fn subscriber_paused(&mut self, subscriber: usize, at: Duration) {
        self.pauses.push((subscriber, Span::from(at)));
    }

    pub(crate) fn subscriber_resumed(&mut self, subscriber: usize, at: Duration) {
        let mut pauses = self.pauses.iter_mut().rev();
        let open = pauses.find(|(paused, span)| *paused == subscriber && span.end.is_none());
        open.expect("it was paused").1.end = Some(at);
    }

    pub(crate) fn outage_started(&mut self, at: Duration) {
        self.outages.push(Span::from(at));
    }

    pub(crate) fn outage_ended(&mut self, at: Duration) {
        self.outages.last_mut().expect("an outage").end = Some(at);
    }
}

/// Conclusions from the recorded history.
impl Oracle {
    pub(crate) fn is_delivered(&self, delivery: Delivery) -> bool {
        self.received.contains_key(&delivery)
    }

    pub(crate) fn is_marked(&self, delivery: Delivery) -> bool {
        self.marked.contains_key(&delivery)
    }

    /// Returns each received event with the number of its deliveries.
    pub(crate) fn deliveries(&self) -> impl Iterator<Item = (Delivery, usize)> {
        self.received.iter().map(|(delivery, arrivals)| (*delivery, arrivals.len()))
    }

    /// Returns the causes of the duplicates, and the duplicates without one.
    pub(crate) fn audit(&self) -> Audit {
        let mut audit = Audit { explained: BTreeMap::new(), unexplained: Vec::new() };
        for (delivery, arrivals) in &self.received {
            for pair in arrivals.windows(2) {
                match self.explain(*delivery, pair[0], pair[1]) {
                    Some(cause) => *audit.explained.entry(cause).or_default() += 1,
                    None => audit.unexplained.push(*delivery),
                }
            }
        }
        audit
    }

    fn explain(&self, delivery: Delivery, first: Arrival, second: Arrival) -> Option<Cause> {
        let stream = &self.streams[first.stream];
        let ended = stream.ended.filter(|_| first.stream != second.stream)?;
        if self.running_time(delivery.subscriber, first.at, ended) < CONFIRMED_WITHIN {
            return Some(Cause::StreamEndedUnconfirmed);
        }
        let marked = self.marked.get(&delivery).copied().unwrap_or(Duration::MAX);
        // When the mark, or what replaces it, becomes visible to other processes.
        let mut visible = marked;
        if let Some(exit) = self.processes[stream.process].exit.filter(|exit| exit.signaled <= second.at) {
            match exit.signal {
                StopSignal::Kill if marked >= exit.signaled => return Some(Cause::KilledBeforeMark),
                StopSignal::Kill => {}
                StopSignal::Term if marked < exit.exited => {}
                StopSignal::Term if self.has_outage(exit.signaled, exit.exited) => {
                    return Some(Cause::ShutDownDuringOutage);
                }
                // A shutdown writes all marks, so the mark was written before the exit.
                StopSignal::Term => visible = exit.exited,
            }
        }
        let other_process = self.streams[second.stream].process != stream.process;
        let unseen = visible.saturating_add(SEEN_WITHIN) > second.at;
        (other_process && unseen && self.has_outage(first.at, second.at)).then_some(Cause::OtherReplicaDuringOutage)
    }

    /// Returns how long a subscriber was not paused in this period.
    fn running_time(&self, subscriber: usize, start: Duration, end: Duration) -> Duration {
        let paused = self.pauses_of(subscriber).map(|span| span.overlap(start, end)).sum();
        end.saturating_sub(start).saturating_sub(paused)
    }

    fn pauses_of(&self, subscriber: usize) -> impl Iterator<Item = &Span> {
        self.pauses.iter().filter(move |(paused, _)| *paused == subscriber).map(|(_, span)| span)
    }

    fn has_outage(&self, start: Duration, end: Duration) -> bool {
        self.outages.iter().any(|span| span.intersects(start, end))
    }

    /// Returns everything that is known of a delivery, for the message of a failure.
    pub(crate) fn history(&self, delivery: Delivery) -> String {
        let mut lines = Vec::new();
        let mut line = |at: Duration, what: String| lines.push((at, what));
        let arrivals = self.received.get(&delivery).map_or(&[][..], Vec::as_slice);
        for &Arrival { at, stream } in arrivals {
            let Stream { process, ended } = self.streams[stream];
            line(
                at,
                format!("received on stream {stream} of process {process}, server {}", self.processes[process].server),
            );
            if let Some(ended) = ended {
                line(ended, format!("stream {stream} ended"));
            }
            if let Some(Exit { signal, signaled, exited }) = self.processes[process].exit {
                line(signaled, format!("process {process}: {signal:?}, exited at {exited:.3?}"));
            }
        }
        if let Some(at) = self.marked.get(&delivery) {
            line(*at, "the mark was seen".to_owned());
        }
        let (Some(first), Some(last)) = (arrivals.first(), arrivals.last()) else {
            return format!("{delivery:?}: never received; marked: {:?}", self.marked.get(&delivery));
        };
        let pauses = self.pauses_of(delivery.subscriber).map(|span| ("subscriber paused", span));
        let outages = self.outages.iter().map(|span| ("outage of the API server or of the permissions", span));
        for (what, span) in pauses.chain(outages).filter(|(_, span)| span.intersects(first.at, last.at)) {
            line(span.start, format!("{what}, until {:.3?}", span.end));
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
            Self::StreamEndedUnconfirmed => "a stream that ended unconfirmed",
            Self::KilledBeforeMark => "a server killed before its mark",
            Self::ShutDownDuringOutage => "a shutdown during an outage of the API server",
            Self::OtherReplicaDuringOutage => "another replica during an outage of the API server",
        })
    }
}

#[cfg(test)]
mod tests;
