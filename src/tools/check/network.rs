//! The collector of traces.

use std::time::Duration;

use http::Uri;
use tokio::{net::TcpStream, time::timeout};

use super::Category;

/// The limit of a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Checks that the collector of traces is reachable.
pub(super) async fn otlp(url: Option<&str>) -> Category {
    let mut category = Category::new("traces");
    let Some(url) = url else { return category };
    let description = format!("the OTLP endpoint {url} is reachable");
    let uri: Option<Uri> = url.parse().ok();
    let address = uri.as_ref().and_then(|uri| {
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        Some((uri.host()?.trim_matches(['[', ']']).to_owned(), uri.port_u16().unwrap_or(default)))
    });
    let Some((host, port)) = address.filter(|(host, _)| !host.is_empty() && url.contains("://")) else {
        category.fail(description, "it is no URL", "write http://HOST:4318, or http://HOST:4317 for gRPC");
        return category;
    };
    match timeout(CONNECT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => category.ok(description),
        Ok(Err(error)) => {
            let hint =
                "events are delivered without traces; correct OTEL_EXPORTER_OTLP_ENDPOINT, or start the collector";
            category.warn(description, error.to_string(), hint);
        }
        Err(_) => {
            let error = format!("no connection within {} s", CONNECT.as_secs());
            category.warn(description, error, "events are delivered without traces; a NetworkPolicy may forbid it");
        }
    }
    category
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::{super::Outcome, *};

    #[tokio::test]
    async fn the_collector_is_reached_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        assert_eq!(otlp(Some(&url)).await.checks[0].result, Outcome::Success);
        drop(listener);
        assert_eq!(otlp(Some(&url)).await.checks[0].result, Outcome::Warning);
        for wrong in ["127.0.0.1:4317", "http://", "collector"] {
            assert_eq!(otlp(Some(wrong)).await.checks[0].result, Outcome::Error, "{wrong}");
        }
        assert_eq!(otlp(None).await.checks, []);
    }
}
