//! What a request asks for: its query, and the form that it accepts.

use std::time::Duration;

use axum::http::{HeaderMap, header};
use kube::core::Selector;

use super::{Refusal, object::Form, objects::Continue, selector};

/// What this server has not got. It is refused, and not passed over: an answer that looks right would mislead.
const MISSING: [&str; 4] = ["dryRun", "fieldSelector", "resourceVersionMatch", "sendInitialEvents"];

/// The query of a list or a watch.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) watch: bool,
    pub(super) selector: Selector,
    pub(super) limit: Option<usize>,
    pub(super) from: Option<Continue>,
    /// 0 stands for any version.
    pub(super) version: Option<u64>,
    pub(super) timeout: Option<Duration>,
    pub(super) bookmarks: bool,
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let mut query = Self::default();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            let number = || {
                let wrong = |_| Refusal::bad_request(format!("{key}: {value:?} is no number"));
                value.parse::<u64>().map_err(wrong)
            };
            match &*key {
                _ if value.is_empty() => {}
                missing if MISSING.contains(&missing) => {
                    return Err(Refusal::bad_request(format!("the simulated API server has no {missing}")));
                }
                "watch" => query.watch = is_true(&value),
                "labelSelector" => query.selector = selector::parse(&value)?,
                "limit" => query.limit = usize::try_from(number()?).ok().filter(|limit| *limit > 0),
                "continue" => query.from = Some(continued(&value)?),
                "resourceVersion" => query.version = Some(number()?),
                "timeoutSeconds" => query.timeout = Some(Duration::from_secs(number()?)).filter(|time| !time.is_zero()),
                "allowWatchBookmarks" => query.bookmarks = is_true(&value),
                _ => {}
            }
        }
        Ok(query)
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "true" | "1")
}

/// A token is opaque to clients: here it is the version and the last key.
fn continued(token: &str) -> Result<Continue, Refusal> {
    let parts = token
        .split_once(':')
        .and_then(|(version, after)| Some(Continue { version: version.parse().ok()?, after: after.to_owned() }));
    parts.ok_or_else(|| Refusal::bad_request("invalid continue token: continue key is not valid"))
}

impl Continue {
    pub(super) fn token(&self) -> String {
        format!("{}:{}", self.version, self.after)
    }
}

/// The form that the client accepts: the first of its choices that there is.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Refusal> {
    let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Form::Full) };
    let accept = accept.to_str().map_err(|_| Refusal::not_acceptable())?;
    accept.split(',').find_map(choice).ok_or_else(Refusal::not_acceptable)
}

fn choice(text: &str) -> Option<Form> {
    let mut parts = text.split(';').map(str::trim);
    if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let (mut form, mut group, mut version) = (None, None, None);
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        match key {
            "as" => form = Some(value),
            "g" => group = Some(value),
            "v" => version = Some(value),
            _ => {}
        }
    }
    match (form, group, version) {
        (None, ..) => Some(Form::Full),
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
            Some(Form::Metadata)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(accept: &'static str) -> Option<Form> {
        let headers = [(header::ACCEPT, header::HeaderValue::from_static(accept))].into_iter().collect();
        form(&headers).ok()
    }

    #[test]
    fn the_first_acceptable_form_is_taken() {
        assert_eq!(form(&HeaderMap::new()).ok(), Some(Form::Full));
        assert_eq!(accepted("*/*"), Some(Form::Full));
        assert_eq!(accepted("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"), Some(Form::Metadata));
        assert_eq!(accepted("application/json;as=Table;v=v1;g=meta.k8s.io, application/json"), Some(Form::Full));
        assert_eq!(accepted("application/yaml"), None);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        assert!(Query::parse("fieldSelector=metadata.name%3Da").unwrap_err().message.contains("fieldSelector"));
        assert!(Query::parse("&labelSelector=&fieldManager=me").is_ok());
    }

    #[test]
    fn a_token_leads_back_to_where_it_was_made() {
        let from = Continue { version: 7, after: "team/run:1".into() };
        assert_eq!(continued(&from.token()).unwrap(), from);
        assert!(continued("nonsense").is_err());
    }
}
