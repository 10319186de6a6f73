//! Parsers of flag values. Their errors follow the flag's name in clap's message.

use std::{net::SocketAddr, sync::Arc};

use crate::{app::shutdown::MAX_CONFIRM_AFTER, k8s, kfp, mlmd, model::subscription::is_dns_label, tools::lint};

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write it as IP:PORT, for example [::]:50051 for all interfaces or 127.0.0.1:0 for a free local port".to_owned()
    })
}

pub(super) fn metadata_store(text: &str) -> Result<String, mlmd::Error> {
    mlmd::check_url(text)?;
    Ok(text.to_owned())
}

pub(super) fn kfp_api(text: &str) -> Result<String, kfp::Error> {
    kfp::check_url(text)?;
    Ok(text.to_owned())
}

/// The URL of a gRPC server, with the scheme `http` where there is none.
pub(super) fn server(text: &str) -> Result<String, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri = url
        .parse::<http::Uri>()
        .ok()
        .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.port().is_some());
    let is_server = |uri: http::Uri| uri.host().is_some_and(|host| !host.is_empty()) && uri.path() == "/";
    if uri.is_some_and(is_server) {
        Ok(url)
    } else {
        Err("write it as HOST:PORT, or https://HOST:PORT for a server with TLS, for example 127.0.0.1:50051".to_owned())
    }
}

/// The URL of an admin port, which has no TLS.
pub(super) fn admin(text: &str) -> Result<String, String> {
    match server(text) {
        Ok(url) if url.starts_with("http://") => Ok(url),
        _ => Err("write it as HOST:PORT, for example 127.0.0.1:8080; the admin port has no TLS".to_owned()),
    }
}

/// An address as EventSources have it in their url.
pub(super) fn grpc_target(text: &str) -> Result<String, String> {
    match lint::target(text) {
        Ok(Some(_)) => Ok(text.to_owned()),
        Ok(None) => Err(
            "write it as HOST:PORT, such as kfp-operator-model-update-eventsource-server.kfp-operator-system.svc:50051"
                .to_owned(),
        ),
        Err(problem) => Err(format!("it {problem}")),
    }
}

pub(super) fn selector(text: &str) -> Result<String, k8s::SelectorError> {
    k8s::check_selector(text)?;
    Ok(text.to_owned())
}

pub(super) fn namespace(text: &str) -> Result<Arc<str>, String> {
    if is_dns_label(text) {
        Ok(text.into())
    } else if text.is_empty() {
        Err("the name of a namespace is empty; for all namespaces leave the flag (and its variable) out".to_owned())
    } else {
        Err("not the name of a namespace (1 to 63 characters: a-z, 0-9 and '-'); separate several by commas".to_owned())
    }
}

/// The name of one namespace.
pub(super) fn one_namespace(text: &str) -> Result<String, String> {
    if is_dns_label(text) {
        Ok(text.to_owned())
    } else {
        Err("not the name of a namespace (1 to 63 characters: a-z, 0-9 and '-')".to_owned())
    }
}

/// A duration that is not zero.
pub(super) fn positive_duration(text: &str) -> Result<humantime::Duration, String> {
    let duration: humantime::Duration =
        text.parse().map_err(|error| format!("{error}; write a duration such as 30s, 5m or 3h"))?;
    if duration.is_zero() {
        Err("longer than zero; write a duration such as 30s, 5m or 3h".to_owned())
    } else {
        Ok(duration)
    }
}

/// A time for which an answer is remembered. Access control reviews again at most once a second.
pub(super) fn cache_time(text: &str) -> Result<humantime::Duration, String> {
    let duration: humantime::Duration =
        text.parse().map_err(|error| format!("{error}; write a duration such as 30s or 5m"))?;
    if (1..=3600).contains(&duration.as_secs()) {
        Ok(duration)
    } else {
        Err("from 1s to 1h: shorter, every request would cost the API server a review; longer, a withdrawn right would \
             count too long"
            .to_owned())
    }
}

pub(super) fn confirm_after(text: &str) -> Result<humantime::Duration, String> {
    let duration: humantime::Duration =
        text.parse().map_err(|error| format!("{error}; write a duration such as 500ms or 1s"))?;
    if *duration > MAX_CONFIRM_AFTER {
        let most = humantime::format_duration(MAX_CONFIRM_AFTER);
        return Err(format!("at most {most}, because a shutdown waits little longer for confirmations"));
    }
    Ok(duration)
}

/// The age of a stream. Argo Events is away for 5 s after each.
pub(super) fn connection_age(text: &str) -> Result<humantime::Duration, String> {
    let duration: humantime::Duration =
        text.parse().map_err(|error| format!("{error}; write a duration such as 6h"))?;
    if (5..=30 * 24 * 3600).contains(&duration.as_secs()) {
        Ok(duration)
    } else {
        Err("from 5s to 30days, and hours in production: Argo Events reconnects 5 s after the end of its stream"
            .to_owned())
    }
}
