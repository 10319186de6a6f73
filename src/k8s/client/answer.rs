//! Answers of the API server, read as they arrive.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use kube::{client::Body, core::Status};
use serde::Deserialize;
use tokio::time::timeout;

/// The limit of a refusal's text: far more than a [`Status`] needs.
const MAX_REFUSAL: usize = 64 << 10;
/// The limit of a message in logs. Some contain whole objects.
const MAX_MESSAGE: usize = 1024;

/// The body of a successful answer.
#[derive(Debug)]
pub(in crate::k8s) struct Answer {
    body: Body,
    silence: Duration,
    /// The media type of the body.
    pub(in crate::k8s) content_type: String,
}

/// The reason why a request has no successful and complete answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::k8s) enum RequestError {
    /// The request cannot be written.
    #[error("the request is not valid")]
    Invalid(#[from] kube::core::request::Error),
    /// The connection failed, or there was no answer in time.
    #[error("no answer")]
    Unanswered(#[source] kube::Error),
    /// The answer is an error.
    #[error("{0}")]
    Refused(Refusal),
    /// The connection broke within the answer.
    #[error("the answer broke off")]
    Interrupted(#[source] kube::Error),
    /// Nothing arrived for too long.
    #[error("the answer stopped: nothing arrived for {} s", .0.as_secs())]
    Silent(Duration),
    /// The answer is not one to the request.
    #[error("the answer is not valid: {0}")]
    Malformed(String),
}

impl RequestError {
    /// The HTTP status of a refusal; 0 for other errors.
    pub(in crate::k8s) fn code(&self) -> u16 {
        match self {
            Self::Refused(refusal) => refusal.code,
            _ => 0,
        }
    }
}

/// An answer with an HTTP status other than 2xx.
#[derive(Debug, Default, thiserror::Error)]
#[error("{code}: {message}")]
pub(in crate::k8s) struct Refusal {
    /// The HTTP status.
    pub(in crate::k8s) code: u16,
    /// A description for logs.
    pub(in crate::k8s) message: String,
    /// The API server's own description; `None` if the answer is that of a proxy, or of another server.
    pub(in crate::k8s) status: Option<Box<Status>>,
}

impl Refusal {
    fn new(code: StatusCode, text: &[u8]) -> Self {
        let code = code.as_u16();
        match parse_status(text) {
            Some(status) => Self { code, message: shortened(&status.message), status: Some(Box::new(status)) },
            None => {
                let text = shortened(String::from_utf8_lossy(text).trim());
                Self { code, message: format!("not a Kubernetes Status: {text:?}"), status: None }
            }
        }
    }
}

/// Returns the Kubernetes `Status` that this JSON contains.
fn parse_status(json: &[u8]) -> Option<Status> {
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    let Kind { kind } = serde_json::from_slice(json).ok()?;
    (kind == "Status").then(|| serde_json::from_slice(json).ok()).flatten()
}

/// Returns the text, or its beginning.
fn shortened(text: &str) -> String {
    match text.char_indices().map(|(at, _)| at).find(|at| *at > MAX_MESSAGE) {
        None => text.to_owned(),
        Some(end) => format!("{}…", &text[..end]),
    }
}

impl Answer {
    pub(super) async fn new(response: Response<Body>, silence: Duration) -> Result<Self, RequestError> {
        let status = response.status();
        let content_type = response.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let mut answer = Self { body: response.into_body(), silence, content_type };
        if status.is_success() {
            return Ok(answer);
        }
        let mut text = Vec::new();
        // A refusal that breaks off is still one.
        while let Ok(Some(chunk)) = answer.next().await {
            text.extend_from_slice(&chunk[..chunk.len().min(MAX_REFUSAL - text.len())]);
            if text.len() == MAX_REFUSAL {
                break;
            }
        }
        Err(RequestError::Refused(Refusal::new(status, &text)))
    }

    /// Returns the next bytes of the body; `None` at its end.
    pub(in crate::k8s) async fn next(&mut self) -> Result<Option<Bytes>, RequestError> {
        loop {
            match timeout(self.silence, self.body.frame()).await {
                Err(_) => return Err(RequestError::Silent(self.silence)),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(RequestError::Interrupted(error)),
                // Trailers are no data.
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kubernetes_status_is_one() {
        let status = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"no","reason":"NotFound","code":404}"#;
        let refusal = Refusal::new(StatusCode::NOT_FOUND, status);
        assert_eq!((refusal.to_string().as_str(), refusal.status.unwrap().reason.as_str()), ("404: no", "NotFound"));
        for text in ["", "404 page not found\n", "<html>", "{}", r#"{"kind":"Pod"}"#, r#"{"error": "no"}"#] {
            assert_eq!(Refusal::new(StatusCode::NOT_FOUND, text.as_bytes()).status, None, "{text}");
        }
    }

    #[test]
    fn a_long_message_is_shortened() {
        let message = Refusal::new(StatusCode::BAD_GATEWAY, "é".repeat(MAX_REFUSAL).as_bytes()).message;
        assert!(message.len() < MAX_MESSAGE + 50 && message.ends_with("…\""), "{message}");
    }
}
