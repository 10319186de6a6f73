//! Actor × action × mode.

use serde_json::Value;
use test_support::{RunningServer, SOON, eventually, report};
use tonic::{Code, Status};

use crate::{
    Env, SHORT_CACHES, config,
    subscriber::{code, subscribe},
};

/// A client, and what the mode `token` decides about its subscriptions to the team's namespace and to another.
struct Actor {
    name: &'static str,
    token: Option<String>,
    team: Code,
    other: Code,
}

/// Creates every actor.
async fn actors(env: &Env) -> Vec<Actor> {
    use Code::{Ok, PermissionDenied as Denied, Unauthenticated as Unknown};
    let cluster = &env.cluster;
    let (subscribe, token) = env.subscriber("subscribes").await;
    let watch = env.account("watches").await;
    env.grant(&watch, "watch").await;
    let list = env.account("lists").await;
    env.grant(&list, "list").await;
    let none = env.account("none").await;
    let deleted = env.account("deleted").await;
    env.grant(&deleted, "subscribe").await;
    let deleted_token = cluster.token(&deleted, &[]).await;
    cluster.delete_account(&deleted).await;
    let bound = cluster.bound_token(&subscribe, "bound").await;
    cluster.delete_secret(&env.team, "bound").await;
    let (head, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    let actor = |name, token, team, other| Actor { name, token, team, other };
    vec![
        actor("account with the verb subscribe", Some(token), Ok, Denied),
        actor("account with the verb watch", Some(cluster.token(&watch, &[]).await), Ok, Denied),
        actor("account with the verb list", Some(cluster.token(&list, &[]).await), Denied, Denied),
        actor("account without a right", Some(cluster.token(&none, &[]).await), Denied, Denied),
        actor("administrator, not an account", Some("admin".to_owned()), Ok, Ok),
        actor("no token", None, Unknown, Unknown),
        actor("not a token", Some("not-a-token".to_owned()), Unknown, Unknown),
        actor("token with a forged signature", Some(forged), Unknown, Unknown),
        actor("token of another audience", Some(cluster.token(&subscribe, &["elsewhere"]).await), Unknown, Unknown),
        actor("expired token", Some(cluster.signed_token(&subscribe, -120).await), Unknown, Unknown),
        actor("token bound to a deleted Secret", Some(bound), Unknown, Unknown),
        actor("token of a deleted account", Some(deleted_token), Unknown, Unknown),
    ]
}

async fn outcome(server: &RunningServer, actor: &Actor, namespace: &str) -> Result<(), Status> {
    subscribe(server.listen, actor.token.as_deref(), &config(namespace)).await.map(drop)
}

/// Each actor asks for its own and another namespace, in each mode.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn each_actor_is_decided_as_its_rights_say() {
    let env = Env::start().await;
    let actors = actors(&env).await;
    let start = async |mode| env.server(&[&[mode], &SHORT_CACHES[..]].concat()).await;
    let (none, audit, token) = tokio::join!(start("--auth=none"), start("--auth=audit"), start("--auth=token"));
    report("| actor | namespace | none | audit | token |\n|---|---|---|---|---|");
    for actor in &actors {
        for (namespace, expected) in [(&env.team, actor.team), (&env.other, actor.other)] {
            for open in [&none, &audit] {
                outcome(open, actor, namespace).await.unwrap_or_else(|status| panic!("{}: {status}", actor.name));
            }
            // A deletion reaches the API server's caches with a delay.
            let status = eventually(SOON, actor.name, async || {
                let outcome = outcome(&token, actor, namespace).await;
                if code(&outcome) == expected { Ok(outcome.err()) } else { Err(outcome) }
            })
            .await;
            let which = if *namespace == env.team { "own" } else { "other" };
            let decision = if expected == Code::Ok { "accepted".to_owned() } else { format!("{expected:?}") };
            report(format!("| {} | {which} | accepted | accepted | {decision} |", actor.name));
            let text = status.map(|status| status.message().to_owned()).unwrap_or_default();
            assert!(actor.token.as_ref().is_none_or(|token| !text.contains(token)), "{}: {text}", actor.name);
        }
    }
    // What the audit has counted is what the mode `token` refuses.
    let refused = |of: fn(&Actor) -> Code, code| actors.iter().filter(|&actor| of(actor) == code).count() as f64;
    for (namespace, of) in [(&env.team, (|actor| actor.team) as fn(&Actor) -> Code), (&env.other, |actor| actor.other)]
    {
        let namespace = format!("namespace=\"{namespace}\"");
        for (decision, code) in [("denied", Code::PermissionDenied), ("unauthenticated", Code::Unauthenticated)] {
            let labels = [&*namespace, &*format!("decision=\"{decision}\"")];
            audit.metric_is("modelupdate_auth_audit_refusals_total", &labels, refused(of, code)).await;
        }
    }
    let line = audit.process.logged("admitted subscription that the mode token refuses").await;
    assert_eq!((&line["decision"], &line["level"]), (&"would_refuse".into(), &"WARN".into()), "{line}");
    assert!(line["reason"].as_str().unwrap().contains("neither the verb subscribe nor watch"), "{line}");
}

/// A stream that is admitted has one line in the log: who, from where, what, and the decision.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn each_admitted_stream_has_one_audit_line() {
    let env = Env::start().await;
    let server = env.server(&["--auth=token"]).await;
    let (account, token) = env.subscriber("audited").await;
    let streams = async || subscribe(server.listen, Some(&token), &env.config()).await.unwrap();
    let _open = (streams().await, streams().await);
    server.metric_is("modelupdate_subscribers", &[], 2.0).await;
    let log = server.process.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<_> = lines.filter(|line| line["message"] == "admitted subscription").collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        assert_eq!(line["user"], account.user());
        assert_eq!(line["namespace"], *env.team);
        assert_eq!(line["subscription"], format!("deploy.{}", env.team));
        assert_eq!(line["decision"], "allowed");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
}

/// The command in a refusal gives the right, as it stands.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_command_of_a_refusal_grants_the_right() {
    let env = Env::start().await;
    let server = env.server(&[&["--auth=token"], &SHORT_CACHES[..]].concat()).await;
    for name in ["first", "second"] {
        let account = env.account(name).await;
        let token = env.cluster.token(&account, &[]).await;
        let refusal = subscribe(server.listen, Some(&token), &env.config()).await.unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied);
        let (_, command) = refusal.message().split_once("grant it: ").unwrap();
        env.cluster.kubectl(command).await.unwrap();
        eventually(SOON, command, async || subscribe(server.listen, Some(&token), &env.config()).await).await;
    }
}

/// With audiences, only tokens of one of them are valid.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn with_audiences_a_token_must_have_one_of_them() {
    let env = Env::start().await;
    let server = env.server(&["--auth=token", "--auth-audience=model-updates,events"]).await;
    let (account, of_api_server) = env.subscriber("audience").await;
    for (audiences, expected) in [
        (&["model-updates"][..], Code::Ok),
        (&["elsewhere", "events"], Code::Ok),
        (&["elsewhere"], Code::Unauthenticated),
    ] {
        let token = env.cluster.token(&account, audiences).await;
        let outcome = subscribe(server.listen, Some(&token), &env.config()).await;
        assert_eq!(code(&outcome), expected, "{audiences:?}: {outcome:?}");
    }
    let refusal = subscribe(server.listen, Some(&of_api_server), &env.config()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);
    assert!(refusal.message().contains("with the audience model-updates or events"), "{refusal}");
}
