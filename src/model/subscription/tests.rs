use proptest::prelude::*;

use super::*;
use crate::model::{Mark, Phase, Uid};

fn workflow(pipeline: PipelineName) -> Workflow {
    Workflow {
        namespace: "team".into(),
        name: "run-x".into(),
        uid: Uid::from(1),
        created: 1_000,
        phase: Phase::Succeeded,
        labelled: false,
        pipeline,
        run_id: None,
        trace_id: None,
        marks: [].into(),
        resource_version: None,
    }
}

fn subscription() -> Subscription {
    Subscription {
        namespace: "team".into(),
        name: SubscriptionName::new("mine").unwrap(),
        pipelines: PipelineFilter::default(),
        artifact_types: Arc::default(),
        max_age: None,
        include: Include::default(),
    }
}

#[test]
fn a_chosen_name_is_a_dns_label() {
    for name in ["a", "0", "model-update", "a--b", &"x".repeat(63)] {
        assert_eq!(SubscriptionName::new(name).unwrap().as_str(), name);
    }
    for name in ["", "-a", "a-", "A", "a.b", "a_b", "a b", "ü", "a\n", &"x".repeat(64)] {
        assert_eq!(SubscriptionName::new(name), Err(NotADnsLabel), "{name:?}");
    }
}

#[test]
fn the_name_of_an_event_source_is_kept_where_it_is_a_dns_label() {
    assert_eq!(SubscriptionName::derived_from("model-update").as_str(), "model-update");
}

/// These are the names of annotations on people's Workflows: a release that derives others delivers everything again.
#[test]
fn what_is_derived_from_an_odd_name_is_the_same_for_ever() {
    for (odd, derived) in [
        ("Model_Update", "model-update-d639fece"),
        ("model.update", "model-update-f396db5d"),
        ("-x-", "x-414f9517"),
        ("", "subscription-811c9dc5"),
        ("___", "subscription-045a3b34"),
        ("größe", "gr--e-cd38f49a"),
    ] {
        assert_eq!(SubscriptionName::derived_from(odd).as_str(), derived, "from {odd:?}");
    }
}

#[test]
fn odd_names_that_look_alike_stay_apart() {
    let derived = ["a.b", "a_b", "A-b", "a-b", "a.b."].map(SubscriptionName::derived_from);
    let distinct: std::collections::HashSet<_> = derived.iter().collect();
    assert_eq!(distinct.len(), derived.len(), "{derived:?}");
}

proptest! {
    #[test]
    fn whatever_the_event_source_is_called_its_subscription_is_a_dns_label(name in "\\PC{0,100}|[A-Z._-]{0,100}") {
        let derived = SubscriptionName::derived_from(&name);
        prop_assert!(is_dns_label(derived.as_str()), "{derived:?}");
        prop_assert_eq!(&derived, &SubscriptionName::derived_from(&name));
    }
}

#[test]
fn patterns_match_a_pipelines_whole_name() {
    for (pattern, matching, other) in [
        ("penguin", vec!["penguin"], vec!["penguins", "a penguin", "Penguin", ""]),
        ("penguin-*", vec!["penguin-", "penguin-x", "penguin-x/y"], vec!["penguin", "a-penguin-x"]),
        ("run-?", vec!["run-1"], vec!["run-", "run-10"]),
        ("[a-c]x", vec!["ax", "cx"], vec!["dx", "x"]),
        ("{iris,taxi}-prod", vec!["iris-prod", "taxi-prod"], vec!["iris", "penguin-prod"]),
        ("*", vec!["", "anything"], vec![]),
    ] {
        let filter = PipelineFilter::matching([pattern]).unwrap();
        matching.iter().for_each(|name| assert!(filter.matches(name), "{pattern} matches {name}"));
        other.iter().for_each(|name| assert!(!filter.matches(name), "{pattern} does not match {name}"));
    }
}

#[test]
fn one_of_several_patterns_is_enough_and_none_at_all_wants_everything() {
    let filter = PipelineFilter::matching(["iris", "taxi-*"]).unwrap();
    assert!(filter.matches("iris") && filter.matches("taxi-1") && !filter.matches("penguin"));
    assert!(PipelineFilter::default().matches("penguin"));
}

#[test]
fn a_malformed_pattern_is_refused() {
    for pattern in ["[a", "{a", "a}"] {
        assert!(PipelineFilter::matching(["fine", pattern]).is_err(), "{pattern}");
    }
}

#[test]
fn a_name_that_is_not_certain_excludes_no_run() {
    let pipelines = PipelineFilter::matching(["iris"]).unwrap();
    let wanted = Subscription { pipelines, ..subscription() };
    assert!(wanted.may_want(&workflow(PipelineName::Spec("iris".into()))));
    assert!(!wanted.may_want(&workflow(PipelineName::Spec("taxi".into()))));
    assert!(wanted.may_want(&workflow(PipelineName::Generated("taxi".into()))));
    assert!(wanted.may_want(&workflow(PipelineName::Unknown)));
}

#[test]
fn a_run_is_too_old_when_it_was_created_longer_ago_than_the_maximum() {
    let limited = Subscription { max_age: Some(Duration::from_secs(60)), ..subscription() };
    let run = workflow(PipelineName::Unknown);
    for (now, too_old) in [(1_060, false), (1_061, true), (0, false), (i64::MIN, false), (i64::MAX, true)] {
        assert_eq!(limited.is_too_old(&run, now), too_old, "at {now}");
        assert!(!subscription().is_too_old(&run, now));
    }
    let endless = Subscription { max_age: Some(Duration::MAX), ..subscription() };
    assert!(!endless.is_too_old(&Workflow { created: i64::MIN, ..run }, i64::MAX));
}

#[test]
fn only_its_own_mark_says_that_a_subscription_has_got_a_run() {
    let mark = |name, own| Mark { subscription: SubscriptionName::new(name).unwrap(), own };
    let with = |marks: &[Mark]| Workflow { marks: marks.into(), ..workflow(PipelineName::Unknown) };
    assert!(subscription().has_got(&with(&[mark("mine", true)]), false));
    assert!(!subscription().has_got(&with(&[mark("mine", false)]), false));
    assert!(!subscription().has_got(&with(&[mark("other", true)]), false));
}

#[test]
fn the_label_of_the_go_server_counts_only_where_that_was_asked_for() {
    let labelled = Workflow { labelled: true, ..workflow(PipelineName::Unknown) };
    assert!(subscription().has_got(&labelled, true));
    assert!(!subscription().has_got(&labelled, false));
    assert!(!subscription().has_got(&workflow(PipelineName::Unknown), true));
}
