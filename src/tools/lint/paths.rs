//! Paths into an event, as Sensors write them: Argo Events' dialect of gjson, and Go templates.

use crate::{
    eventsource::config::nearest,
    model::{Include, IncludeField},
};

/// A part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The key of a mapping, or an index of a list.
    Key(String),
    /// Every item of a list, or those that match a query.
    Items,
    /// A wildcard or a modifier: this and the following steps can be anything.
    Open,
}

/// The fields of the events of one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    /// The body is JSON, not base64 text.
    pub json_body: bool,
    /// The optional fields.
    pub include: Include,
    /// Failed runs are events, too: these have a status without `include`.
    pub failed: bool,
}

/// The reason why a path does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PathProblem {
    /// It goes into the body, which is base64 text.
    NeedsJsonBody,
    /// It is an optional field that is not included.
    NotIncluded(&'static str),
    /// There is no such field. The mend, if there is a likely one.
    Unknown(String),
}

const PIPELINE: &str = "pipelineName";
const MODELS: &str = "servingModelArtifacts";
const MODEL_KEYS: [&str; 2] = ["name", "location"];

/// The steps of a gjson path.
pub(super) fn gjson(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let (step, after) = first_step(rest);
        let open = step == Step::Open;
        steps.push(step);
        if open {
            break;
        }
        rest = after;
    }
    steps
}

/// The first step of a path, and the path after it.
fn first_step(path: &str) -> (Step, &str) {
    if let Some(rest) = path.strip_prefix('#') {
        let end = match rest.chars().next() {
            Some('(' | '[') => query_end(rest),
            _ => Some(0),
        };
        // A second `#` stands for all matches.
        let after = end.map(|end| rest[end..].trim_start_matches('#'));
        return match after {
            Some("") => (Step::Items, ""),
            Some(after) if after.starts_with(['.', '|']) => (Step::Items, &after[1..]),
            _ => (Step::Open, ""),
        };
    }
    if path.starts_with(['@', '!', '{', '[']) {
        return (Step::Open, "");
    }
    let mut key = String::new();
    let mut characters = path.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '\\' => key.extend(characters.next().map(|(_, escaped)| escaped)),
            '.' | '|' => return (Step::Key(key), &path[index + 1..]),
            '*' | '?' => return (Step::Open, ""),
            other => key.push(other),
        }
    }
    (Step::Key(key), "")
}

/// The end of a query in parentheses, with others and texts in it.
fn query_end(query: &str) -> Option<usize> {
    let (mut depth, mut quoted) = (0_usize, false);
    let mut characters = query.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '\\' => {
                characters.next();
            }
            '"' => quoted = !quoted,
            '(' | '[' if !quoted => depth += 1,
            ')' | ']' if !quoted => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(index + 1);
                }
            }
            _ => {}
        }
    }
    None
}

impl Fields {
    /// Checks that a path exists in the data of an event: `{"body": …, "metadata": …}`.
    ///
    /// # Errors
    /// The reason why it does not.
    pub(super) fn check(&self, steps: &[Step]) -> Result<(), PathProblem> {
        match steps {
            [] | [Step::Open, ..] => Ok(()),
            [Step::Key(key), rest @ ..] if key == "body" => self.body(rest),
            [Step::Key(key), ..] if key == "metadata" => Ok(()),
            [Step::Key(key), ..] => {
                let below = self.payload_keys().any(|known| known == key);
                let mend =
                    if below { format!("write body.{key}") } else { "write body, or a field below it".to_owned() };
                Err(PathProblem::Unknown(format!("the data of an event has no {key:?}; {mend}")))
            }
            [Step::Items, ..] => Err(PathProblem::Unknown("the data of an event is no list; write body".to_owned())),
        }
    }

    fn body(&self, steps: &[Step]) -> Result<(), PathProblem> {
        match steps {
            [] | [Step::Open, ..] => Ok(()),
            _ if !self.json_body => Err(PathProblem::NeedsJsonBody),
            _ => self.payload(steps),
        }
    }

