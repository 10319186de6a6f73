//! Reviews that many streams, and clients that are refused and reconnect, cost the API server.
//!
//! `MODEL_UPDATE_REVIEWS_SECONDS` measures 1,000 streams and 100 refused clients for this time, with the default cache times
//! and the 5 s after which Argo Events reconnects. Without it, the test is small, and its times are short.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use serde_json::json;
use test_support::{RunningServer, report};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tonic::Code;

use crate::{
    Env,
    subscriber::{Events, code, connect, subscribe_on},
};

/// Requests at a time while streams are opened.
const CONCURRENT: usize = 16;
/// Clients behind one address, as of one node.
const PER_ADDRESS: usize = 50;

/// A load and its times.
struct Load {
    streams: usize,
    /// Streams that share an account and its token.
    per_account: usize,
    refused: usize,
    redial: Duration,
    cache_token: Duration,
    cache_allow: Duration,
    cache_deny: Duration,
    duration: Duration,
}

impl Load {
    fn from_environment() -> Self {
        let seconds = env::var("MODEL_UPDATE_REVIEWS_SECONDS").ok().map(|text| text.parse::<u32>().expect("a number"));
        let second = Duration::from_secs(1);
        match seconds {
            Some(seconds) => Self {
                streams: 1000,
                per_account: 1,
                refused: 100,
                redial: 5 * second,
                cache_token: 60 * second,
                cache_allow: 300 * second,
                cache_deny: 30 * second,
                duration: seconds * second,
            },
            None => Self {
                streams: 60,
                per_account: 3,
                refused: 10,
                redial: second / 2,
                cache_token: 2 * second,
                cache_allow: 4 * second,
                cache_deny: 3 * second,
                duration: 6 * second,
            },
        }
    }

    /// The times that an answer is asked for while it is remembered for `cached`.
    fn times(&self, cached: Duration) -> f64 {
        self.duration.as_secs_f64() / cached.as_secs_f64() + 1.0
    }

    fn flags(&self) -> [String; 4] {
        let flag = |name: &str, time: Duration| format!("--auth-cache-{name}={}s", time.as_secs());
        let times = [("token", self.cache_token), ("allow", self.cache_allow), ("deny", self.cache_deny)];
        let [token, allow, deny] = times.map(|(name, time)| flag(name, time));
        [token, allow, deny, "--max-streams-per-namespace=2000".to_owned()]
    }
}

/// The address of a client: clients have the addresses of their nodes.
fn address(number: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(1 + number / PER_ADDRESS).unwrap()).into()
}

/// Reviews since the start, by kind.
async fn reviews(server: &RunningServer) -> [f64; 2] {
    let page = async |kind: &str| {
        let kind = format!("kind=\"{kind}\"");
        server.metric("modelupdate_auth_reviews_total", &[&kind]).await
    };
    [page("token").await, page("access").await]
}

