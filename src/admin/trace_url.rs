//! The address at which a person sees a trace.

use std::{fmt, str::FromStr};

use crate::model::TraceId;

/// The place of the trace's id.
const PLACE: &str = "{trace_id}";
/// The limit of a template, in characters: browsers accept more, and no address of a trace needs as much.
const MAX_LENGTH: usize = 2048;

/// A template of the addresses of traces, for example `https://grafana.example/explore/traces/{trace_id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceUrl(String);

/// The reason why a text is no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceUrlError {
    /// There is no place for the id.
    #[error(
        "contains no {{trace_id}}; write it where the id of the trace belongs, for example https://jaeger.example/trace/{{trace_id}}"
    )]
    NoPlace,
    /// It is not an address of HTTP.
    #[error("is not the address of a web page; begin with https:// or http:// and a host, and write no spaces")]
    NotHttp,
    /// It is too long.
    #[error("has more than {MAX_LENGTH} characters; shorten it")]
    TooLong,
}

impl FromStr for TraceUrl {
    type Err = TraceUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_LENGTH {
            return Err(TraceUrlError::TooLong);
        }
        if !text.contains(PLACE) {
            return Err(TraceUrlError::NoPlace);
        }
        let example: http::Uri = text.replace(PLACE, &"0".repeat(32)).parse().map_err(|_| TraceUrlError::NotHttp)?;
        let is_http = matches!(example.scheme_str(), Some("http" | "https"));
        let has_host = example.host().is_some_and(|host| !host.is_empty());
        if is_http && has_host { Ok(Self(text.to_owned())) } else { Err(TraceUrlError::NotHttp) }
    }
}

impl TraceUrl {
    /// Returns the address of a trace.
    pub fn of(&self, trace: TraceId) -> String {
        self.0.replace(PLACE, &trace.to_string())
    }
}

impl fmt::Display for TraceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_contains_the_id() {
        let id = TraceId::parse("4bf92f3577b34da6a3ce929d0e0e4736").unwrap();
        for (template, expected) in [
            (
                "https://jaeger.example/trace/{trace_id}",
                "https://jaeger.example/trace/4bf92f3577b34da6a3ce929d0e0e4736",
            ),
            ("http://h:1/x?q={trace_id}&r=1", "http://h:1/x?q=4bf92f3577b34da6a3ce929d0e0e4736&r=1"),
        ] {
            let template: TraceUrl = template.parse().unwrap();
            assert_eq!(template.of(id), expected);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for (text, expected) in [
            ("", TraceUrlError::NoPlace),
            ("https://jaeger.example/trace/", TraceUrlError::NoPlace),
            ("jaeger.example/{trace_id}", TraceUrlError::NotHttp),
            ("javascript:alert(1)//{trace_id}", TraceUrlError::NotHttp),
            ("ftp://host/{trace_id}", TraceUrlError::NotHttp),
            ("https:///{trace_id}", TraceUrlError::NotHttp),
            ("https://host/a b/{trace_id}", TraceUrlError::NotHttp),
        ] {
            assert_eq!(text.parse::<TraceUrl>(), Err(expected), "{text}");
        }
        assert_eq!(
            format!("https://h/{}{PLACE}", "x".repeat(MAX_LENGTH)).parse::<TraceUrl>(),
            Err(TraceUrlError::TooLong)
        );
    }
}
