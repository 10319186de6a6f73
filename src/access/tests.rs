use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::{Instant, advance};

use super::{
    fake::{FakeReviewer, access},
    *,
};

const TEAM: &str = "team-a";
const ACCOUNT: &str = "system:serviceaccount:team-a:events";

/// A reviewer that knows a service account with the right to its own namespace.
fn reviewer() -> FakeReviewer {
    let reviewer = FakeReviewer::default();
    reviewer.add("secret", ACCOUNT);
    reviewer.allow(ACCOUNT, TEAM, Verb::Subscribe);
    reviewer
}

fn token(secret: &str) -> Option<Token> {
    Token::from_header(&format!("Bearer {secret}"))
}

async fn admit(access: &Access, secret: &str, namespace: &str) -> Result<Grant, Refusal> {
    access.admit(token(secret), &namespace.into(), None).await.map(|(grant, _)| grant)
}

#[test]
fn a_token_is_read_from_its_header_and_never_shown() {
    for (header, expected) in [
        ("Bearer abc", Some("abc")),
        ("bearer  abc ", Some("abc")),
        ("Basic abc", None),
        ("Bearer ", None),
        ("Bearer", None),
        ("", None),
    ] {
        let token = Token::from_header(header);
        assert_eq!(token.as_ref().map(Token::secret), expected, "{header:?}");
    }
    assert_eq!(format!("{:?}", token("abc").unwrap()), "Token(..)");
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_with_a_right_is_admitted() {
    for verb in [Verb::Subscribe, Verb::Watch] {
        let reviewer = FakeReviewer::default();
        reviewer.add("secret", ACCOUNT);
        reviewer.allow(ACCOUNT, TEAM, verb);
        let grant = admit(&access(Mode::Token, &reviewer), "secret", TEAM).await.unwrap();
        assert_eq!(grant.user().unwrap().name, ACCOUNT);
        assert_eq!(grant.scope().as_deref(), Some("team-a"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_what_is_missing_and_the_command() {
    let reviewer = reviewer();
    let access = access(Mode::Token, &reviewer);
    let none = access.admit(None, &TEAM.into(), None).await.map(drop).unwrap_err();
    assert_eq!(none, Refusal::NoToken);
    let invalid = admit(&access, "other", TEAM).await.map(drop).unwrap_err().to_string();
    assert!(invalid.contains("unknown") && invalid.contains("authSecret"), "{invalid}");
    let denied = admit(&access, "secret", "team-b").await.map(drop).unwrap_err().to_string();
    let expected = "the service account team-a/events has neither the verb subscribe nor watch on \
                    workflows.argoproj.io in the namespace team-b; grant it: kubectl create role \
                    modelupdate-subscriber-team-a-events --verb=subscribe --resource=workflows.argoproj.io -n team-b && \
                    kubectl create rolebinding modelupdate-subscriber-team-a-events \
                    --role=modelupdate-subscriber-team-a-events --serviceaccount=team-a:events -n team-b";
    assert_eq!(denied, expected);
}

#[test]
fn with_a_role_the_command_is_one_binding() {
    for (name, suffix, subject) in [
        ("system:serviceaccount:team-a:events", "team-a-events", "--serviceaccount=team-a:events"),
        ("jane@example.com", "u-8c87b489", "--user=jane@example.com"),
        ("o'hara; rm", "u-6f9d235c", r"--user='o'\''hara; rm'"),
    ] {
        let user = User { name: name.to_owned(), ..User::default() };
        let denied = Refusal::denied(&user, "team-b", Some("events")).to_string();
        let command = format!(
            "kubectl create rolebinding modelupdate-subscriber-{suffix} --clusterrole=events {subject} -n team-b"
        );
        assert!(denied.ends_with(&command), "{denied}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_are_remembered_for_their_time() {
    let reviewer = reviewer();
    let access = access(Mode::Token, &reviewer);
    admit(&access, "secret", TEAM).await.unwrap();
    assert_eq!(reviewer.reviews(), ["token secret", "subscribe team-a"]);
    advance(Duration::from_secs(59)).await;
    admit(&access, "secret", TEAM).await.unwrap();
    assert!(reviewer.reviews().is_empty());
    advance(Duration::from_secs(1)).await;
    admit(&access, "secret", TEAM).await.unwrap();
    assert_eq!(reviewer.reviews(), ["token secret"], "a right is remembered for longer than a token");
    advance(Duration::from_secs(240)).await;
    admit(&access, "secret", TEAM).await.unwrap();
    assert_eq!(reviewer.reviews(), ["token secret", "subscribe team-a"]);
}

/// A client that is refused redials every five seconds.
#[tokio::test(start_paused = true)]
async fn a_refused_client_costs_two_reviews_in_half_a_minute() {
    let reviewer = reviewer();
    let access = access(Mode::Token, &reviewer);
    for _ in 0..6 {
        admit(&access, "other", TEAM).await.unwrap_err();
        admit(&access, "secret", "team-b").await.unwrap_err();
        advance(Duration::from_secs(5)).await;
    }
    let mut reviews = reviewer.reviews();
    reviews.sort_unstable();
    assert_eq!(reviews, ["subscribe team-b", "token other", "token secret", "watch team-b"]);
}

#[tokio::test(start_paused = true)]
async fn equal_requests_share_a_review() {
    let reviewer = reviewer();
    reviewer.delay(Duration::from_millis(100));
    let access = access(Mode::Token, &reviewer);
    let requests = (0..100).map(|_| admit(&access, "secret", TEAM));
    assert!(futures::future::join_all(requests).await.iter().all(Result::is_ok));
    assert_eq!(reviewer.reviews().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_tries_tokens_delays_no_other() {
    let reviewer = reviewer();
    let access = access(Mode::Token, &reviewer);
    let guesses: Vec<_> = (0..100).map(|number| token(&format!("guess {number}"))).collect();
    let namespace = TEAM.into();
    let tried = guesses.into_iter().map(|guess| access.admit(guess, &namespace, Some([10, 0, 0, 1].into())));
    let tried = futures::future::join_all(tried);
    let other = async {
        let started = Instant::now();
        access.admit(token("secret"), &namespace, Some([10, 0, 0, 2].into())).await.unwrap();
        started.elapsed()
    };
    let (refusals, delay) = tokio::join!(tried, other);
    assert_eq!(delay, Duration::ZERO);
    let reviewed = refusals.iter().filter(|outcome| matches!(outcome, Err(Refusal::InvalidToken { .. }))).count();
    assert_eq!(reviewed, 20, "four a second, for the five seconds in which a review waits for its turn");
    assert_eq!(reviewer.reviews().len(), reviewed + 2);
}

/// Every Pod has a token of its account.
#[tokio::test(start_paused = true)]
async fn an_account_that_tries_namespaces_causes_few_reviews() {
    let reviewer = reviewer();
    let access = access(Mode::Token, &reviewer);
    let namespaces: Vec<_> = (0..1000).map(|number| format!("guess-{number}").into()).collect();
    let tried = namespaces.iter().map(|guess| access.admit(token("secret"), guess, Some([10, 0, 0, 1].into())));
    let refusals = futures::future::join_all(tried).await;
    let denied = refusals.iter().filter(|outcome| matches!(outcome, Err(Refusal::Denied { .. }))).count();
    assert!((80..=84).contains(&denied), "{denied}: sixteen a second, for the five seconds in which a review waits");
    assert_eq!(reviewer.reviews().len(), 1 + 2 * denied);
}

/// 4,096 of these are remembered.
#[tokio::test(start_paused = true)]
async fn a_long_reason_is_shortened() {
    let reviewer = reviewer();
    reviewer.reason("é".repeat(10_000));
    let refusal = admit(&access(Mode::Token, &reviewer), "other", TEAM).await.map(drop).unwrap_err();
    assert!(matches!(&refusal, Refusal::InvalidToken { reason, .. } if reason.len() == 512), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn an_error_is_no_answer_and_is_not_remembered() {
    let reviewer = reviewer();
    reviewer.fail(true);
    let access = access(Mode::Token, &reviewer);
    let refusal = admit(&access, "secret", TEAM).await.map(drop).unwrap_err();
    assert_eq!(refusal, Refusal::Unavailable { reason: "429: too many requests".to_owned() });
    reviewer.fail(false);
    admit(&access, "secret", TEAM).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_review_is_unavailable_after_five_seconds() {
    let reviewer = reviewer();
    reviewer.delay(Duration::from_secs(60));
    let start = Instant::now();
    let refusal = admit(&access(Mode::Token, &reviewer), "secret", TEAM).await.map(drop).unwrap_err();
    assert!(matches!(refusal, Refusal::Unavailable { .. }), "{refusal}");
    assert_eq!(start.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_right_ends_the_permission_within_its_cache_time() {
    let reviewer = reviewer();
    let access = access(Mode::Token, &reviewer);
    let grant = admit(&access, "secret", TEAM).await.unwrap();
    advance(Duration::from_secs(100)).await;
    // Another stream renews the token's answer in between.
    admit(&access, "secret", TEAM).await.unwrap();
    reviewer.revoke();
    let start = Instant::now();
    let refusal = grant.revoked().await;
    assert!(matches!(refusal, Refusal::Denied { .. }), "{refusal}");
    assert!(start.elapsed() <= Options::default().cache_allow, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_ends_the_permission() {
    let reviewer = reviewer();
    let grant = admit(&access(Mode::Token, &reviewer), "secret", TEAM).await.unwrap();
    reviewer.expire();
    let start = Instant::now();
    assert!(matches!(grant.revoked().await, Refusal::InvalidToken { .. }));
    assert!(start.elapsed() <= Options::default().cache_token);
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_outlives_ten_minutes_without_reviews() {
    let reviewer = reviewer();
    let access = access(Mode::Token, &reviewer);
    let grant = admit(&access, "secret", TEAM).await.unwrap();
    reviewer.fail(true);
    let start = Instant::now();
    assert!(matches!(grant.revoked().await, Refusal::Unavailable { .. }));
    assert!(start.elapsed() >= Duration::from_secs(600), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(800), "{:?}", start.elapsed());
    let reviews = reviewer.reviews().len();
    assert!(reviews < 40, "{reviews} reviews while none was answered");
}

#[tokio::test(start_paused = true)]
async fn audit_admits_everyone_and_tells_what_would_be_refused() {
    let access = access(Mode::Audit, &reviewer());
    let (grant, refusal) = access.admit(None, &TEAM.into(), None).await.unwrap();
    assert_eq!((grant.scope(), refusal), (None, Some(Refusal::NoToken)));
    let (grant, refusal) = access.admit(token("secret"), &TEAM.into(), None).await.unwrap();
    assert_eq!((grant.scope(), refusal), (None, None), "names are scoped only where tokens are required");
    assert!(grant.user().is_some());
    tokio::time::timeout(Duration::from_secs(3600), grant.revoked()).await.expect_err("it never ends");
}

#[tokio::test(start_paused = true)]
async fn without_access_control_nothing_is_reviewed() {
    let reviewer = reviewer();
    let grant = admit(&access(Mode::None, &reviewer), "other", "team-b").await.unwrap();
    assert!(grant.user().is_none() && grant.scope().is_none());
    assert!(reviewer.reviews().is_empty());
}

/// Each namespace that an audit sees becomes a label's value, and clients may name any.
#[tokio::test(start_paused = true)]
async fn the_audit_metric_is_bounded() {
    let mut registry = Registry::default();
    let metrics = AccessMetrics::new(&mut registry);
    let options = Options { mode: Mode::Audit, ..Options::default() };
    let access = Access::new(options, reviewer(), metrics);
    for number in 0..1500 {
        access.admit(None, &format!("team-{number}").into(), None).await.unwrap();
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let series = text.lines().filter(|line| line.starts_with("auth_audit_refusals_total{")).count();
    assert_eq!(series, 1001);
    assert!(text.contains("namespace=\"(other)\",decision=\"unauthenticated\"} 500"), "the rest is counted together");
}
