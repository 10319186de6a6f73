//! The decoding of lists and watches, for the fuzz target `workflow`.

use super::{Decoder, Oversized, decode, read_event};
use crate::{
    k8s::watch::split::{LineSplitter, ListSplitter},
    model::{SubscriptionsInUse, Workflow},
    telemetry::LimitHits,
};

/// Decodes a page of a list that arrives in these chunks: the records, or why there is none, and the reason why the answer
/// as a whole is not a list.
pub fn list<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Result<Workflow, String>>, Result<(), String>) {
    let decoder = Decoder::new(SubscriptionsInUse::default(), LimitHits::default());
    let mut splitter = ListSplitter::default();
    let mut records = Vec::new();
    for mut chunk in chunks {
        loop {
            match splitter.next(&mut chunk) {
                Ok(Some(item)) => {
                    let record = decode(item).and_then(|object| decoder.record(object));
                    records.push(record.map_err(|error| error.to_string()));
                }
                Ok(None) => break,
                Err(error) => return (records, Err(error.to_string())),
            }
        }
    }
    (records, splitter.finish().map(drop).map_err(|error| error.to_string()))
}

/// Decodes the events of a watch that arrive in these chunks: the records, or why there is none.
pub fn watch<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Workflow, String>> {
    let decoder = Decoder::new(SubscriptionsInUse::default(), LimitHits::default());
    let mut splitter = LineSplitter::default();
    let mut records = Vec::new();
    for mut chunk in chunks {
        while let Some(line) = splitter.next(&mut chunk) {
            records.push(match line.map(read_event) {
                Ok(Ok((_, object))) => decoder.record(object).map_err(|error| error.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(Oversized) => Err("oversized".to_owned()),
            });
        }
    }
    records
}
