use proptest::prelude::*;

use super::*;

fn refusal(config: &str) -> String {
    parse("model-update", config.as_bytes()).unwrap_err().to_string()
}

#[test]
fn the_namespace_alone_suffices() {
    let wanted = parse("model-update", b"kfpNamespace: team-a\n").unwrap();
    assert_eq!(&*wanted.namespace, "team-a");
    assert_eq!(wanted.name.as_str(), "model-update");
    assert!(wanted.pipelines.wants("anything"));
    assert_eq!(*wanted.artifact_types, ArtifactTypes::default());
    assert_eq!(wanted.max_age, None);
    assert_eq!(wanted.include, Include::default());
}

#[test]
fn every_key_has_its_meaning() {
    let config = b"
kfpNamespace: team-a
subscription: deployer
pipelines: ['penguin-*', \"taxi\"]
artifactTypes:
  - system.Model
maxAge: 1d 12h
include: [traceparent, namespace]
";
    let wanted = parse("model-update", config).unwrap();
    assert_eq!(wanted.name.as_str(), "deployer");
    assert!(wanted.pipelines.wants("penguin-7") && wanted.pipelines.wants("taxi") && !wanted.pipelines.wants("taxis"));
    assert_eq!(*wanted.artifact_types, ArtifactTypes::named(["system.Model"]));
    assert_eq!(wanted.max_age, Some(Duration::from_secs(36 * 3600)));
    assert!(wanted.include.has(IncludeField::Traceparent) && wanted.include.has(IncludeField::Namespace));
    assert!(!wanted.include.has(IncludeField::RunId));
}

#[test]
fn json_is_yaml() {
    assert_eq!(&*parse("x", br#"{"kfpNamespace": "team-a"}"#).unwrap().namespace, "team-a");
}

#[test]
fn an_odd_event_source_name_becomes_a_subscription_of_its_own() {
    let first = parse("Model Update", b"kfpNamespace: a").unwrap().name;
    let second = parse("model_update", b"kfpNamespace: a").unwrap().name;
    assert!(first.as_str().starts_with("model-update-") && second.as_str().starts_with("model-update-"));
    assert_ne!(first, second);
}

#[test]
fn every_refusal_names_the_key_and_says_how_to_mend_it() {
    for (config, message) in [
        ("", "config is empty: write at least `kfpNamespace: <the namespace whose runs are wanted>`"),
        ("# nothing\n", "config is empty: write at least `kfpNamespace: <the namespace whose runs are wanted>`"),
        (
            "[a]",
            "config is a list, but has to be a mapping: write `kfpNamespace: <the namespace whose runs are wanted>`",
        ),
        (
            "team-a",
            "config is text, but has to be a mapping: write `kfpNamespace: <the namespace whose runs are wanted>`",
        ),
        ("subscription: a", "kfpNamespace is missing: write `kfpNamespace: <the namespace whose runs are wanted>`"),
        ("kfpNamespace: ''", "kfpNamespace: is empty; write `kfpNamespace: my-team`"),
        ("kfpNamespace:", "kfpNamespace: is null, not text; write `kfpNamespace: my-team`"),
        ("kfpNamespace: 7", "kfpNamespace: is a number, not text; write `kfpNamespace: my-team`"),
        (
            "kfpNamespace: Team A",
            "kfpNamespace: \"Team A\" cannot be a namespace: it is not a DNS label (1 to 63 characters, a-z, 0-9 and \
             '-', beginning and ending with a letter or digit); write `kfpNamespace: my-team`",
        ),
        ("kfpNamespace: a\nkfpnamespace: b", "config has the unknown key \"kfpnamespace\": did you mean kfpNamespace?"),
        ("kfpNamespace: a\nmax_age: 1h", "config has the unknown key \"max_age\": did you mean maxAge?"),
        (
            "kfpNamespace: a\ncolour: red",
            "config has the unknown key \"colour\": the keys are kfpNamespace, subscription, pipelines, artifactTypes, \
             maxAge, include",
        ),
        (
            "kfpNamespace: a\nsubscription: Odd!",
            "subscription: \"Odd!\" is not a DNS label (1 to 63 characters, a-z, 0-9 and '-', beginning and ending with \
             a letter or digit); write a name such as `subscription: deployer`, or leave it out to use the \
             EventSource's name",
        ),
        (
            "kfpNamespace: a\npipelines: []",
            "pipelines: is an empty list, which would match nothing; write a list such as `pipelines: [\"penguin-*\"]`, \
             or leave it out for every pipeline",
        ),
        (
            "kfpNamespace: a\npipelines: penguin",
            "pipelines: is text, not a list; write a list such as `pipelines: [\"penguin-*\"]`, or leave it out for \
             every pipeline",
        ),
        (
            "kfpNamespace: a\npipelines: ['a[']",
            "pipelines: \"a[\" is not a glob pattern (unclosed character class; missing ']'); write a list such as \
             `pipelines: [\"penguin-*\"]`, or leave it out for every pipeline",
        ),
        (
            "kfpNamespace: a\nartifactTypes: [7]",
            "artifactTypes: has an entry that is a number, not text; write a list such as `artifactTypes: \
             [system.Model]`, or leave it out for pushed models",
        ),
        (
            "kfpNamespace: a\nmaxAge: 30",
            "maxAge: 30 has no unit; write a duration with its unit such as `maxAge: 12h` (s, m, h, d, w), or leave it \
             out for no limit",
        ),
        (
            "kfpNamespace: a\nmaxAge: 0s",
            "maxAge: \"0s\" is less than a second; write a duration with its unit such as `maxAge: 12h` (s, m, h, d, \
             w), or leave it out for no limit",
        ),
        (
            "kfpNamespace: a\nmaxAge: -1h",
            "maxAge: \"-1h\" is not a duration; write a duration with its unit such as `maxAge: 12h` (s, m, h, d, w), \
             or leave it out for no limit",
        ),
        (
            "kfpNamespace: a\ninclude: [uid]",
            "include: there is no field \"uid\"; write a list of any of namespace, workflowName, workflowUid, runId, \
             traceparent, or leave it out",
        ),
    ] {
        assert_eq!(refusal(config), message, "{config:?}");
    }
}

#[test]
fn what_is_not_yaml_is_refused_in_one_line() {
    for config in ["a: b: c", "kfpNamespace: a\nkfpNamespace: b", "{", "a: 1\n---\nb: 2", "*x"] {
        let message = refusal(config);
        assert!(message.starts_with("config is not valid YAML: "), "{config:?}: {message:?}");
        assert!(!message.contains('\n') && message.len() <= 512, "{config:?}: {message}");
    }
    let message = parse("x", b"kfpNamespace: \xff").unwrap_err().to_string();
    assert_eq!(message, "config is not valid YAML: it is not UTF-8 after octet 14");
}

#[test]
fn a_configuration_cannot_eat_the_server() {
    assert_eq!(parse("x", &vec![b'a'; MAX_CONFIG + 1]).unwrap_err(), ConfigError::TooLarge);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    assert!(refusal(bomb).len() <= 512);
}

#[test]
fn long_values_are_repeated_only_in_part() {
    let message = refusal(&format!("kfpNamespace: {}", "x".repeat(5000)));
    assert!(message.len() <= 512, "{message}");
}

proptest! {
    #[test]
    fn no_input_panics_and_no_message_is_long(config in ".{0,300}", name in ".{0,80}") {
        if let Err(error) = parse(&name, config.as_bytes()) {
            let message = error.to_string();
            prop_assert!(message.chars().count() <= 512 && !message.contains('\n'), "{}", message);
        }
    }

    #[test]
    fn every_derived_name_is_a_dns_label(name in ".{0,120}") {
        let wanted = parse(&name, b"kfpNamespace: a").unwrap();
        prop_assert!(is_dns_label(wanted.name.as_str()), "{:?}", wanted.name);
    }
}
