//! The JSON Schemas under `docs/schemas`, compared with the parser of configurations and with real payloads.

use model_update_eventsource::{
    eventsource::config,
    model::{Artifact, IncludeField, Marks, Phase, PipelineName, RunId, RunModels, Workflow, event::payload},
};
use regex::Regex;
use serde_json::{Value, json};
use test_support::code_blocks;

use super::read;

/// Keywords that say nothing about a value.
const NOTES: [&str; 4] = ["$schema", "$defs", "title", "description"];

fn schema(name: &str) -> Value {
    serde_json::from_str(&read(&format!("docs/schemas/{name}.schema.json"))).unwrap()
}

/// Returns whether a value is valid, by the keywords that the schemas here use.
///
/// # Panics
/// At a keyword that it does not know, so that none is ignored.
fn is_valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let length = |of: &Value| usize::try_from(of.as_u64().unwrap()).unwrap();
    schema.as_object().unwrap().iter().filter(|(keyword, _)| !NOTES.contains(&keyword.as_str())).all(|(keyword, of)| {
        match (keyword.as_str(), value) {
            ("$ref", _) => is_valid(root, root.pointer(of.as_str().unwrap().trim_start_matches('#')).unwrap(), value),
            ("type", _) => match of.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                other => panic!("type {other}"),
            },
            ("enum", _) => of.as_array().unwrap().contains(value),
            ("required", Value::Object(fields)) => {
                of.as_array().unwrap().iter().all(|key| fields.contains_key(key.as_str().unwrap()))
            }
            ("properties", Value::Object(fields)) => {
                fields.iter().all(|(key, value)| of.get(key).is_none_or(|of| is_valid(root, of, value)))
            }
            ("additionalProperties", Value::Object(fields)) => {
                assert_eq!(*of, json!(false));
                fields.keys().all(|key| schema["properties"].get(key).is_some())
            }
            ("items", Value::Array(items)) => items.iter().all(|item| is_valid(root, of, item)),
            ("minItems", Value::Array(items)) => items.len() >= length(of),
            ("maxItems", Value::Array(items)) => items.len() <= length(of),
            ("minLength", Value::String(text)) => text.len() >= length(of),
            ("maxLength", Value::String(text)) => text.len() <= length(of),
            ("pattern", Value::String(text)) => Regex::new(of.as_str().unwrap()).unwrap().is_match(text),
            // For other types of values these keywords mean nothing.
            (
                "required"
                | "properties"
                | "additionalProperties"
                | "items"
                | "minItems"
                | "maxItems"
                | "minLength"
                | "maxLength"
                | "pattern",
                _,
            ) => true,
            (other, _) => panic!("keyword {other}"),
        }
    })
}

fn accepts(name: &str, value: &Value) -> bool {
    let schema = schema(name);
    is_valid(&schema, &schema, value)
}

