//! The pipeline's name in a run with its specification. The message has up to 32 MiB, of which the name is a few bytes, so
//! it is read piece by piece, and only keys and names are kept.

use std::ops::Range;

use crate::lookup::error::CallError;

/// Paths of keys to the name. A specification for more than one document is an object of specifications.
const PATHS: [&[&str]; 2] = [&["pipelineInfo", "name"], &["pipeline_spec", "pipelineInfo", "name"]];
/// Maximum number of kept bytes of a text: longer than any valid name, so that a name that is too long stays too long.
const MAX_TEXT: usize = 1024;

/// `Run.run_id` and `Run.pipeline_spec`.
const RUN_ID: u64 = 2;
const PIPELINE_SPEC: u64 = 7;
/// `Struct.fields`, and `key` and `value` of such an entry.
const FIELDS: u64 = 1;
const KEY: u64 = 1;
const VALUE: u64 = 2;
/// `Value.string_value` and `Value.struct_value`.
const STRING_VALUE: u64 = 3;
const STRUCT_VALUE: u64 = 5;

/// A reader of a `Run`.
#[derive(Debug)]
pub(super) struct SpecReader {
    /// Number of bytes read so far.
    position: u64,
    /// The messages that contain the position, from the outside inwards. The run itself has no end.
    messages: Vec<Message>,
    /// The keys of the structs that contain the position.
    path: Vec<String>,
    step: Step,
    run_id: Option<String>,
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    kind: Kind,
    end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Run,
    Struct,
    Entry,
    /// A value whose key is a part of a path, or the end of one.
    Value,
}

#[derive(Debug)]
enum Step {
    /// A number: the key of a field, the length of one, or the value of one that is skipped.
    Varint {
        purpose: Purpose,
        value: u64,
        shift: u32,
    },
    Skip {
        bytes: u64,
    },
    Text {
        target: Target,
        bytes: u64,
        text: Vec<u8>,
    },
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Key,
    Length { field: u64 },
    Value,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    RunId,
    Key,
    Name,
}

const NEXT: Step = Step::Varint { purpose: Purpose::Key, value: 0, shift: 0 };

impl Default for SpecReader {
    fn default() -> Self {
        Self {
            position: 0,
            messages: vec![Message { kind: Kind::Run, end: u64::MAX }],
            path: Vec::new(),
            step: NEXT,
            run_id: None,
            name: None,
        }
    }
}

impl SpecReader {
    /// Returns the run's id and the pipeline's name, as far as the message had them.
    pub(super) fn finish(self) -> (Option<String>, Option<String>) {
        (self.run_id, self.name.filter(|name| !name.is_empty()))
    }

    /// Reads the next piece of the message.
    pub(super) fn read(&mut self, piece: &[u8]) -> Result<(), CallError> {
        let mut rest = piece;
        while !rest.is_empty() {
            match &mut self.step {
                Step::Varint { purpose, value, shift } => {
                    let byte = rest[0];
                    rest = &rest[1..];
                    self.position += 1;
                    if *shift > 63 {
                        return Err(CallError::malformed("a number is longer than 64 bits"));
                    }
                    *value |= u64::from(byte & 0x7f) << *shift;
                    *shift += 7;
                    if byte & 0x80 == 0 {
                        let (purpose, value) = (*purpose, *value);
                        self.number(purpose, value)?;
                    }
                }
                Step::Skip { bytes } => {
                    let taken = range(*bytes, rest).len();
                    *bytes -= taken as u64;
                    self.position += taken as u64;
                    rest = &rest[taken..];
                    if *bytes == 0 {
                        self.step = NEXT;
                    }
                }
                Step::Text { target, bytes, text } => {
                    let taken = &rest[range(*bytes, rest)];
                    *bytes -= taken.len() as u64;
                    self.position += taken.len() as u64;
                    rest = &rest[taken.len()..];
                    let room = MAX_TEXT.saturating_sub(text.len()).min(taken.len());
                    text.extend_from_slice(&taken[..room]);
                    if *bytes == 0 {
                        let (target, text) = (*target, std::mem::take(text));
                        self.text(target, &text);
                    }
                }
            }
            self.leave();
        }
        Ok(())
    }

    /// Handles a complete number.
    fn number(&mut self, purpose: Purpose, value: u64) -> Result<(), CallError> {
        self.step = match purpose {
            Purpose::Value => NEXT,
            Purpose::Key => match value & 7 {
                0 => Step::Varint { purpose: Purpose::Value, value: 0, shift: 0 },
                1 => Step::Skip { bytes: 8 },
                2 => Step::Varint { purpose: Purpose::Length { field: value >> 3 }, value: 0, shift: 0 },
                5 => Step::Skip { bytes: 4 },
                _ => return Err(CallError::malformed("a field has an unknown type")),
            },
            Purpose::Length { field } => self.field(field, value)?,
        };
        Ok(())
    }

