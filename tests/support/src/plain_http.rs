//! Plain HTTP/1.1 to a server on loopback.

use bytes::Bytes;
use http::{
    Method, Request,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

/// Returns the body of the response.
///
/// # Errors
/// A missing response or a status other than 2xx, as text with the URL.
pub async fn get(url: &str) -> Result<String, String> {
    send(Method::GET, url, Bytes::new(), None).await
}

/// Returns the body of the response to a request with a bearer token.
///
/// # Errors
/// As [`get`].
pub async fn get_with_token(url: &str, token: &str) -> Result<String, String> {
    send(Method::GET, url, Bytes::new(), Some(token)).await
}

/// Posts JSON and returns the JSON of the response.
///
/// # Errors
/// As [`get`], and a response that is not JSON.
pub async fn post_json(url: &str, body: &Value) -> Result<Value, String> {
    let response = send(Method::POST, url, Bytes::from(body.to_string()), None).await?;
    serde_json::from_str(&response).map_err(|error| format!("{url}: {error}: {response}"))
}

async fn send(method: Method, url: &str, body: Bytes, token: Option<&str>) -> Result<String, String> {
    let mut request = Request::builder().method(method).uri(url).header(CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.map_err(|error| format!("{url}: {error:?}"))?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| format!("{url}: {error}"))?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() { Ok(text) } else { Err(format!("{url}: {status}: {text}")) }
}
