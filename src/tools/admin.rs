//! Pages of the server's admin port, as JSON.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::timeout;

/// The deadline of a page. The port answers within a second, or does not.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The limit of a page. Its lists are bounded.
const MAX_PAGE: usize = 4 << 20;

/// The reason why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// There is no answer.
    #[error("the server's admin port does not answer: {0}")]
    Unreachable(String),
    /// The server requires a token (401, 403).
    #[error("the server refuses its status: {0}")]
    Refused(String),
    /// There is no such page (404): it is off, or the server is older.
    #[error("the server has no status page: it is off, or the server is older")]
    Absent,
    /// The answer is none of this server.
    #[error("the admin port answers something else: {0}")]
    Malformed(String),
}

/// Returns a page of the admin port at this address (`http://HOST:PORT`).
///
/// # Errors
/// See [`AdminError`].
pub async fn get(address: &str, path: &str, token: Option<&str>) -> Result<Value, AdminError> {
    let mut request = Request::get(format!("{}{path}", address.trim_end_matches('/')));
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.trim()));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| AdminError::Malformed(error.to_string()))?;
    let answered = timeout(TIMEOUT, read(request)).await;
    let (status, body) =
        answered.map_err(|_| AdminError::Unreachable(format!("no answer within {} s", TIMEOUT.as_secs())))??;
    let text = || String::from_utf8_lossy(&body).lines().next().unwrap_or_default().to_owned();
    match status {
        StatusCode::NOT_FOUND => Err(AdminError::Absent),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(AdminError::Refused(text())),
        status if status.is_success() => {
            serde_json::from_slice(&body).map_err(|error| AdminError::Malformed(format!("no JSON: {error}")))
        }
        status => Err(AdminError::Malformed(format!("{status}: {}", text()))),
    }
}

async fn read(request: Request<Empty<Bytes>>) -> Result<(StatusCode, Bytes), AdminError> {
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let response =
        client.request(request).await.map_err(|error| AdminError::Unreachable(crate::telemetry::log::chain(&error)))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_PAGE).collect().await;
    let body = body.map_err(|error| AdminError::Malformed(error.to_string()))?;
    Ok((status, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::HeaderMap, routing};

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
        let found = get(&server, "/statusz.json?namespace=team", Some("secret\n")).await.unwrap();
        assert_eq!(found["version"], "1");
        let refused = get(&server, "/statusz.json", None).await;
        assert_eq!(refused, Err(AdminError::Refused("a token is needed".to_owned())));
        assert_eq!(get(&server, "/none", None).await, Err(AdminError::Absent));
    }

    #[tokio::test]
    async fn a_port_without_a_server_is_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        assert!(matches!(get(&address, "/statusz.json", None).await, Err(AdminError::Unreachable(_))));
    }
}
