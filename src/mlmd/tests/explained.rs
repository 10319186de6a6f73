//! Lookups that collect the verdicts of the rules.

use super::*;
use crate::{
    mlmd::{
        fake::{Fault, int, text},
        proto,
    },
    model::{ArtifactId, ArtifactVerdict, NotAModel, SeenArtifact},
};

fn verdicts(seen: &[SeenArtifact]) -> Vec<(ArtifactId, ArtifactVerdict)> {
    seen.iter().map(|seen| (seen.id.clone(), seen.verdict)).collect()
}

fn of_type(name: &str) -> impl FnOnce(&mut proto::Artifact) {
    let name = name.to_owned();
    move |artifact| artifact.r#type = Some(name)
}

#[tokio::test(start_paused = true)]
async fn an_explained_lookup_finds_what_the_lookup_finds() {
    let env = TestEnv::tfx();
    {
        let mut store = env.server.store();
        store.add_model(5, 10, &[1]);
        store.add_model_with(6, 10, &[1], of_type("Schema"));
        store.add_model_with(7, 10, &[1], |artifact| {
            artifact.custom_properties.insert("pushed".into(), int(0));
        });
        store.add_model(8, 99, &[1]);
        store.add_event(8, 10, proto::event::Type::Input);
    }
    let explained = env.mlmd.explain(&compiled(), &env.types).await;
    assert_eq!(explained.found.as_ref(), env.find(&compiled()).await.as_deref());
    let expected = [
        (5.into(), ArtifactVerdict::Counts),
        (6.into(), ArtifactVerdict::NotAModel(NotAModel::OtherType)),
        (7.into(), ArtifactVerdict::NotAModel(NotAModel::Unblessed)),
        (8.into(), ArtifactVerdict::OnlyRead),
    ];
    assert_eq!(verdicts(&explained.artifacts), expected);
    let model = &explained.artifacts[0];
    assert_eq!(
        (model.name.as_deref(), &*model.uri, &*model.type_name),
        (Some("model 5"), "gs://models/5", "PushedModel")
    );
    assert_eq!((model.node.as_deref(), model.key.as_deref()), (Some("Pusher"), Some("pushed_model")));
    let record = explained.record.unwrap();
    assert_eq!((record.kind, &*record.name, record.id), ("pipeline_run", "penguin-x7k2p", Some(1)));
}

/// The answer is the store's current one, not that of the last lookup.
#[tokio::test(start_paused = true)]
async fn an_explained_lookup_is_not_cached() {
    let env = TestEnv::tfx();
    assert!(env.find(&compiled()).await.unwrap().models.is_empty());
    env.server.store().add_model(5, 10, &[1]);
    assert_eq!(env.mlmd.explain(&compiled(), &env.types).await.found.unwrap().models.len(), 1);
    assert!(env.find(&compiled()).await.unwrap().models.is_empty(), "the server's answer is cached as before");
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_before_a_failure_is_explained() {
    let env = TestEnv::tfx();
    env.server.store().add_model(5, 10, &[1]);
    env.server.store().add_model_with(6, 10, &[1], of_type("Schema"));
    env.server.inject(EVENTS, Fault::Status(tonic::Code::Unavailable));
    let explained = env.mlmd.explain(&compiled(), &env.types).await;
    assert_eq!(explained.found.unwrap_err().code(), "unavailable");
    let other_type = ArtifactVerdict::NotAModel(NotAModel::OtherType);
    assert_eq!(verdicts(&explained.artifacts), [(5.into(), ArtifactVerdict::Undecided), (6.into(), other_type)]);

    env.server.clear_faults();
    env.server.store().contexts[0].custom_properties.insert("namespace".into(), text("team-b"));
    let explained = env.mlmd.explain(&compiled(), &env.types).await;
    assert_eq!(explained.found.unwrap_err().code(), "foreign_context");
    assert_eq!(explained.record.unwrap().namespace.as_deref(), Some("team-b"));
    let explained = TestEnv::new().mlmd.explain(&compiled(), &env.types).await;
    assert_eq!((explained.found.unwrap_err(), explained.record), (LookupError::NoContext, None));
}
