//! The method `StartEventSource`: accepts or refuses a subscription.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::warn;

use super::{
    admission::CallPermit,
    config,
    link::{LinkInfo, StreamAcks},
    metrics::StreamMetrics,
    permission::{self, Permission},
    proto::{self, eventing_server::Eventing},
    proxies::{Proxies, ProxyHeader},
    refusals::Refusals,
    status,
    stream::{EventStream, StreamGuard},
};
use crate::{
    access::{Access, Grant, Token},
    delivery::Deliveries,
    model::Subscription,
    store::Store,
    telemetry::Traces,
};

/// See the module.
pub(super) struct Service {
    pub(super) deliveries: Deliveries,
    pub(super) store: Arc<Store>,
    /// The namespaces that may be subscribed to; `None` for all.
    pub(super) namespaces: Option<Vec<Arc<str>>>,
    pub(super) access: Access,
    pub(super) drain: CancellationToken,
    pub(super) metrics: StreamMetrics,
    pub(super) traces: Traces,
    pub(super) refusals: Arc<Refusals>,
    pub(super) proxies: Proxies,
}

type Events = Pin<Box<dyn Stream<Item = Result<proto::Event, Status>> + Send>>;

#[tonic::async_trait]
impl Eventing for Service {
    type StartEventSourceStream = Events;

    async fn start_event_source(&self, request: Request<proto::EventSource>) -> Result<Response<Events>, Status> {
        let started = Instant::now();
        let link = request.extensions().get::<LinkInfo>().cloned();
        let peer = link.as_ref().and_then(LinkInfo::peer_addr);
        let acks = link.and_then(|link| link.stream_acks(request.metadata().as_ref()));
        let permit = request.extensions().get::<Arc<CallPermit>>().cloned();
        let token = request.metadata().get("authorization").and_then(|value| Token::from_header(value.to_str().ok()?));
        let proxy = request.extensions().get::<ProxyHeader>().copied();
        let event_source = request.into_inner();
        match self.admit(&event_source, token, peer, permit.as_deref()).await {
            Ok((subscription, grant)) => {
                if acks.is_none() {
                    warn!(
                        namespace = %subscription.namespace, subscription = %subscription.name,
                        peer = peer.map(tracing::field::display), "stream without acknowledgements, its events cannot be confirmed"
                    );
                }
                if let Some(proxy) = proxy {
                    self.proxies.record(proxy, &subscription, peer);
                }
                Ok(Response::new(self.events(subscription, grant, peer, acks, permit)))
            }
            Err(status) => {
                self.refusals.record(Some(&event_source.name), peer, &status, started.elapsed());
                Err(status)
            }
        }
    }
}

impl Service {
    /// Returns the requested subscription and its grant, or the status of its refusal.
    async fn admit(
        &self,
        event_source: &proto::EventSource,
        token: Option<Token>,
        peer: Option<SocketAddr>,
        permit: Option<&CallPermit>,
    ) -> Result<(Subscription, Grant), Status> {
        if self.drain.is_cancelled() {
            return Err(status::shutting_down());
        }
        let subscription =
            config::parse(&event_source.name, &event_source.config).map_err(|error| status::invalid_config(&error))?;
        if let Some(namespaces) = &self.namespaces
            && !namespaces.contains(&subscription.namespace)
        {
            return Err(status::namespace_not_served(&subscription.namespace));
        }
        let admitted = self.access.admit(token, &subscription.namespace, peer.map(|peer| peer.ip())).await;
        let (grant, would_refuse) = admitted.map_err(|refusal| status::access_refused(&refusal))?;
        permit.map_or(Ok(()), |permit| permit.enter(&subscription.namespace))?;
        let subscription = match grant.scope() {
            Some(scope) => subscription.scoped(&scope),
            None => subscription,
        };
        permission::log_admitted(&subscription, &grant, peer, would_refuse.as_ref());
        Ok((subscription, grant))
    }

    /// The stream of an accepted subscription. It stays open without events until the Workflows of its namespace are
    /// listed, because Argo Events 1.9.4 to 1.9.9 hang forever after three refusals.
    fn events(
        &self,
        subscription: Subscription,
        grant: Grant,
        peer: Option<SocketAddr>,
        acks: Option<StreamAcks>,
        permit: Option<Arc<CallPermit>>,
    ) -> Events {
        let mut permission = Permission::new(grant);
        let mut guard = StreamGuard::new(&subscription, self.metrics.clone(), self.traces.clone());
        let (deliveries, drain, store) = (self.deliveries.clone(), self.drain.clone(), self.store.clone());
        let attached = async move {
            let ended = tokio::select! {
                biased;
                () = drain.cancelled() => Some(status::shutting_down()),
                status = permission.withdrawn() => Some(status),
                () = store.wait_listed(&subscription.namespace) => None,
            };
            if let Some(status) = ended {
                let status = guard.end(status);
                return stream::once(async { Err(status) }).left_stream();
            }
            let mut attached = deliveries.attach(subscription, peer, guard.span());
            let connection = permit.as_deref().and_then(CallPermit::connection);
            if let Some(permit) = permit {
                attached.acks.hold(permit);
            }
            EventStream::new(attached, acks, connection, permission, guard).right_stream()
        };
        // The future is on the heap by itself, so that its memory is not kept for the stream that follows.
        attached.boxed().flatten_stream().boxed()
    }
}
