//! Rights and tokens that end while a stream is open.

use std::time::Duration;

use test_support::{SOON, report};
use tokio::time::Instant;
use tonic::Code;

use crate::{
    Env,
    subscriber::{end, subscribe},
};

/// The time for which an answer is remembered here.
const CACHED: Duration = Duration::from_secs(2);
/// The time for which the API server remembers a valid token itself.
const CACHED_BY_API_SERVER: Duration = Duration::from_secs(10);
/// The time for which the API server accepts a token beyond its expiry, in seconds.
const LEEWAY: i64 = 60;
/// Slack for a busy machine.
const SLACK: Duration = Duration::from_secs(4);

/// Ends a permission by `withdraw` and returns how long the stream stayed open after that.
async fn ends(env: &Env, server: std::net::SocketAddr, token: &str, withdraw: impl Future, code: Code) -> Duration {
    let mut events = subscribe(server, Some(token), &env.config()).await.unwrap();
    withdraw.await;
    let withdrawn = Instant::now();
    let status = end(&mut events).await;
    assert_eq!(status.code(), code, "{status}");
    assert!(!status.message().contains(token), "{status}");
    let text = if code == Code::PermissionDenied { "kubectl create role" } else { "the token is not valid" };
    assert!(status.message().contains(text), "{status}");
    withdrawn.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_withdrawn_right_or_token_ends_its_stream() {
    let env = Env::start().await;
    let cached = format!("{}s", CACHED.as_secs());
    let flags = [format!("--auth-cache-token={cached}"), format!("--auth-cache-allow={cached}")];
    let server = env.server(&["--auth=token", &flags[0], &flags[1]]).await;
    let (env, server) = (&env, server.listen);

    let revoked = async {
        let account = env.account("revoked").await;
        let grant = env.grant(&account, "subscribe").await;
        let token = env.cluster.token(&account, &[]).await;
        // Until the authorizer has seen it.
        let revoke = env.cluster.revoke(grant);
        let open_for = ends(env, server, &token, revoke, Code::PermissionDenied).await;
        report(format!("a stream whose RoleBinding was deleted: open for {open_for:.1?} with caches of {CACHED:?}"));
        assert!(open_for < CACHED + SLACK, "{open_for:?}");
    };
    let expired = async {
        let (account, _) = env.subscriber("expired").await;
        let lifetime = Duration::from_secs(3);
        let token = env.cluster.signed_token(&account, 3 - LEEWAY).await;
        let open_for = ends(env, server, &token, std::future::ready(()), Code::Unauthenticated).await;
        report(format!("a stream whose token was valid for {lifetime:?} more: open for {open_for:.1?}"));
        assert!(open_for < lifetime + CACHED + CACHED_BY_API_SERVER + SLACK, "{open_for:?}");
    };
    let unbound = async {
        let (account, _) = env.subscriber("unbound").await;
        let token = env.cluster.bound_token(&account, "token").await;
        let delete = env.cluster.delete_secret(&env.team, "token");
        let open_for = ends(env, server, &token, delete, Code::Unauthenticated).await;
        report(format!("a stream whose token was bound to a deleted Secret: open for {open_for:.1?}"));
        assert!(open_for < CACHED + CACHED_BY_API_SERVER + SLACK, "{open_for:?}");
    };
    let deleted = async {
        let (account, token) = env.subscriber("deleted-while-open").await;
        let delete = env.cluster.delete_account(&account);
        let open_for = ends(env, server, &token, delete, Code::Unauthenticated).await;
        report(format!("a stream whose account was deleted: open for {open_for:.1?}"));
        assert!(open_for < CACHED + CACHED_BY_API_SERVER + SLACK, "{open_for:?}");
    };
    assert!(CACHED + CACHED_BY_API_SERVER + SLACK < SOON);
    tokio::join!(revoked, expired, unbound, deleted);
}
