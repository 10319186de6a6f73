//! Scale and time: a burst of runs over many namespaces, a wall clock that jumps, and a namespace that is created late.

mod burst;
mod clock;

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use test_support::{Peers, Tally};

use crate::{
    in_process::{InProcessEnv, create_succeeded},
    test_env::{SUBSCRIPTION, location_of},
};

/// A namespace that is created after its subscriber is served.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_namespace_created_after_its_subscriber_is_served() {
    let store = Peers::find().await.metadata_store().await;
    let env = InProcessEnv::start(store, |_| {}).await;
    let mut tally = Tally::new("a namespace is created after its subscriber");
    let namespace = format!("late-{}", uuid::Uuid::from_u128(rand::random()));
    let mut events = env.server.subscribe(&format!("kfpNamespace: {namespace}")).await;

    let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
    let namespaces = Api::<Namespace>::all(env.cluster.client().await);
    let late = Namespace { metadata, ..Namespace::default() };
    namespaces.create(&PostParams::default(), &late).await.expect("a namespace");
    let workflows = env.cluster.workflows(&namespace).await;
    for run in ["first", "second"] {
        tally.expect(SUBSCRIPTION, &location_of(run));
        env.push_model(run).await;
        create_succeeded(&workflows, run).await;
        tally.delivered_payload(&events.next_payload().await);
    }
    tally.conclude(0);
}
