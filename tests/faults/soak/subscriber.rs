//! A subscriber that redials after each end of its stream, as Argo's EventSource does, only faster. With several servers
//! it alternates between them, as behind a Service.

use std::{sync::Arc, time::Duration};

use test_support::{GrpcGoClient, Line, Peers, model_location};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    event_log::EventLog,
    oracle::Delivery,
    plan::{Fault, FaultKind, SUBSCRIBERS},
    runs::number_of,
    server::Endpoint,
};

/// Interval between two dials; Argo's is 5 s.
const REDIAL: Duration = Duration::from_millis(250);
/// Deadline of an output line: none, because a stream may be idle for the whole soak.
const NO_DEADLINE: Duration = Duration::from_secs(1_000_000);

pub(crate) struct RedialingSubscriber {
    pub(crate) number: usize,
    pub(crate) config: String,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) log: Arc<EventLog>,
    pub(crate) faults: mpsc::Receiver<Fault>,
}

/// Returns the `EventSource.config` of a subscriber.
pub(crate) fn config(subscriber: usize, namespaces: &[String]) -> String {
    let subscriber = &SUBSCRIBERS[subscriber];
    let pipelines = subscriber.pipelines.map(|pattern| format!("pipelines: [\"{pattern}\"]\n")).unwrap_or_default();
    let (namespace, subscription) = (&namespaces[subscriber.namespace], subscriber.subscription);
    format!("kfpNamespace: {namespace}\nsubscription: {subscription}\n{pipelines}")
}

impl RedialingSubscriber {
    /// Dials and reads until `stop` is canceled.
    pub(crate) async fn run(mut self, peers: &Peers, stop: CancellationToken) {
        let mut ticks = interval(REDIAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dials = self.number;
        while !stop.is_cancelled() {
            ticks.tick().await;
            dials += 1;
            let up: Vec<_> = self.endpoints.iter().filter(|endpoint| endpoint.is_up()).collect();
            let Some(endpoint) = up.get(dials % up.len().max(1)).map(|endpoint| Arc::clone(endpoint)) else { continue };
            let client = peers.grpc_go_client(endpoint.address, &self.config).start();
            let connection = Connection { client, endpoint, stream: None, subscriber: self.number, log: &self.log };
            connection.run(&mut self.faults, &stop).await;
        }
    }
}

/// A client process with its stream.
struct Connection<'a> {
    client: GrpcGoClient,
    endpoint: Arc<Endpoint>,
    /// Number of the stream, once the server has accepted it.
    stream: Option<usize>,
    subscriber: usize,
    log: &'a EventLog,
}

impl Connection<'_> {
    /// Reads to the end of the stream, or until a fault or `stop` ends the client.
    async fn run(mut self, faults: &mut mpsc::Receiver<Fault>, stop: &CancellationToken) {
        loop {
            tokio::select! {
                line = self.client.next(NO_DEADLINE) => if !self.handle(line) { return },
                Some(fault) = faults.recv() => {
                    if fault.kind == FaultKind::Killed {
                        self.kill().await;
                        return sleep(fault.duration).await;
                    }
                    self.log.record(|oracle, now| oracle.subscriber_paused(self.subscriber, now));
                    self.client.pause();
                    sleep(fault.duration).await;
                    let is_killed = fault.kind == FaultKind::PausedThenKilled;
                    if is_killed { self.kill().await } else { self.client.resume() }
                    self.log.record(|oracle, now| oracle.subscriber_resumed(self.subscriber, now));
                    if is_killed {
                        return;
                    }
                }
                () = stop.cancelled() => return self.kill().await,
            }
        }
    }

    async fn kill(&mut self) {
        let at = self.log.now();
        self.client.kill();
        // Lines that it wrote before.
        loop {
            let line = self.client.next(NO_DEADLINE).await;
            if !self.handle(line) {
                break;
            }
        }
        if let Some(stream) = self.stream {
            self.log.record(|oracle, _| oracle.stream_ended(stream, at));
        }
    }

    /// Records an output line; returns false after the end of the stream.
    fn handle(&mut self, line: Option<Line>) -> bool {
        match line {
            Some(Line::Open(_)) => {
                let process = self.endpoint.process();
                self.stream = Some(self.log.record(|oracle, _| oracle.stream_opened(process)));
            }
            Some(Line::Event { payload, .. }) => {
                let delivery = Delivery { subscriber: self.subscriber, run: number_of(&model_location(&payload)) };
                let stream = self.stream.expect("the stream is open before its first event");
                self.log.record(|oracle, now| oracle.received(delivery, stream, now));
            }
            Some(Line::Status { .. }) | None => {
                if let Some(stream) = self.stream {
                    self.log.record(|oracle, now| oracle.stream_ended(stream, now));
                }
                return false;
            }
        }
        true
    }
}
