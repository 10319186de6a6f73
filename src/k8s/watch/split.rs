//! Splitters of answers that arrive in chunks: a list into its items, a watch into its lines.
//!
//! Memory is bounded by one object, however many a page holds. An object has about 1.5 MiB at most, etcd's default limit
//! for a request (`--max-request-bytes`); kube-apiserver itself accepts no request above 3 MiB. Larger pieces are skipped.

use std::ops::Range;

use memchr::{memchr, memchr2};
use serde::Deserialize;

/// The limit of an object's text.
pub(super) const MAX_OBJECT: usize = 4 << 20;
/// The limit of a list's text without its items: a resource version and a token.
const MAX_ENVELOPE: usize = 64 << 10;
/// The capacity of a buffer that is kept for the next piece. Most objects fit.
const KEPT: usize = 64 << 10;
/// The key of a list's items.
const ITEMS: &[u8] = b"\"items\"";

/// A complete piece of an answer.
pub(in crate::k8s) type Piece<'a> = Result<&'a [u8], Oversized>;

/// The error of a piece that is larger than [`MAX_OBJECT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::k8s) struct Oversized;

/// A buffer for one piece.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    oversized: bool,
    complete: bool,
}

impl Buffer {
    /// Removes the piece that was returned last.
    fn drop_complete(&mut self) {
        if self.complete {
            self.clear();
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.oversized |= self.bytes.len() + bytes.len() > MAX_OBJECT;
        if self.oversized {
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Ends the piece.
    fn complete(&mut self) -> Piece<'_> {
        self.complete = true;
        if self.oversized { Err(Oversized) } else { Ok(self.bytes.trim_ascii()) }
    }

    fn is_blank(&self) -> bool {
        !self.oversized && self.bytes.trim_ascii().is_empty()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        (self.oversized, self.complete) = (false, false);
    }
}

/// Splits a list, `{"metadata": {…}, "items": […]}` with its keys in any order. It finds the items by counting brackets
/// outside of strings, and leaves every other check to the decoders of items and envelope.
#[derive(Debug, Default)]
pub(in crate::k8s) struct ListSplitter {
    /// Open brackets.
    depth: usize,
    in_string: bool,
    /// The next byte is escaped by a backslash.
    escaped: bool,
    in_items: bool,
    item: Buffer,
    /// The list without its items.
    envelope: Vec<u8>,
    /// The last string in the envelope. Where an array begins in the outermost object, it is the array's key.
    key: Range<usize>,
}

/// The reason why an answer is not a list.
#[derive(Debug, thiserror::Error)]
pub(in crate::k8s) enum NotAList {
    #[error("a bracket is closed that was not opened")]
    Unbalanced,
    #[error("a list without its items has more than {MAX_ENVELOPE} bytes")]
    TooLong,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// A list without its items.
#[derive(Debug, Default, Deserialize)]
struct Envelope {
    metadata: ListMetadata,
}

/// The position of a list.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::k8s) struct ListMetadata {
    /// The version from which a watch continues.
    pub(in crate::k8s) resource_version: Option<String>,
    /// The token of the next page.
    #[serde(rename = "continue")]
    pub(in crate::k8s) token: Option<String>,
}

impl ListSplitter {
    /// Returns the next item if it ends in `chunk`, and advances `chunk` to the first byte behind it.
    pub(in crate::k8s) fn next(&mut self, chunk: &mut &[u8]) -> Result<Option<Piece<'_>>, NotAList> {
        self.item.drop_complete();
        Ok(if self.advance(chunk)? { Some(self.item.complete()) } else { None })
    }

    /// Returns the position of the list, at its end.
    pub(in crate::k8s) fn finish(self) -> Result<ListMetadata, NotAList> {
        let Envelope { metadata } = serde_json::from_slice(&self.envelope)?;
        Ok(metadata)
    }

    /// Reads up to the end of an item, or of the chunk. Returns whether an item is complete.
    fn advance(&mut self, chunk: &mut &[u8]) -> Result<bool, NotAList> {
        while let Some(&first) = chunk.first() {
            if self.in_string {
                let string = take(chunk, self.string(chunk));
                self.keep(string)?;
                if !self.in_items {
                    self.key.end = self.envelope.len();
                }
                continue;
            }
            let plain = chunk.iter().position(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b','));
            if plain != Some(0) {
                let plain = take(chunk, plain.unwrap_or(chunk.len()));
                self.keep(plain)?;
                continue;
            }
            let byte = take(chunk, 1);
            match first {
                b',' if self.in_items && self.depth == 2 => return Ok(true),
                b']' if self.in_items && self.depth == 2 => {
                    (self.in_items, self.depth) = (false, 1);
                    self.keep(byte)?;
                    if self.item.is_blank() {
                        continue;
                    }
                    return Ok(true);
                }
                b'[' if !self.in_items && self.depth == 1 && self.envelope.get(self.key.clone()) == Some(ITEMS) => {
                    self.keep(byte)?;
                    (self.in_items, self.depth) = (true, 2);
                    continue;
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.checked_sub(1).ok_or(NotAList::Unbalanced)?,
                b'"' => {
                    self.in_string = true;
                    self.key.start = self.envelope.len();
                }
                _ => {}
            }
            self.keep(byte)?;
        }
        Ok(false)
    }

    /// Returns the number of bytes that belong to the string in which `chunk` begins, its closing quote included.
    fn string(&mut self, chunk: &[u8]) -> usize {
        if std::mem::take(&mut self.escaped) {
            return 1;
        }
        let Some(end) = memchr2(b'"', b'\\', chunk) else { return chunk.len() };
        if chunk[end] == b'"' {
            self.in_string = false;
        } else {
            self.escaped = true;
        }
        end + 1
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), NotAList> {
        if self.in_items {
            self.item.extend(bytes);
            return Ok(());
        }
        self.envelope.extend_from_slice(bytes);
        if self.envelope.len() > MAX_ENVELOPE { Err(NotAList::TooLong) } else { Ok(()) }
    }
}

/// Splits a watch: one event a line.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    line: Buffer,
}

impl LineSplitter {
    /// Returns the next line if it ends in `chunk`, and advances `chunk` behind it. A line without an end is incomplete:
    /// the connection ended within it.
    pub(super) fn next(&mut self, chunk: &mut &[u8]) -> Option<Piece<'_>> {
        self.line.drop_complete();
        let end = memchr(b'\n', chunk);
        let line = take(chunk, end.unwrap_or(chunk.len()));
        self.line.extend(line);
        end.map(|_| {
            take(chunk, 1);
            self.line.complete()
        })
    }
}

/// Returns the first `count` bytes and advances `bytes` behind them.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

#[cfg(test)]
mod tests;
