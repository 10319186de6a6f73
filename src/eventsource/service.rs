//! Answers `StartEventSource`.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

use super::{
    config,
    link::{LinkInfo, StreamAccount},
    proto::{self, eventing_server::Eventing},
    refusals::Refusals,
    stream::{EventStream, Life, code_name, refusal_span, shutting_down},
};
use crate::{
    delivery::Deliveries,
    model::Subscription,
    telemetry::{
        Traces,
        metrics::{StreamMetrics, streams::ReasonLabel},
    },
};

/// How much of a refused EventSource's name is shown: it can be of any length, and contain anything.
const SHOWN_NAME: usize = 64;

/// See the module.
pub(super) struct Service {
    pub(super) deliveries: Deliveries,
    /// The namespaces that may be subscribed to; `None` for all.
    pub(super) namespaces: Option<Vec<Arc<str>>>,
    /// Whether the store has been filled once.
    pub(super) filled: watch::Receiver<bool>,
    pub(super) drain: CancellationToken,
    pub(super) metrics: StreamMetrics,
    pub(super) traces: Traces,
    pub(super) refusals: Mutex<Refusals>,
}

type Events = Pin<Box<dyn Stream<Item = Result<proto::Event, Status>> + Send>>;

#[tonic::async_trait]
impl Eventing for Service {
    type StartEventSourceStream = Events;

    async fn start_event_source(&self, request: Request<proto::EventSource>) -> Result<Response<Events>, Status> {
        let began = Instant::now();
        let link = request.extensions().get::<LinkInfo>().cloned();
        let peer = link.as_ref().and_then(LinkInfo::peer_addr);
        let account = link.and_then(|link| link.account(request.metadata().as_ref()));
        let event_source = request.into_inner();
        match self.admit(&event_source) {
            Ok(wanted) => {
                let life = Life::begin(
                    wanted.namespace.clone(),
                    wanted.name.to_string(),
                    self.metrics.clone(),
                    self.traces.clone(),
                );
                // Delivery logs it with what is pending, once the store is filled.
                debug!(
                    namespace = %wanted.namespace, subscription = %wanted.name,
                    peer = peer.map(tracing::field::display), "a stream begins"
                );
                if account.is_none() {
                    warn!(
                        namespace = %wanted.namespace, subscription = %wanted.name,
                        peer = peer.map(tracing::field::display),
                        "this connection gives no proof of what was read: its deliveries cannot be confirmed"
                    );
                }
                Ok(Response::new(self.events(wanted, peer, account, life)))
            }
            Err(status) => {
                self.refused(&event_source.name, peer, &status, began.elapsed());
                Err(status)
            }
        }
    }
}

impl Service {
    /// What is wanted, if it may be had.
    fn admit(&self, event_source: &proto::EventSource) -> Result<Subscription, Status> {
        if self.drain.is_cancelled() {
            return Err(shutting_down());
        }
        let wanted = config::parse(&event_source.name, &event_source.config)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(namespaces) = &self.namespaces
            && !namespaces.contains(&wanted.namespace)
        {
            return Err(Status::permission_denied(format!(
                "kfpNamespace: this server does not serve the namespace {:?}; ask for one of those in its flag \
                 --namespaces, or have this one added there",
                &*wanted.namespace
            )));
        }
        Ok(wanted)
    }

    /// Tells of a refusal: the metrics of each, the log and the traces of those that are news.
    fn refused(&self, event_source: &str, peer: Option<SocketAddr>, status: &Status, lasted: Duration) {
        let code = code_name(status.code());
        self.metrics.started();
        self.metrics.handled(code, lasted.as_secs_f64());
        self.metrics.refused.get_or_create(&ReasonLabel { reason: code }).inc();
        let is_news = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.is_news(peer.map(|peer| peer.ip()), event_source, status.message())
        };
        if is_news {
            let name: String = event_source.chars().take(SHOWN_NAME).collect();
            warn!(
                event_source = ?name, peer = peer.map(tracing::field::display), code,
                "refused a subscription (repetitions are logged every ten minutes): {}", status.message()
            );
            self.traces.record(refusal_span(&name, status.code(), lasted));
        }
    }

    /// The stream. Nothing is refused because the store is still being filled: Argo Events 1.9.4 to 1.9.9 hang for ever
    /// after three refusals.
    fn events(
        &self,
        wanted: Subscription,
        peer: Option<SocketAddr>,
        account: Option<StreamAccount>,
        mut life: Life,
    ) -> Events {
        let (deliveries, drain, mut filled) = (self.deliveries.clone(), self.drain.clone(), self.filled.clone());
        let attached = async move {
            tokio::select! {
                biased;
                () = drain.cancelled() => {
                    let status = life.ends(shutting_down());
                    return stream::once(async { Err(status) }).left_stream();
                }
                // An error means that the server is gone, and this stream soon with it.
                _ = filled.wait_for(|filled| *filled) => {}
            }
            let attached = deliveries.attach(wanted, peer, life.span());
            // The first error ends a stream.
            EventStream::new(attached, account, life).right_stream()
        };
        attached.into_stream().flatten().boxed()
    }
}