/// The keys that the parser names where it finds no similar one.
pub(super) fn keys_of_the_parser() -> Vec<String> {
    let refusal = config::parse("name", b"0000000000: 1").unwrap_err().to_string();
    let (_, keys) = refusal.split_once("write one of ").unwrap_or_else(|| panic!("{refusal}"));
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_schema_has_the_keys_of_the_parser() {
    let schema = schema("config");
    let mut keys = keys_of_the_parser();
    keys.sort();
    assert_eq!(schema["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>(), keys);
}

#[test]
fn schema_and_parser_accept_the_same_configurations() {
    let long = "x".repeat(257);
    let many: Vec<_> = (0..65).map(|n| n.to_string()).collect();
    let with = |key: &str, value: Value| {
        let mut config = json!({"kfpNamespace": "team-a"});
        config[key] = value;
        config
    };
    let mut cases = vec![
        json!({}),
        json!([]),
        json!({"kfpNamespace": "Team_A"}),
        json!({"kfpNamespace": ""}),
        json!({"kfpNamespace": "a".repeat(64)}),
        json!({"kfpNamespace": "a".repeat(63)}),
        json!({"kfpNamespace": "-a"}),
        json!({"kfpNamespace": 7}),
        with("kfpNamspace", json!("a")),
        with("subscription", json!("deployer")),
        with("subscription", json!("a.b")),
        with("maxAge", json!("12h")),
        with("maxAge", json!("1d 12h")),
        with("maxAge", json!("12")),
        with("maxAge", json!(12)),
        with("maxAge", json!("-1h")),
        with("latestOnly", json!(true)),
        with("latestOnly", json!("true")),
        with("remember", json!(false)),
        with("remember", json!(0)),
        with("statuses", json!(["succeeded", "failed"])),
        with("statuses", json!(["error"])),
        with("statuses", json!("failed")),
        with("include", json!(IncludeField::ALL.map(IncludeField::key))),
        with("include", json!(["uid"])),
        with("include", json!([])),
    ];
    for key in ["pipelines", "artifactTypes"] {
        for value in
            [json!(["a*"]), json!([]), json!([""]), json!([long]), json!(many), json!("a"), json!([7]), json!(null)]
        {
            cases.push(with(key, value));
        }
    }
    let mut accepted = 0;
    for case in &cases {
        let parsed = config::parse("name", case.to_string().as_bytes());
        assert_eq!(accepts("config", case), parsed.is_ok(), "{case}: {:?}", parsed.err());
        accepted += usize::from(parsed.is_ok());
    }
    assert!(accepted >= 9 && accepted + 9 <= cases.len(), "{accepted}");
}

fn workflow(phase: Phase) -> Workflow {
    Workflow {
        namespace: "team-a".into(),
        name: "penguin-x7k2p".into(),
        uid: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef.into(),
        created: 1_785_578_400,
        finished: 1_785_578_461,
        phase,
        resubmitted: false,
        events_published: false,
        pipeline: PipelineName::Spec("penguin-pipeline".into()).into(),
        run_id: Some(RunId::new("6c0a0f4e-5f0a-4a8b-9f2e-0d8f3b1f2a3c")),
        trace_id: None,
        marks: Marks::default(),
    }
}

#[test]
fn payloads_fulfill_their_schema() {
    let model = Artifact {
        id: 1.into(),
        name: None,
        uri: "gs://models/penguin/1638".into(),
        node: "Pusher".into(),
        key: "pushed_model".into(),
        index: 0,
    };
    let found = RunModels { models: vec![model], ..RunModels::default() };
    let trace = format!("00-{:032x}-{:016x}-01", 7, 9);
    let properties = schema("payload")["properties"].as_object().unwrap().clone();
    for phase in [Phase::Succeeded, Phase::Failed] {
        for fields in [&[][..], &IncludeField::ALL] {
            let include = fields.iter().copied().collect();
            let payload = payload(&workflow(phase), &found, include, Some(&trace)).unwrap();
            let payload: Value = serde_json::from_slice(&payload).unwrap();
            assert!(accepts("payload", &payload), "{payload}");
            let keys = payload.as_object().unwrap().keys();
            assert!(keys.clone().all(|key| properties.contains_key(key)), "{payload}");
            assert!(fields.is_empty() || keys.len() == properties.len(), "{payload}");
        }
    }
}

/// The payloads in the documentation are valid, and values of wrong types are not.
#[test]
fn documented_payloads_fulfill_the_schema() {
    let pages = ["README.md", "docs/events.md"].map(read);
    let payloads: Vec<_> = pages.iter().flat_map(|page| code_blocks(page, "json")).collect();
    assert!(payloads.len() >= 3);
    for payload in payloads {
        let mut payload: Value = serde_json::from_str(&payload).unwrap();
        assert!(accepts("payload", &payload), "{payload}");
        payload["pipelineName"] = json!(7);
        assert!(!accepts("payload", &payload));
    }
}
