//! A subscriber that redials after every end of its stream, as Argo's EventSource does, only faster. Where there are
//! several servers it gets one or the other, as behind a Service.

use std::{sync::Arc, time::Duration};

use test_support::{GrpcGoClient, Line, Peers, model_location};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    chronicle::Chronicle,
    plan::{FaultKind, SUBSCRIBERS},
    runs::number_of,
    server::Door,
};

/// Argo's is 5 s.
const REDIAL: Duration = Duration::from_millis(250);
/// Longer than any soak: streams are quiet as long as they like.
const NEVER: Duration = Duration::from_secs(1_000_000);

/// What befalls it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blow {
    pub(crate) kind: FaultKind,
    pub(crate) lasts: Duration,
}

pub(crate) struct Subscriber {
    pub(crate) number: usize,
    pub(crate) config: String,
    pub(crate) doors: Vec<Arc<Door>>,
    pub(crate) chronicle: Arc<Chronicle>,
    pub(crate) blows: mpsc::Receiver<Blow>,
}

/// What `EventSource.config` this subscriber sends.
pub(crate) fn config(number: usize, namespaces: &[String]) -> String {
    let (namespace, subscription, pipelines) = SUBSCRIBERS[number];
    let pipelines = pipelines.map(|pattern| format!("pipelines: [\"{pattern}\"]\n")).unwrap_or_default();
    format!("kfpNamespace: {}\nsubscription: {subscription}\n{pipelines}", namespaces[namespace])
}

impl Subscriber {
    /// Dials and reads until it is told to stop.
    pub(crate) async fn run(mut self, peers: &Peers, stop: CancellationToken) {
        let mut ticks = interval(REDIAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dials = self.number;
        while !stop.is_cancelled() {
            ticks.tick().await;
            dials += 1;
            let open: Vec<_> = self.doors.iter().filter(|door| door.is_open()).collect();
            let Some(door) = open.get(dials % open.len().max(1)).map(|door| Arc::clone(door)) else { continue };
            let mut client = peers.grpc_go_client(door.address, &self.config).start();
            self.read(&mut client, &door, &stop).await;
        }
    }

    /// One stream, to its end.
    async fn read(&mut self, client: &mut GrpcGoClient, door: &Door, stop: &CancellationToken) {
        let mut stream = None;
        loop {
            tokio::select! {
                line = client.next(NEVER) => if !self.take(line, &mut stream, door) { return },
                Some(blow) = self.blows.recv() => {
                    if blow.kind == FaultKind::Killed {
                        self.kill(client, stream, door).await;
                        return self.chronicle.after(blow.lasts).await;
                    }
                    self.chronicle.note(|books, now| books.freezes(self.number, now));
                    client.pause();
                    self.chronicle.after(blow.lasts).await;
                    if blow.kind == FaultKind::PausedThenKilled {
                        self.kill(client, stream, door).await;
                        return self.chronicle.note(|books, now| books.thaws(self.number, now));
                    }
                    client.resume();
                    self.chronicle.note(|books, now| books.thaws(self.number, now));
                }
                () = stop.cancelled() => return self.kill(client, stream, door).await,
            }
        }
    }

    async fn kill(&self, client: &mut GrpcGoClient, mut stream: Option<usize>, door: &Door) {
        let at = self.chronicle.now();
        client.kill();
        // It said this while it lived.
        while self.take(client.next(NEVER).await, &mut stream, door) {}
        if let Some(stream) = stream {
            self.chronicle.note_at(at, |books, at| books.stream_ended(stream, at));
        }
    }

    /// Returns whether more is to come.
    fn take(&self, line: Option<Line>, stream: &mut Option<usize>, door: &Door) -> bool {
        let chronicle = &self.chronicle;
        match line {
            Some(Line::Open(_)) => *stream = Some(chronicle.note(|books, _| books.stream_began(door.life()))),
            Some(Line::Event { payload, .. }) => {
                let run = number_of(&model_location(&payload));
                let stream = stream.expect("the stream opens before its first event");
                chronicle.note(|books, now| books.received((self.number, run), stream, now));
            }
            Some(Line::Status { .. }) | None => {
                if let Some(stream) = *stream {
                    chronicle.note(|books, now| books.stream_ended(stream, now));
                }
                return false;
            }
        }
        true
    }
}
