use proptest::prelude::*;

use super::*;

fn refusal(config: &str) -> String {
    parse("model-update", config.as_bytes()).unwrap_err().to_string()
}

#[test]
fn the_namespace_alone_suffices() {
    let subscription = parse("model-update", b"kfpNamespace: team-a\n").unwrap();
    assert_eq!(&*subscription.namespace, "team-a");
    assert_eq!(subscription.name.as_str(), "model-update");
    assert!(subscription.pipelines.matches("anything"));
    assert_eq!(*subscription.artifact_types, ArtifactTypes::default());
    assert_eq!(subscription.max_age, None);
    assert!(!subscription.latest_only && subscription.remember);
    assert_eq!(subscription.statuses, Statuses { succeeded: true, failed: false });
    assert_eq!(subscription.include, Include::default());
}

#[test]
fn every_key_is_applied() {
    let config = b"
kfpNamespace: team-a
subscription: deployer
pipelines: ['penguin-*', \"taxi\"]
artifactTypes:
  - system.Model
maxAge: 1d 12h
latestOnly: true
statuses: [failed, succeeded]
remember: false
include: [traceparent, namespace, status, createdAt, finishedAt, eventId]
";
    let subscription = parse("model-update", config).unwrap();
    assert_eq!(subscription.name.as_str(), "deployer");
    assert!(
        subscription.pipelines.matches("penguin-7")
            && subscription.pipelines.matches("taxi")
            && !subscription.pipelines.matches("taxis")
    );
    assert_eq!(*subscription.artifact_types, ArtifactTypes::named(["system.Model"]));
    assert_eq!(subscription.max_age, Some(Duration::from_secs(36 * 3600)));
    assert!(subscription.include.has(IncludeField::Traceparent) && subscription.include.has(IncludeField::Namespace));
    assert!(!subscription.include.has(IncludeField::RunId));
    for field in [IncludeField::Status, IncludeField::CreatedAt, IncludeField::FinishedAt, IncludeField::EventId] {
        assert!(subscription.include.has(field), "{field:?}");
    }
    assert!(subscription.latest_only && !subscription.remember);
    assert_eq!(subscription.statuses, Statuses { succeeded: true, failed: true });
}

#[test]
fn json_is_yaml() {
    assert_eq!(&*parse("x", br#"{"kfpNamespace": "team-a"}"#).unwrap().namespace, "team-a");
}

#[test]
fn an_invalid_event_source_name_gives_a_unique_subscription() {
    let first = parse("Model Update", b"kfpNamespace: a").unwrap().name;
    let second = parse("model_update", b"kfpNamespace: a").unwrap().name;
    assert!(first.as_str().starts_with("model-update-") && second.as_str().starts_with("model-update-"));
    assert_ne!(first, second);
}

#[test]
fn an_invalid_document_is_refused_with_what_to_write() {
    const EMPTY: &str = "config is empty; write at least `kfpNamespace: <namespace of the runs>`";
    const MAPPING: &str = "not a mapping; write `kfpNamespace: <namespace of the runs>`";
    for (config, message) in [
        ("", EMPTY),
        ("# nothing\n", EMPTY),
        ("---\n...\n", EMPTY),
        ("~", EMPTY),
        ("[a]", &format!("config is a list, {MAPPING}")),
        ("- kfpNamespace: a", &format!("config is a list, {MAPPING}")),
        ("team-a", &format!("config is text, {MAPPING}")),
        ("kfpNamespace:team-a", &format!("config is text, {MAPPING}")),
        ("7", &format!("config is a number, {MAPPING}")),
        ("true", &format!("config is true or false, {MAPPING}")),
        ("subscription: a", "kfpNamespace is missing; write `kfpNamespace: <namespace of the runs>`"),
        (
            "kfpNamespace: a\nmaxAge: 1h\nkfpNamespace: b",
            "config has the key \"kfpNamespace\" again in line 3; remove one of the two",
        ),
        (
            "kfpNamespace: a\n---\nmaxAge: 1h",
            "config has a second YAML document in line 3; write all keys in one document, without `---`",
        ),
        (
            "kfpNamespace: [[[[[[[[[[]]]]]]]]]]",
            "config is nested too deeply, too long or has too many aliases in line 1; write plain values and lists, \
             such as `pipelines: [\"penguin-*\"]`",
        ),
    ] {
        assert_eq!(refusal(config), message, "{config:?}");
    }
}

#[test]
fn invalid_yaml_is_refused_with_its_line_and_what_to_write() {
    for (config, problem) in [
        ("a: b: c", "line 1: mapping values are not allowed in this context"),
        ("kfpNamespace: a\n  maxAge: 1h", "line 2: mapping values are not allowed in this context"),
        ("kfpNamespace: a\npipelines: [b", "line 2: unclosed bracket '['"),
        ("kfpNamespace: 'a", "line 1: unclosed quote"),
        ("kfpNamespace: a\npipelines: [*penguin]", "line 2: a text that begins with * must be in quotes"),
        ("kfpNamespace: {{namespace}}", "line 1: a key must be text"),
    ] {
        let message = format!(
            "config is not valid YAML in {problem}; write each key on its own line, such as `kfpNamespace: my-team`, \
             and quote text with special characters"
        );
        assert_eq!(refusal(config), message, "{config:?}");
    }
    let message = parse("x", b"kfpNamespace: \xff").unwrap_err().to_string();
    assert_eq!(message, "config is not UTF-8 after byte 14; save it as UTF-8");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    for (key, meant) in [
        ("kfpnamespace", "kfpNamespace"),
        ("kfp_namespace", "kfpNamespace"),
        ("namespace", "kfpNamespace"),
        ("max-age", "maxAge"),
        ("age", "maxAge"),
        ("pipeline", "pipelines"),
        ("Include", "include"),
        ("artifactType", "artifactTypes"),
        ("subscripton", "subscription"),
        ("latest_only", "latestOnly"),
        ("latest", "latestOnly"),
        ("status", "statuses"),
        ("remembered", "remember"),
    ] {
        let message = format!("config has the unknown key \"{key}\"; did you mean {meant}?");
        assert_eq!(refusal(&format!("{key}: a")), message);
    }
    for key in ["colour", "1", "\u{1F427}", "a"] {
        let message = format!(
            "config has the unknown key \"{key}\"; write one of kfpNamespace, subscription, pipelines, artifactTypes, \
             maxAge, latestOnly, statuses, remember, include"
        );
        assert_eq!(refusal(&format!("kfpNamespace: a\n{key}: b")), message);
    }
}

/// Asserts the messages for invalid values of a key: its problem, and the example that all have in common.
fn refusals(key: &str, example: &str, values: &[(&str, &str)]) {
    for (value, problem) in values {
        let config = match key {
            "kfpNamespace" => format!("{key}: {value}"),
            key => format!("kfpNamespace: a\n{key}: {value}"),
        };
        assert_eq!(refusal(&config), format!("{key} {problem}; write {example}"), "{config:?}");
    }
}

const NO_LABEL: &str =
    "is not a DNS label (1 to 63 characters, a-z, 0-9 and '-', beginning and ending with a letter or digit)";

#[test]
fn a_namespace_must_be_a_dns_label() {
    let long = "x".repeat(64);
    refusals(
        NAMESPACE,
        "`kfpNamespace: my-team`",
        &[
            ("''", "is empty"),
            ("", "has no value"),
            ("null", "has no value"),
            ("7", "is a number, not text (quotes make it text)"),
            ("true", "is true or false, not text (quotes make it text)"),
            ("[a]", "is a list, not text"),
            ("{a: b}", "is a mapping, not text"),
            ("Team A", &format!("\"Team A\" {NO_LABEL}")),
            ("team.a", &format!("\"team.a\" {NO_LABEL}")),
            ("-a", &format!("\"-a\" {NO_LABEL}")),
            ("a*", &format!("\"a*\" {NO_LABEL}")),
            ("\"a\\n\\e\"", &format!("\"a\\n\\u{{1b}}\" {NO_LABEL}")),
            (&long, &format!("\"{}…\" {NO_LABEL}", &long[..60])),
        ],
    );
}

#[test]
fn an_explicit_subscription_must_be_a_dns_label() {
    refusals(
        SUBSCRIPTION,
        "a name such as `subscription: deployer`, or leave it out to use the EventSource's name",
        &[
            ("Odd!", &format!("\"Odd!\" {NO_LABEL}")),
            ("''", &format!("\"\" {NO_LABEL}")),
            ("", "has no value"),
            ("5", "is a number, not text (quotes make it text)"),
        ],
    );
}

#[test]
fn pipelines_are_a_list_of_glob_patterns() {
    let long = format!("'{}{}'", "{a,".repeat(5000), "}".repeat(5000));
    let many = format!("[{}]", "a,".repeat(65));
    refusals(
        PIPELINES,
        "a list such as `pipelines: [\"penguin-*\"]`, or leave it out for every pipeline",
        &[
            ("[]", "is an empty list, which matches nothing"),
            ("penguin", "is text, not a list"),
            ("", "has no value"),
            ("{penguin: true}", "is a mapping, not a list"),
            ("['']", "has an empty entry"),
            ("[null]", "has an entry that has no value"),
            ("[[a]]", "has an entry that is a list, not text"),
            ("['a[']", "\"a[\" is not a glob pattern: [ without a closing ]; write [[] for the character itself"),
            ("['[z-a]']", "\"[z-a]\" is not a glob pattern: the range z-a is empty"),
            (&format!("[{long}]"), &format!("has the entry \"{}…\" of more than 256 bytes", "{a,".repeat(20))),
            (&many, "has more than 64 entries"),
        ],
    );
}

#[test]
fn artifact_types_are_a_list_of_names() {
    refusals(
        ARTIFACT_TYPES,
        "a list such as `artifactTypes: [system.Model]`, or leave it out for pushed models",
        &[
            ("[]", "is an empty list, which matches nothing"),
            ("[7]", "has an entry that is a number, not text (quotes make it text)"),
            ("system.Model", "is text, not a list"),
            ("", "has no value"),
        ],
    );
}

#[test]
fn an_age_is_a_positive_duration_with_a_unit() {
    for (text, seconds) in
        [("90m", 5400), ("24h", 86_400), ("1d", 86_400), ("1d 12h", 129_600), ("1d12h", 129_600), ("'30s'", 30)]
    {
        let subscription = parse("x", format!("kfpNamespace: a\nmaxAge: {text}").as_bytes()).unwrap();
        assert_eq!(subscription.max_age, Some(Duration::from_secs(seconds)), "{text}");
    }
    refusals(
        MAX_AGE,
        "a duration with its unit such as `maxAge: 12h` (s, m, h, d, w), or leave it out for no limit",
        &[
            ("30", "30 has no unit"),
            ("'30'", "\"30\" has no unit"),
            ("0", "0 has no unit"),
            ("0s", "\"0s\" is less than a second"),
            ("500ms", "\"500ms\" is less than a second"),
            ("-1h", "\"-1h\" is negative"),
            ("soon", "\"soon\" is not a duration"),
            ("1 fortnight", "\"1 fortnight\" is not a duration"),
            ("''", "\"\" is not a duration"),
            ("999999999999999999999h", "\"999999999999999999999h\" is too long"),
            ("", "has no value"),
            ("true", "is true or false, not a duration"),
        ],
    );
}

#[test]
fn only_known_fields_can_be_included() {
    refusals(
        INCLUDE,
        "a list of any of namespace, workflowName, workflowUid, runId, traceparent, status, createdAt, finishedAt, eventId, \
         or leave it out",
        &[
            ("[everything]", "has the unknown field \"everything\""),
            ("[run_id]", "has the unknown field \"run_id\" (did you mean runId?)"),
            ("[finished_at]", "has the unknown field \"finished_at\" (did you mean finishedAt?)"),
            ("[created]", "has the unknown field \"created\" (did you mean createdAt?)"),
            ("[eventID]", "has the unknown field \"eventID\" (did you mean eventId?)"),
            ("[namespace, Workflowname]", "has the unknown field \"Workflowname\" (did you mean workflowName?)"),
            ("namespace", "is text, not a list"),
            ("[]", "is an empty list, which matches nothing"),
            ("", "has no value"),
        ],
    );
}

#[test]
fn switches_are_true_or_false() {
    for (key, example) in [
        (LATEST_ONLY, "`latestOnly: true`, or leave it out to receive every run"),
        (REMEMBER, "`remember: false`, or leave it out to have deliveries remembered"),
    ] {
        for (text, value) in [("true", true), ("false", false), ("yes", true), ("off", false)] {
            let subscription = parse("x", format!("kfpNamespace: a\n{key}: {text}").as_bytes()).unwrap();
            let applied = if key == LATEST_ONLY { subscription.latest_only } else { subscription.remember };
            assert_eq!(applied, value, "{key}: {text}");
        }
        refusals(
            key,
            example,
            &[
                ("", "has no value"),
                ("'true'", "is the text \"true\", not true or false"),
                ("always", "is the text \"always\", not true or false"),
                ("1", "is a number, not true or false"),
                ("[true]", "is a list, not true or false"),
            ],
        );
    }
}

#[test]
fn statuses_are_a_list_of_outcomes() {
    for (text, succeeded, failed) in
        [("[succeeded]", true, false), ("[failed]", false, true), ("[failed, succeeded, failed]", true, true)]
    {
        let subscription = parse("x", format!("kfpNamespace: a\nstatuses: {text}").as_bytes()).unwrap();
        assert_eq!(subscription.statuses, Statuses { succeeded, failed }, "{text}");
    }
    refusals(
        STATUSES,
        "a list of any of succeeded, failed, or leave it out for succeeded runs only",
        &[
            ("[]", "is an empty list, which matches nothing"),
            ("failed", "is text, not a list"),
            ("", "has no value"),
            ("[Failed]", "has the unknown status \"Failed\" (did you mean failed?)"),
            ("[succeded]", "has the unknown status \"succeded\" (did you mean succeeded?)"),
            ("[Error]", "has the unknown status \"Error\" (did you mean failed?)"),
            ("[success]", "has the unknown status \"success\" (did you mean succeeded?)"),
            ("[running]", "has the unknown status \"running\""),
            ("[true]", "has an entry that is true or false, not text (quotes make it text)"),
        ],
    );
}

#[test]
fn an_error_names_its_key_and_kind_for_programs() {
    for (config, key, reason) in [
        ("", None, "CONFIG_EMPTY"),
        ("a: b: c", None, "CONFIG_NOT_YAML"),
        ("[a]", None, "CONFIG_NOT_A_MAPPING"),
        ("maxAge: 1h", Some("kfpNamespace"), "CONFIG_MISSING_KEY"),
        ("kfpNamespace: a\nage: 1h", Some("age"), "CONFIG_UNKNOWN_KEY"),
        ("kfpNamespace: a\nkfpNamespace: b", Some("kfpNamespace"), "CONFIG_DUPLICATE_KEY"),
        ("kfpNamespace: a\nmaxAge: soon", Some("maxAge"), "CONFIG_INVALID_VALUE"),
    ] {
        let error = parse("x", config.as_bytes()).unwrap_err();
        assert_eq!((error.key(), error.reason()), (key, reason), "{config:?}");
    }
}

#[test]
fn an_expensive_configuration_is_refused() {
    assert_eq!(parse("x", &vec![b'a'; MAX_CONFIG + 1]).unwrap_err(), ConfigError::TooLarge);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    let one_for_all = format!("a: &a [{}]\nb: [{}]", "x,".repeat(1000), "*a,".repeat(1000));
    let wide = format!("kfpNamespace: a\npipelines: [{}]", "a,".repeat(20_000));
    for config in [bomb, &one_for_all, &wide, &"a: {".repeat(200), &"- ".repeat(2000)] {
        assert!(matches!(parse("x", config.as_bytes()), Err(ConfigError::TooComplex { .. })), "{config:.40?}");
    }
}

#[test]
fn the_largest_accepted_patterns_compile() {
    let nested = format!("{}a{}", "{a,".repeat(63), "}".repeat(63));
    let classes = "[a-z]*".repeat(MAX_ENTRY / 6);
    let open = "{".repeat(MAX_ENTRY);
    let list = |pattern: &str| format!("kfpNamespace: a\npipelines: [{}]", format!("'{pattern}',").repeat(MAX_LIST));
    assert!(parse("x", list(&nested).as_bytes()).unwrap().pipelines.matches("a"));
    assert!(parse("x", list(&classes).as_bytes()).unwrap().pipelines.matches(&"a".repeat(MAX_ENTRY / 6)));
    assert!(refusal(&list(&open)).contains("is not a glob pattern"));
}

/// Texts that resemble configurations, with many kinds of mistakes.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(KEYS.to_vec()).prop_map(|key| format!("\n{key}: ")),
        4 => prop::sample::select(vec![
            "a", "'", "\"", "[", "]", "{", "}", ", ", ": ", "- ", "\n", "\n  ", "*", "&a ", "*a", "!!binary ", "<<: ",
            "---\n", "|\n", ">\n", "# ", "? ", "~", "-1h", "7", "\\", "\u{feff}", "\u{1b}", "%", "[z-a]", "{a,b}",
        ]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => any::<char>().prop_map(|character| character.to_string().repeat(100)),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_input_panics_and_every_message_is_one_short_line(config in pieces(), name in ".{0,80}") {
        if let Err(error) = parse(&name, config.as_bytes()) {
            let message = error.to_string();
            prop_assert!(message.chars().count() <= 512, "{}", message);
            prop_assert!(!message.chars().any(char::is_control), "{:?}", message);
        }
    }

    #[test]
    fn no_bytes_panic(config in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(parse("x", &config));
    }

    #[test]
    fn every_derived_name_is_a_dns_label(name in ".{0,120}") {
        let subscription = parse(&name, b"kfpNamespace: a").unwrap();
        prop_assert!(is_dns_label(subscription.name.as_str()), "{:?}", subscription.name);
    }
}
