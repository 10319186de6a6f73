use proptest::prelude::*;

use super::*;
use crate::model::{Mark, Phase, fixtures::succeeded};

fn workflow(pipeline: PipelineName) -> Workflow {
    Workflow { created: 1_000, ..succeeded(pipeline) }
}

fn subscription() -> Subscription {
    Subscription {
        namespace: "team".into(),
        name: SubscriptionName::new("mine").unwrap(),
        pipelines: PipelineFilter::default(),
        artifact_types: Arc::default(),
        max_age: None,
        latest_only: false,
        statuses: Statuses::default(),
        unscoped: None,
        remember: true,
        include: Include::default(),
    }
}

#[test]
fn a_configured_name_is_a_dns_label() {
    for name in ["a", "0", "model-update", "a--b", &"x".repeat(63)] {
        assert_eq!(SubscriptionName::new(name).unwrap().as_str(), name);
    }
    for name in ["", "-a", "a-", "A", "a.b", "a_b", "a b", "ü", "a\n", &"x".repeat(64)] {
        assert_eq!(SubscriptionName::new(name), Err(NotADnsLabel), "{name:?}");
    }
}

#[test]
fn an_event_source_name_that_is_a_dns_label_is_kept() {
    assert_eq!(SubscriptionName::derived_from("model-update").as_str(), "model-update");
}

/// Marks have these names: a release that derived other names would deliver every run again.
#[test]
fn derived_names_never_change() {
    for (original, derived) in [
        ("Model_Update", "model-update-d639fece"),
        ("model.update", "model-update-f396db5d"),
        ("-x-", "x-414f9517"),
        ("", "subscription-811c9dc5"),
        ("___", "subscription-045a3b34"),
        ("größe", "gr--e-cd38f49a"),
    ] {
        assert_eq!(SubscriptionName::derived_from(original).as_str(), derived, "from {original:?}");
    }
}

#[test]
fn names_derived_from_similar_texts_differ() {
    let derived = ["a.b", "a_b", "A-b", "a-b", "a.b."].map(SubscriptionName::derived_from);
    let distinct: std::collections::HashSet<_> = derived.iter().collect();
    assert_eq!(distinct.len(), derived.len(), "{derived:?}");
}

proptest! {
    #[test]
    fn a_derived_name_is_a_dns_label(name in "\\PC{0,100}|[A-Z._-]{0,100}") {
        let derived = SubscriptionName::derived_from(&name);
        prop_assert!(is_dns_label(derived.as_str()), "{derived:?}");
        prop_assert_eq!(&derived, &SubscriptionName::derived_from(&name));
    }
}