/// Creates accounts, whose tokens it returns; with the right to subscribe, for all accounts of their namespace.
async fn tokens(env: &Env, namespace: &str, count: usize, may_subscribe: bool) -> Vec<String> {
    if may_subscribe {
        let api = "rbac.authorization.k8s.io";
        let metadata = json!({"name": "all-accounts", "namespace": env.team});
        let rule = json!({"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["subscribe"]});
        let version = format!("{api}/v1");
        let role = json!({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": [rule]});
        let binding = json!({
            "apiVersion": version, "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": "all-accounts"},
            "subjects": [{"apiGroup": api, "kind": "Group", "name": format!("system:serviceaccounts:{namespace}")}],
        });
        env.cluster.apply("test", &role).await.unwrap();
        env.cluster.apply("test", &binding).await.unwrap();
    }
    let created = (0..count).map(|number| async move {
        let account = env.cluster.service_account(namespace, &format!("events-{number}")).await;
        env.cluster.token(&account, &[]).await
    });
    stream::iter(created).buffer_unordered(CONCURRENT).collect().await
}

/// Asks for a stream at intervals, as Argo Events does after a refusal. Returns the number of refusals.
async fn redial(server: SocketAddr, from: IpAddr, token: &str, config: &str, load: &Load, until: Instant) -> usize {
    let channel = connect(server, Some(from)).await;
    let mut ticks = interval(load.redial);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for refusals in 0.. {
        ticks.tick().await;
        if Instant::now() >= until {
            return refusals;
        }
        let outcome = subscribe_on(channel.clone(), Some(token), config).await;
        assert!(matches!(code(&outcome), Code::PermissionDenied | Code::Unauthenticated), "{outcome:?}");
    }
    unreachable!("the time ends")
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn cached_answers_keep_reviews_few() {
    let (env, load) = (Env::start().await, Load::from_environment());
    let flags = load.flags();
    let flags: Vec<_> = ["--auth=token"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let server = env.server(&flags).await;
    let accounts = load.streams / load.per_account;
    let tokens_of_streams = tokens(&env, &env.team, accounts, true).await;
    let mut tokens_of_refused = tokens(&env, &env.other, load.refused / 2, false).await;
    tokens_of_refused.extend((tokens_of_refused.len()..load.refused).map(|number| format!("not-a-token-{number}")));

    let config = env.config();
    let opened = (0..load.streams).map(|number| {
        let (token, config) = (&tokens_of_streams[number / load.per_account], &config);
        let address = address(number);
        async move { subscribe_on(connect(server.listen, Some(address)).await, Some(token), config).await.unwrap() }
    });
    let streams: Vec<Events> = stream::iter(opened).buffer_unordered(CONCURRENT).collect().await;
    let started = reviews(&server).await;
    let end = Instant::now() + load.duration;
    sleep_until(end).await;
    let with_streams = reviews(&server).await;
    let minutes = load.duration.as_secs_f64() / 60.0;
    let per_minute = |before: [f64; 2], after: [f64; 2]| [0, 1].map(|kind| (after[kind] - before[kind]) / minutes);
    let [token, access] = per_minute(started, with_streams);
    report(format!(
        "reviews a minute of {} streams of {accounts} accounts: {token:.0} TokenReviews, {access:.0} SubjectAccessReviews",
        load.streams
    ));
    let [tokens, accesses] = [0, 1].map(|kind| with_streams[kind] - started[kind]);
    assert!(tokens <= accounts as f64 * load.times(load.cache_token), "{tokens} TokenReviews");
    assert!(accesses <= accounts as f64 * load.times(load.cache_allow), "{accesses} SubjectAccessReviews");
    server.metric_is("modelupdate_subscribers", &[], load.streams as f64).await;
    drop(streams);
    server.metric_is("modelupdate_subscribers", &[], 0.0).await;

    let before = reviews(&server).await;
    let until = Instant::now() + load.duration;
    let redialing = tokens_of_refused.iter().enumerate().map(|(number, token)| {
        // One address for each client: a peer has few turns for tokens that are not valid.
        let from = Ipv4Addr::new(127, 0, 2, u8::try_from(1 + number).unwrap()).into();
        redial(server.listen, from, token, &config, &load, until)
    });
    let refusals: usize = futures::future::join_all(redialing).await.into_iter().sum();
    let after = reviews(&server).await;
    let [token, access] = per_minute(before, after);
    report(format!(
        "reviews a minute of {} refused clients, half without a right, half without a valid token, with {:.0} requests a \
         minute: {token:.0} TokenReviews, {access:.0} SubjectAccessReviews",
        load.refused,
        refusals as f64 / minutes
    ));
    let half = load.refused as f64 / 2.0;
    let tokens = half * (load.times(load.cache_token) + load.times(load.cache_deny));
    assert!(after[0] - before[0] <= tokens, "{} TokenReviews, at most {tokens}", after[0] - before[0]);
    let accesses = half * 2.0 * load.times(load.cache_deny);
    assert!(after[1] - before[1] <= accesses, "{} SubjectAccessReviews, at most {accesses}", after[1] - before[1]);
}
