//! Requests to the server's admin port.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::telemetry::log::chain;

/// The deadline of a request. The port answers within a second, or not at all.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The limit of an answer in bytes: the server's own lists are shorter.
const MAX_BYTES: usize = 8 << 20;

/// The reason why there is no answer, or no status in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The request cannot be sent.
    #[error("{0}")]
    Request(&'static str),
    /// There is no answer.
    #[error("the server's admin port does not answer: {0}")]
    Unreachable(String),
    /// The server requires a token (401, 403).
    #[error("the server shows its status only with a token that may subscribe (--token-file): {0}")]
    Refused(String),
    /// There is no such page (404).
    #[error("the server has no status page (an older version, or --status-page off)")]
    Absent,
    /// The answer is of another kind.
    #[error("the answer of the admin port is no status: {0}")]
    Malformed(String),
}

impl AdminError {
    /// Returns whether an admin port has answered.
    pub fn is_answer(&self) -> bool {
        !matches!(self, Self::Request(_) | Self::Unreachable(_))
    }
}

/// An answer of the admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub text: String,
}

/// Returns the status of the server (`/statusz.json`) at `http://HOST:PORT`, of one namespace or of all.
///
/// # Errors
/// See [`AdminError`].
pub async fn status<T: DeserializeOwned>(
    url: &str,
    namespace: Option<&str>,
    token: Option<&str>,
) -> Result<T, AdminError> {
    let query = namespace.map(|namespace| format!("?namespace={namespace}")).unwrap_or_default();
    let Answer { status, text } = get(url, &format!("/statusz.json{query}"), token).await?;
    let words = || match text.lines().next() {
        Some(line) if !line.is_empty() => format!("{status}: {line}"),
        _ => status.to_string(),
    };
    match status {
        StatusCode::NOT_FOUND => Err(AdminError::Absent),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(AdminError::Refused(words())),
        status if status.is_success() => {
            serde_json::from_str(&text).map_err(|error| AdminError::Malformed(error.to_string()))
        }
        _ => Err(AdminError::Malformed(words())),
    }
}

/// Returns the answer to a GET.
///
/// # Errors
/// There is none.
pub async fn get(url: &str, path: &str, token: Option<&str>) -> Result<Answer, AdminError> {
    if url.starts_with("https://") {
        return Err(AdminError::Request("the admin port has no TLS; write its address as HOST:PORT"));
    }
    let mut request = Request::get(format!("{}{path}", url.trim_end_matches('/')));
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.trim()));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| {
        AdminError::Request("the address of the admin port is none, or the token contains characters of no token")
    })?;
    let answered = timeout(TIMEOUT, send(request)).await;
    answered.map_err(|_| AdminError::Unreachable(format!("no answer within {} s", TIMEOUT.as_secs())))?
}

async fn send(request: Request<Empty<Bytes>>) -> Result<Answer, AdminError> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.map_err(|error| AdminError::Unreachable(chain(&error)))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
    let body = body.map_err(|error| AdminError::Malformed(format!("it is not complete: {error}")))?;
    Ok(Answer { status, text: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::HeaderMap, routing};
    use serde_json::Value;

    use super::*;

    async fn serve(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn a_page_is_read_with_the_token() {
        let page = async |headers: HeaderMap| match headers.get(AUTHORIZATION) {
            Some(token) if token == "Bearer secret" => (StatusCode::OK, "{\"version\": \"1\"}"),
            _ => (StatusCode::UNAUTHORIZED, "a token is needed"),
        };
        let server = serve(Router::new().route("/statusz.json", routing::get(page))).await;
        let found: Value = status(&server, Some("team"), Some("secret\n")).await.unwrap();
        assert_eq!(found["version"], "1");
        let refused = status::<Value>(&server, None, None).await;
        assert_eq!(refused, Err(AdminError::Refused("401 Unauthorized: a token is needed".to_owned())));
        let other = serve(Router::new()).await;
        assert_eq!(status::<Value>(&other, None, None).await, Err(AdminError::Absent));
        assert_eq!(get(&other, "/none", None).await.unwrap().status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_port_without_a_server_is_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = get(&address, "/readyz", None).await.unwrap_err();
        assert!(matches!(error, AdminError::Unreachable(_)) && !error.is_answer());
    }
}