    /// Checks a path in the payload.
    ///
    /// # Errors
    /// The reason why it does not exist.
    pub(super) fn payload(&self, steps: &[Step]) -> Result<(), PathProblem> {
        let [first, rest @ ..] = steps else { return Ok(()) };
        let Step::Key(key) = first else {
            return match first {
                Step::Open => Ok(()),
                _ => Err(PathProblem::Unknown("the payload is no list; write body.servingModelArtifacts".to_owned())),
            };
        };
        if key == MODELS {
            return models(rest);
        }
        let field = IncludeField::ALL.into_iter().find(|field| field.key() == key);
        match field {
            Some(IncludeField::Status) if self.failed => {}
            Some(field) if !self.include.has(field) => return Err(PathProblem::NotIncluded(field.key())),
            Some(_) => {}
            None if key == PIPELINE => {}
            None => return Err(PathProblem::Unknown(self.unknown(key))),
        }
        match rest {
            [] | [Step::Open, ..] => Ok(()),
            _ => Err(PathProblem::Unknown(format!("{key} is text, and has no fields; end the path there"))),
        }
    }

    fn unknown(&self, key: &str) -> String {
        let known = [PIPELINE, MODELS].into_iter().chain(IncludeField::ALL.map(IncludeField::key));
        match nearest(key, known) {
            Some(meant) => format!("the payload has no {key:?}; did you mean {meant}?"),
            None => {
                let keys: Vec<&str> = self.payload_keys().collect();
                format!("the payload has no {key:?}; its fields are {}", keys.join(", "))
            }
        }
    }

    /// The keys of the payload, and those that `include` can add.
    fn payload_keys(&self) -> impl Iterator<Item = &'static str> {
        let included = IncludeField::ALL.into_iter().filter(|field| self.include.has(*field));
        [PIPELINE, MODELS].into_iter().chain(included.map(IncludeField::key))
    }
}

/// Checks a path in the list of models.
fn models(steps: &[Step]) -> Result<(), PathProblem> {
    let unknown = |problem: String| Err(PathProblem::Unknown(problem));
    let [item, rest @ ..] = steps else { return Ok(()) };
    match item {
        Step::Key(key) if !key.bytes().all(|byte| byte.is_ascii_digit()) => {
            return unknown(format!(
                "{MODELS} is a list, and has no {key:?}; select an item, such as {MODELS}.0.location or \
                 {MODELS}.#(name%\"*:Pusher:*\").location"
            ));
        }
        Step::Open => return Ok(()),
        _ => {}
    }
    match rest {
        [] | [Step::Open, ..] => Ok(()),
        [Step::Key(key), after @ ..] if MODEL_KEYS.contains(&key.as_str()) => match after {
            [] | [Step::Open, ..] => Ok(()),
            // Of several models, the position of one.
            [Step::Key(index)] if *item == Step::Items && index.bytes().all(|byte| byte.is_ascii_digit()) => Ok(()),
            _ => unknown(format!("{key} is text, and has no fields; end the path there")),
        },
        // Of several models, one by its position.
        [Step::Key(index), ..] if *item == Step::Items && index.bytes().all(|byte| byte.is_ascii_digit()) => Ok(()),
        [Step::Key(key), ..] => match nearest(key, MODEL_KEYS) {
            Some(meant) => unknown(format!("a model has no {key:?}; did you mean {meant}?")),
            None => unknown(format!("a model has no {key:?}; its fields are name and location")),
        },
        [Step::Items, ..] => unknown("a model is no list; its fields are name and location".to_owned()),
    }
}

/// The paths that a Go template reads from its input, such as `body.pipelineName` for `{{ .Input.body.pipelineName }}`.
pub(super) fn template_inputs(template: &str) -> Vec<Vec<Step>> {
    fields_after(template, ".Input")
}

/// The paths that a Go template reads from JSON that it parsed, as in `{{ (b64dec .Input | mustFromJson).pipelineName }}`.
pub(super) fn template_json(template: &str) -> Vec<Vec<Step>> {
    template
        .match_indices("romJson")
        .filter_map(|(index, word)| template[index + word.len()..].trim_start().strip_prefix(')'))
        .map(fields)
        .filter(|steps| !steps.is_empty())
        .collect()
}

/// Returns whether a template decodes base64.
pub(super) fn decodes_base64(template: &str) -> bool {
    template.contains("b64dec")
}

fn fields_after(template: &str, word: &str) -> Vec<Vec<Step>> {
    let names_more = |rest: &str| rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let rests = template.match_indices(word).map(|(index, word)| &template[index + word.len()..]);
    rests.filter(|rest| !names_more(rest)).map(fields).collect()
}