    /// Handles the begin of a text or a message.
    fn field(&mut self, field: u64, bytes: u64) -> Result<Step, CallError> {
        let message = *self.messages.last().expect("the run has no end");
        let end = self.position.checked_add(bytes).filter(|end| *end <= message.end);
        let end = end.ok_or_else(|| CallError::malformed("a message ends within a field"))?;
        let text = |target| Step::Text { target, bytes, text: Vec::new() };
        let enter = match (message.kind, field) {
            (Kind::Run, PIPELINE_SPEC) => Kind::Struct,
            (Kind::Struct, FIELDS) => {
                self.path.push(String::new());
                Kind::Entry
            }
            (Kind::Entry, VALUE) if self.is_wanted() => Kind::Value,
            (Kind::Value, STRUCT_VALUE) if !self.is_name() => Kind::Struct,
            (Kind::Run, RUN_ID) if bytes > 0 => return Ok(text(Target::RunId)),
            (Kind::Entry, KEY) if bytes > 0 => return Ok(text(Target::Key)),
            (Kind::Value, STRING_VALUE) if bytes > 0 && self.is_name() => return Ok(text(Target::Name)),
            _ if bytes == 0 => return Ok(NEXT),
            _ => return Ok(Step::Skip { bytes }),
        };
        self.messages.push(Message { kind: enter, end });
        Ok(NEXT)
    }

    fn text(&mut self, target: Target, text: &[u8]) {
        let text = String::from_utf8_lossy(text).into_owned();
        match target {
            Target::RunId => self.run_id = Some(text),
            Target::Name => self.name = Some(text),
            Target::Key => {
                if let Some(key) = self.path.last_mut() {
                    *key = text;
                }
            }
        }
        self.step = NEXT;
    }

    /// Leaves the messages that end here.
    fn leave(&mut self) {
        while let (Some(message), Step::Varint { purpose: Purpose::Key, shift: 0, .. }) =
            (self.messages.last(), &self.step)
            && message.end <= self.position
        {
            if message.kind == Kind::Entry {
                self.path.pop();
            }
            self.messages.pop();
        }
    }

    fn is_wanted(&self) -> bool {
        PATHS.iter().any(|path| path.len() >= self.path.len() && self.path.iter().zip(*path).all(|(a, b)| a == b))
    }

    fn is_name(&self) -> bool {
        PATHS.iter().any(|path| path.len() == self.path.len() && self.path.iter().zip(*path).all(|(a, b)| a == b))
    }
}

fn range(bytes: u64, rest: &[u8]) -> Range<usize> {
    0..usize::try_from(bytes).unwrap_or(usize::MAX).min(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use prost_types::{ListValue, Struct, Value, value::Kind as ValueKind};

    use super::*;
    use crate::kfp::proto::{PipelineTask, Run};

    fn value(kind: ValueKind) -> Value {
        Value { kind: Some(kind) }
    }

    fn text(text: &str) -> Value {
        value(ValueKind::StringValue(text.to_owned()))
    }

    fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
        let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        value(ValueKind::StructValue(Struct { fields }))
    }

    fn run(spec: Value) -> Run {
        let Some(ValueKind::StructValue(pipeline_spec)) = spec.kind else { panic!("an object") };
        let tasks = vec![PipelineTask { name: "push".to_owned(), ..PipelineTask::default() }; 3];
        Run { run_id: "0e1f".to_owned(), pipeline_spec: Some(pipeline_spec), tasks, ..Run::default() }
    }

    fn read(message: &[u8], size: usize) -> Result<Option<String>, CallError> {
        let mut reader = SpecReader::default();
        for piece in message.chunks(size) {
            reader.read(piece)?;
        }
        Ok(reader.finish().1)
    }

    fn spec(name: Value) -> Value {
        object([
            (
                "components",
                object([("pipelineInfo", object([("name", text("not this"))])), ("name", text("nor this"))]),
            ),
            ("pipelineInfo", object([("description", text("x")), ("name", name)])),
            ("root", object([("dag", value(ValueKind::ListValue(ListValue { values: vec![text("name")] })))])),
            ("name", text("nor this")),
        ])
    }

    #[test]
    fn the_name_is_found_in_pieces_of_any_size() {
        let platform = object([("pipeline_spec", spec(text("penguin"))), ("platform_spec", spec(text("other")))]);
        for run in [run(spec(text("penguin"))), run(platform)] {
            let message = run.encode_to_vec();
            for size in [1, 2, 3, 7, 64, message.len()] {
                assert_eq!(read(&message, size).unwrap().as_deref(), Some("penguin"), "{size}");
            }
        }
        let mut reader = SpecReader::default();
        reader.read(&run(spec(text("penguin"))).encode_to_vec()).unwrap();
        assert_eq!(reader.finish().0.as_deref(), Some("0e1f"));
    }

    #[test]
    fn a_run_without_a_name_has_none_and_a_long_name_stays_long() {
        let long = read(&run(spec(text(&"x".repeat(100_000)))).encode_to_vec(), 1000).unwrap();
        assert_eq!(long.unwrap().len(), MAX_TEXT);
        for spec in
            [spec(text("")), spec(object([("name", text("x"))])), object([("pipelineInfo", text("x"))]), object([])]
        {
            assert_eq!(read(&run(spec).encode_to_vec(), 5).unwrap(), None);
        }
        assert_eq!(read(&[], 1).unwrap(), None);
    }

    proptest! {
        /// Whatever the bytes are, reading ends, and pieces make no difference.
        #[test]
        fn any_bytes_are_read_or_malformed(message in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..20) {
            prop_assert_eq!(read(&message, size), read(&message, 300));
        }
    }
}
