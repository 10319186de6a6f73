//! Pages of the server's admin port, as text.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

use crate::telemetry::log::chain;

/// The deadline of a page.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A page is requested again: a port-forward may break off while the server closes the connection.
const ATTEMPTS: usize = 3;
/// The limit of a page: metrics of 1,000 namespaces take 2 MiB.
const MAX_PAGE: usize = 8 << 20;

/// Returns a page with its status if that is not 200. A refusal is a page, too: `/readyz` says why.
///
/// # Errors
/// There is no answer, described for people.
pub(super) async fn page(address: &str, path: &str) -> Result<String, String> {
    let mut attempts = 1;
    loop {
        match once(address, path).await {
            Err(_) if attempts < ATTEMPTS => attempts += 1,
            outcome => return outcome,
        }
    }
}

async fn once(address: &str, path: &str) -> Result<String, String> {
    let url = format!("{}{path}", address.trim_end_matches('/'));
    let request = Request::get(&url).body(Empty::<Bytes>::new()).map_err(|error| format!("{url}: {error}"))?;
    let read = async {
        let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.map_err(|error| chain(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_PAGE).collect().await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(if status.is_success() { text } else { format!("{status}\n{text}") })
    };
    timeout(TIMEOUT, read).await.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
}
