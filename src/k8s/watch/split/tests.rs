use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The items of a list that arrives in chunks of these sizes, repeated, and its position.
fn split(list: &[u8], sizes: &[usize]) -> Result<(Vec<Result<String, Oversized>>, ListMetadata), NotAList> {
    let mut splitter = ListSplitter::default();
    let mut items = Vec::new();
    for mut chunk in chunks(list, sizes) {
        while let Some(item) = splitter.next(&mut chunk)? {
            items.push(item.map(|item| String::from_utf8(item.to_owned()).unwrap()));
        }
        assert!(chunk.is_empty());
    }
    Ok((items, splitter.finish()?))
}

fn chunks<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for size in sizes.iter().cycle() {
        let size = (*size).min(bytes.len());
        chunks.push(take(&mut bytes, size));
        if bytes.is_empty() {
            break;
        }
    }
    chunks
}

fn items(list: &str) -> Vec<String> {
    split(list.as_bytes(), &[list.len()]).unwrap().0.into_iter().map(Result::unwrap).collect()
}

#[test]
fn a_list_is_split_into_its_items() {
    let list = r#"{"kind":"L","metadata":{"resourceVersion":"7","continue":"x"},"items":[{"a":[1,{"b":"]},{"}]}, null ,7,"x,]",[]]}"#;
    for size in [1, 2, 3, 7, 1000] {
        let (found, metadata) = split(list.as_bytes(), &[size]).unwrap();
        let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
        assert_eq!(found, [r#"{"a":[1,{"b":"]},{"}]}"#, "null", "7", r#""x,]""#, "[]"], "chunks of {size}");
        assert_eq!(metadata, ListMetadata { resource_version: Some("7".into()), token: Some("x".into()) });
    }
}

#[test]
fn an_empty_list_has_no_items() {
    for empty in ["[]", "[ \n ]", "null", "{}"] {
        assert_eq!(items(&format!(r#"{{"items":{empty},"metadata":{{}}}}"#)), [""; 0], "{empty}");
    }
    assert_eq!(items(r#"{"metadata":{}}"#), [""; 0]);
}

#[test]
fn only_the_outermost_key_named_items_counts() {
    let list =
        r#"{"metadata":{"items":[1,2],"x":"items"},"other":["items",[3]],"items":[4],"more":[5],"z":{"items":[6]}}"#;
    assert_eq!(items(list), ["4"]);
}

#[test]
fn an_incomplete_or_odd_answer_is_not_a_list() {
    let list = r#"{"metadata":{"resourceVersion":"7"},"items":[{"a":1},{"b":2}]}"#;
    for end in 0..list.len() {
        assert!(split(&list.as_bytes()[..end], &[5]).is_err(), "{}", &list[..end]);
    }
    for odd in ["<html></html>", "]", "null", "7", r#"["items",[1]]"#, r#"{"items":[1]}"#, r#"{"metadata":7}"#] {
        assert!(split(odd.as_bytes(), &[5]).is_err(), "{odd}");
    }
    let long = format!(r#"{{"metadata":{{}},"x":"{}"}}"#, "x".repeat(MAX_ENVELOPE));
    assert!(matches!(split(long.as_bytes(), &[1000]), Err(NotAList::TooLong)));
}

#[test]
fn an_oversized_item_is_skipped_and_its_memory_freed() {
    let huge = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_OBJECT));
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_OBJECT / 2));
    let list = format!(r#"{{"items":[1,{huge},{large},2],"metadata":{{}}}}"#);
    let (found, _) = split(list.as_bytes(), &[100_000]).unwrap();
    assert_eq!(found, [Ok("1".into()), Err(Oversized), Ok(large), Ok("2".into())]);

    let mut splitter = ListSplitter::default();
    for mut chunk in chunks(list.as_bytes(), &[100_000]) {
        while splitter.next(&mut chunk).unwrap().is_some() {}
        let held = splitter.item.bytes.capacity() + splitter.envelope.capacity();
        assert!(held <= 2 * MAX_OBJECT, "{held} bytes");
    }
    assert!(splitter.item.bytes.capacity() <= KEPT);
}

#[test]
fn a_watch_is_split_into_lines() {
    let text = b"{\"a\":1}\n\n{\"b\":\"\\n\"}\r\n{\"incomplete";
    for size in [1, 2, 5, 100] {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for mut chunk in chunks(text, &[size]) {
            while let Some(line) = splitter.next(&mut chunk) {
                lines.push(String::from_utf8(line.unwrap().to_owned()).unwrap());
            }
        }
        assert_eq!(lines, [r#"{"a":1}"#, "", r#"{"b":"\n"}"#]);
    }
}

#[test]
fn an_oversized_line_is_skipped() {
    let text = format!("{}\nx\n", "y".repeat(MAX_OBJECT + 1));
    let mut splitter = LineSplitter::default();
    let mut lines = Vec::new();
    for mut chunk in chunks(text.as_bytes(), &[70_000]) {
        while let Some(line) = splitter.next(&mut chunk) {
            lines.push(line.map(<[u8]>::to_owned));
        }
    }
    assert_eq!(lines, [Err(Oversized), Ok(b"x".to_vec())]);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        r#"[a"\\\[\]{},:é\n]{0,8}"#.prop_map(Value::from),
        Just(json!("items")),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        let key = prop_oneof![r#"[a"\\\[\]{},:é\n]{0,4}"#, Just("items".to_owned())];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_list_in_any_chunks(
        items in prop::collection::vec(any_json(), 0..6),
        before in any_json(),
        after in any_json(),
        pretty: bool,
        sizes in prop::collection::vec(1_usize..40, 1..5),
    ) {
        // A map of serde_json is ordered by its keys.
        let list = json!({"a": before, "items": items, "metadata": {"resourceVersion": "7"}, "z": after});
        let text = if pretty { serde_json::to_vec_pretty(&list) } else { serde_json::to_vec(&list) }.unwrap();
        let (found, metadata) = split(&text, &sizes).unwrap();
        let found: Vec<Value> = found.into_iter().map(|item| serde_json::from_str(&item.unwrap()).unwrap()).collect();
        // Through text, as it rounds numbers.
        let expected: Value = serde_json::from_slice(&text).unwrap();
        prop_assert_eq!(&Value::from(found), &expected["items"]);
        prop_assert_eq!(metadata.resource_version.as_deref(), Some("7"));
    }

    #[test]
    fn no_answer_panics(text in r#"[\[\]{}",:a\\ ]{0,40}"#, sizes in prop::collection::vec(1_usize..9, 1..3)) {
        split(text.as_bytes(), &sizes).ok();
    }
}
