//! Facts about the neighbours that the product relies on.

mod peers;

use peers::Peers;

#[tokio::test]
async fn all_come_up() {
    let Some(peers) = Peers::find().await else { return };
    let cluster = peers.cluster().await;
    let ns = cluster.namespace("a").await;
    assert!(ns.starts_with("a-"));
    let store = peers.metadata_store().await;
    assert!(store.writer().await.find_context("pipeline_run", "none").await.is_none());
}
