//! Lists and watches of Workflows: no answer panics, and the records do not depend on the chunks in which it arrives.

#![no_main]

use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use model_update_eventsource::{
    k8s::fuzzing::{list, watch},
    model::workflow::{MAX_MARKS, MAX_PIPELINE_NAME},
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    sizes: Vec<u8>,
    form: Form,
    answer: &'a [u8],
}

#[derive(Arbitrary, Debug)]
enum Form {
    /// An answer as a whole.
    Raw,
    /// The metadata of an item of a list, or of the object of an event.
    Metadata,
}

fn chunks<'a>(mut bytes: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    let mut sizes = sizes.iter().map(|size| usize::from(*size).max(1)).cycle();
    while !bytes.is_empty() {
        let (chunk, rest) = bytes.split_at(sizes.next().unwrap_or(bytes.len()).min(bytes.len()));
        chunks.push(chunk);
        bytes = rest;
    }
    chunks
}

fuzz_target!(|input: Input<'_>| {
    let around = |before: &str, after: &str| match input.form {
        Form::Raw => input.answer.to_vec(),
        Form::Metadata => [before.as_bytes(), input.answer, after.as_bytes()].concat(),
    };
    let page = around(r#"{"metadata":{"resourceVersion":"7"},"items":[{"metadata":"#, "}]}");
    let (records, end) = list(std::iter::once(&page[..]));
    assert_eq!(list(chunks(&page, &input.sizes).into_iter()), (records.clone(), end));

    let events = around(r#"{"type":"MODIFIED","object":{"metadata":"#, "}}\n");
    let watched = watch(std::iter::once(&events[..]));
    assert_eq!(watch(chunks(&events, &input.sizes).into_iter()), watched);

    for workflow in records.into_iter().chain(watched).flatten() {
        assert!(workflow.marks.len() <= MAX_MARKS);
        assert!(workflow.pipeline.known().is_none_or(|name| name.len() <= MAX_PIPELINE_NAME));
    }
});