#[test]
fn patterns_match_whole_names() {
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
fn one_matching_pattern_suffices_and_no_filter_matches_all() {
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

/// A name that Kubeflow ships. As a pattern alone, its brackets are a class of characters.
#[test]
fn an_entry_matches_the_name_that_it_equals() {
    let name = "[Demo] TFX - Taxi tip prediction model trainer";
    let filter = PipelineFilter::matching([name]).unwrap();
    assert!(filter.matches(name));
    assert!(filter.matches("D TFX - Taxi tip prediction model trainer"), "and is a pattern as well");
    assert!(!filter.matches("TFX - Taxi tip prediction model trainer"));
}

#[test]
fn equal_entries_in_another_order_are_the_same_filter() {
    let filters = [["a", "b*"], ["b*", "a"]].map(|entries| PipelineFilter::matching(entries).unwrap());
    assert_eq!(filters[0], filters[1]);
    assert_ne!(filters[0], PipelineFilter::default());
}

#[test]
fn only_a_compiled_pipeline_name_is_certain() {
    let certain = |pipeline| Subscription::certain_pipeline(&workflow(pipeline)).map(ToString::to_string);
    assert_eq!(certain(PipelineName::Spec("iris".into())), Some("iris".to_owned()));
    assert_eq!(certain(PipelineName::Generated("taxi".into())), None);
    assert_eq!(certain(PipelineName::Unknown), None);
    let failed = Workflow { phase: Phase::Failed, ..workflow(PipelineName::Generated("taxi".into())) };
    assert_eq!(Subscription::certain_pipeline(&failed).map(|name| &**name), Some("taxi"), "it is not looked up");
}

#[test]
fn a_run_is_too_old_above_the_maximum_age() {
    let limited = Subscription { max_age: Some(Duration::from_secs(60)), ..subscription() };
    let run = workflow(PipelineName::Unknown);
    for (now, too_old) in [(1_060, false), (1_061, true), (0, false), (i64::MIN, false), (i64::MAX, true)] {
        assert_eq!(limited.is_too_old(&run, now), too_old, "at {now}");
        assert!(!subscription().is_too_old(&run, now));
    }
    let endless = Subscription { max_age: Some(Duration::MAX), ..subscription() };
    assert!(!endless.is_too_old(&Workflow { created: i64::MIN, ..run.clone() }, i64::MAX));
    let long = Workflow { finished: 5_000, ..run };
    assert!(!limited.is_too_old(&long, 5_060), "the age counts from the end of the run");
    assert!(limited.is_too_old(&long, 5_061));
}

#[test]
fn only_its_own_mark_is_a_delivery() {
    let mark = |name| Mark { subscription: SubscriptionName::new(name).unwrap(), outcome: RunOutcome::Succeeded };
    let with = |marks: &[Mark]| Workflow { marks: marks.to_vec().into(), ..workflow(PipelineName::Unknown) };
    assert!(subscription().is_delivered(&with(&[mark("mine")]), false));
    assert!(!subscription().is_delivered(&with(&[mark("other")]), false));
}

#[test]
fn the_label_events_published_counts_only_if_configured() {
    let labelled = Workflow { events_published: true, ..workflow(PipelineName::Unknown) };
    assert!(subscription().is_delivered(&labelled, true));
    assert!(!subscription().is_delivered(&labelled, false));
    assert!(!subscription().is_delivered(&workflow(PipelineName::Unknown), true));
}

#[test]
fn a_scoped_subscription_honors_the_marks_of_its_plain_name() {
    let mark = |name: &str| Mark { subscription: SubscriptionName(name.into()), outcome: RunOutcome::Succeeded };
    let with = |marks: &[Mark]| Workflow { marks: marks.to_vec().into(), ..workflow(PipelineName::Unknown) };
    let scoped = subscription().scoped("team-a");
    assert_eq!(scoped.name.as_str(), "mine.team-a");
    assert!(scoped.is_delivered(&with(&[mark("mine.team-a")]), false));
    assert!(scoped.is_delivered(&with(&[mark("mine")]), false), "from before names had scopes");
    assert!(!scoped.is_delivered(&with(&[mark("mine.team-b")]), false), "another account");
    assert!(!subscription().is_delivered(&with(&[mark("mine.team-a")]), false));
}

#[test]
fn scoped_names_fit_an_annotation_and_stay_distinct() {
    let long = SubscriptionName::new(&"s".repeat(MAX_NAME)).unwrap();
    let names = [long.scoped("team-a"), long.scoped("team-b"), SubscriptionName::new("s").unwrap().scoped("team-a")];
    for name in &names {
        assert!(name.as_str().len() <= MAX_NAME, "{name}");
        assert!(name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)), "{name}");
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
    }
}

/// Otherwise the owner of a namespace with such a name could mark another account's deliveries.
#[test]
fn a_shortened_name_is_not_that_of_another_namespace() {
    let shortened = SubscriptionName::new("deploy").unwrap().scoped(&"n".repeat(60));
    let (name, scope) = shortened.as_str().split_once('.').unwrap();
    assert_eq!((name, shortened.as_str().len()), ("deploy", MAX_NAME));
    assert!(!is_dns_label(scope), "{scope}");
}
