//! The configuration of a person's stream, and what it has seen.

use super::*;

fn config(file: &str, flags: Flags) -> Result<StreamConfig, FlagsError> {
    let file = (!file.is_empty()).then_some(file.as_bytes());
    StreamConfig::new(file, &flags, Some("context"))
}

fn keys(config: &StreamConfig, since_first: Option<u64>) -> Value {
    serde_json::from_str(&config.text(since_first.map(Duration::from_secs))).unwrap()
}

fn in_team() -> Flags {
    Flags { namespace: Some("team-a".to_owned()), ..Flags::default() }
}

#[test]
fn a_stream_remembers_nothing_by_default() {
    let stream = config("", in_team()).unwrap();
    assert_eq!((stream.namespace(), stream.remembered_as(), stream.past()), ("team-a", None, None));
    assert_eq!(keys(&stream, None), json!({"kfpNamespace": "team-a", "remember": false, "include": ["eventId"]}));
    let default = config("", Flags::default()).unwrap();
    assert_eq!(default.namespace(), "context");
    assert_eq!(StreamConfig::new(None, &Flags::default(), None).unwrap_err(), FlagsError::NoNamespace);
}

#[test]
fn a_remembered_stream_has_the_name_and_no_ids() {
    let flags = Flags { remember: Some("deployer".to_owned()), ..in_team() };
    let stream = config("", flags).unwrap();
    assert_eq!(stream.remembered_as(), Some("deployer"));
    let expected = json!({"kfpNamespace": "team-a", "remember": true, "subscription": "deployer"});
    assert_eq!((keys(&stream, None), keys(&stream, Some(60))), (expected.clone(), expected));
}

#[test]
fn past_runs_are_asked_for_by_age_and_after_a_disconnect() {
    let stream = config("", Flags { since: Some(Duration::from_secs(3600)), ..in_team() }).unwrap();
    assert_eq!(stream.past(), Some(Duration::from_secs(3600)));
    assert_eq!(
        (&keys(&stream, None)["maxAge"], &keys(&stream, Some(60))["maxAge"]),
        (&json!("3600s"), &json!("3660s"))
    );
    let stream = config("", in_team()).unwrap();
    assert_eq!((&keys(&stream, None)["maxAge"], &keys(&stream, Some(60))["maxAge"]), (&Value::Null, &json!("60s")));
    let stream = config("maxAge: 2h", in_team()).unwrap();
    assert_eq!(keys(&stream, Some(60))["maxAge"], "2h", "the file's own age stays");
    assert_eq!(stream.past(), Some(Duration::from_secs(7200)));
}

#[test]
fn a_file_and_flags_must_not_contradict_each_other() {
    let remember = || Flags { remember: Some("deployer".to_owned()), ..in_team() };
    let since = || Flags { since: Some(Duration::from_secs(3600)), ..in_team() };
    let pipelines = || Flags { keys: vec![("pipelines", "--pipelines", json!(["a"]))], ..in_team() };
    for (file, flags, words) in [
        ("kfpNamespace: other", in_team(), "--namespace contradicts --config, which has `kfpNamespace: other`"),
        ("remember: false", remember(), "--remember contradicts"),
        ("subscription: other", remember(), "which has `subscription: other`"),
        ("remember: true", in_team(), "name the subscription with --remember NAME"),
        ("maxAge: 2h", since(), "--since contradicts"),
        ("pipelines: [b]", pipelines(), "--pipelines contradicts"),
        ("pipeline: [b]", in_team(), "did you mean pipelines?"),
        ("include: []", in_team(), "include"),
        ("- a", in_team(), "not a mapping"),
    ] {
        let error = config(file, flags).unwrap_err().to_string();
        assert!(error.contains(words), "{file}: {error}");
    }
    for (file, flags) in [
        ("kfpNamespace: team-a", in_team()),
        ("maxAge: 60m", since()),
        ("pipelines: [a]", pipelines()),
        ("subscription: deployer\nremember: true", remember()),
        ("subscription: ignored", in_team()),
    ] {
        config(file, flags).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

const ID: &str = "6f1c2f0e-54a1-5b6b-9a57-3c0d8e2b7d41";

#[test]
fn added_ids_are_not_shown() {
    let payload = r#"{"pipelineName":"p","servingModelArtifacts":[]"#;
    let with_id = format!("{payload},\"eventId\":\"{ID}\"}}");
    let hidden = config("", in_team()).unwrap();
    assert_eq!(hidden.read_event(&with_id), (format!("{payload}}}"), Some(ID)));
    let shown = config("include: [eventId]", in_team()).unwrap();
    assert_eq!(shown.read_event(&with_id), (with_id.clone(), Some(ID)));
    for other in ["", "{}", "\"}", "é\"}", "{\"a\":\"x\"}"] {
        assert_eq!(hidden.read_event(other), (other.to_owned(), None));
    }
}

#[test]
fn an_event_is_repeated_only_by_a_later_connection() {
    let mut seen = Seen::default();
    assert!(seen.is_new("a") && seen.is_new("a"), "it ended again");
    seen.reconnected();
    assert!(!seen.is_new("a") && seen.is_new("b"));
    assert!(seen.is_new("a"), "it ended again after that");
    seen.reconnected();
    seen.reconnected();
    assert!(!seen.is_new("a") && !seen.is_new("b"));
}