/// The field accesses at the beginning of a text: `.a.b`.
fn fields(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('.') {
        let end = after.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(after.len());
        if end == 0 {
            break;
        }
        steps.push(Step::Key(after[..end].to_owned()));
        rest = &after[end..];
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Step {
        Step::Key(text.to_owned())
    }

    #[test]
    fn a_gjson_path_is_divided_into_steps() {
        assert_eq!(gjson("body.pipelineName"), [key("body"), key("pipelineName")]);
        assert_eq!(gjson(r"body.a\.b|c"), [key("body"), key("a.b"), key("c")]);
        let query = r#"body.list.#(name%"*:a.b):*").location"#;
        assert_eq!(gjson(query), [key("body"), key("list"), Step::Items, key("location")]);
        assert_eq!(gjson("body.list.#(a.#(b==1)#)#.x"), [key("body"), key("list"), Step::Items, key("x")]);
        assert_eq!(gjson("list.#"), [key("list"), Step::Items]);
        for open in ["body.pipeline*", "body.@values", "body.#(x", "body.{a,b}"] {
            assert_eq!(gjson(open), [key("body"), Step::Open], "{open}");
        }
    }

    fn fields_with(include: &[IncludeField]) -> Fields {
        Fields { json_body: true, include: include.iter().copied().collect(), failed: false }
    }

    #[test]
    fn paths_of_the_payload_exist() {
        let fields = fields_with(&[IncludeField::EventId]);
        for path in [
            "body",
            "metadata.team",
            "body.pipelineName",
            "body.servingModelArtifacts",
            "body.servingModelArtifacts.#",
            "body.servingModelArtifacts.0",
            "body.servingModelArtifacts.0.location",
            "body.servingModelArtifacts.#.name",
            "body.servingModelArtifacts.#.location.0",
            "body.servingModelArtifacts.#(name%\"*:Pusher:pushed_model:*\").location",
            "body.servingModelArtifacts.#(name%\"*\")#|0.location",
            "body.eventId",
            "body.*Name",
        ] {
            assert_eq!(fields.check(&gjson(path)), Ok(()), "{path}");
        }
    }

    #[test]
    fn other_paths_are_refused_with_a_mend() {
        let fields = fields_with(&[IncludeField::EventId]);
        for (path, words) in [
            ("pipelineName", "write body.pipelineName"),
            ("data.pipelineName", "write body, or a field below it"),
            ("#.pipelineName", "is no list"),
            ("body.0", "its fields are pipelineName, servingModelArtifacts, eventId"),
            ("body.#", "is no list"),
            ("body.pipelinename", "did you mean pipelineName?"),
            ("body.pipelineName.first", "is text"),
            ("body.servingModelArtifacts.location", "select an item"),
            ("body.servingModelArtifacts.0.uri", "its fields are name and location"),
            ("body.servingModelArtifacts.0.locations", "did you mean location?"),
            ("body.servingModelArtifacts.0.location.path", "is text"),
            ("body.servingModelArtifacts.0.#", "is no list"),
        ] {
            match fields.check(&gjson(path)) {
                Err(PathProblem::Unknown(problem)) => assert!(problem.contains(words), "{path}: {problem}"),
                other => panic!("{path}: {other:?}"),
            }
        }
        assert_eq!(fields.check(&gjson("body.runId")), Err(PathProblem::NotIncluded("runId")));
        let status = gjson("body.status");
        assert_eq!(fields.check(&status), Err(PathProblem::NotIncluded("status")));
        assert_eq!(Fields { failed: true, ..fields }.check(&status), Ok(()));
    }

    #[test]
    fn fields_of_the_body_need_json() {
        let fields = Fields { json_body: false, ..fields_with(&[]) };
        assert_eq!(fields.check(&gjson("body")), Ok(()));
        assert_eq!(fields.check(&gjson("body.pipelineName")), Err(PathProblem::NeedsJsonBody));
    }

    #[test]
    fn the_fields_that_a_template_reads_are_found() {
        let template = "{{ .Input.body.pipelineName }}-{{ .Input.body.eventId | upper }}{{ .Inputs.x }}{{ .Input }}";
        let found = template_inputs(template);
        assert_eq!(found, [vec![key("body"), key("pipelineName")], vec![key("body"), key("eventId")], Vec::new()]);
        let decoding = "{{ ((b64dec .Input) | mustFromJson).pipelineName }}";
        assert_eq!(template_json(decoding), [[key("pipelineName")]]);
        assert!(decodes_base64(decoding) && !decodes_base64(template));
        let indexing = "{{ (index (.Input.body | b64dec | fromJson).servingModelArtifacts 0).location }}";
        assert_eq!(template_json(indexing), [[key("servingModelArtifacts")]]);
    }
}
