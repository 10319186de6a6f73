//! The address of ML Metadata, and the settings of the connection to it.

use std::{fs, path::Path, time::Duration};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Uri};

use super::{
    Error, Options,
    meter::{CONNECTION_WINDOW, STREAM_WINDOW},
};

/// Silence of the connection, while a call is in flight, after which HTTP/2 sends a PING. ML Metadata's gRPC library
/// closes connections with PINGs while idle, or with many PINGs between two responses.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Time for the PING's acknowledgement. Shorter than a call's deadline, so that a dead connection is replaced first.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams reset by this side, because their answer was refused or late, of which HTTP/2 ignores late frames.
const REMEMBERED_RESETS: usize = 1024;

/// Parses a URL that consists of scheme, host and port, or `HOST:PORT`, which means `http`.
pub(super) fn uri(url: &str) -> Result<Uri, Error> {
    let invalid = |reason| Error::Url { reason };
    let uri: Uri = if url.contains("://") {
        url.parse().map_err(|_| invalid("it does not parse"))?
    } else {
        let uri: Uri = format!("http://{url}").parse().map_err(|_| invalid("it does not parse"))?;
        if uri.port().is_none() {
            return Err(invalid("it has no port, and does not begin with http:// or https://"));
        }
        uri
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid("it does not begin with http:// or https://"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(invalid("it contains a user or a password, which ML Metadata does not use"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(invalid("it has no host"));
    }
    if uri.path_and_query().is_some_and(|path| path != "/") {
        return Err(invalid("it has a path or a query; only scheme, host and port are allowed"));
    }
    Ok(uri)
}

/// Returns the endpoint of the server under this URL, without connecting.
pub(super) fn endpoint(url: &str, options: &Options) -> Result<Endpoint, Error> {
    let uri = uri(url)?;
    let tls = match (uri.scheme_str() == Some("https"), &options.ca) {
        (true, Some(ca)) => Some(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificates(ca)?))),
        (true, None) => Some(ClientTlsConfig::new().with_native_roots()),
        (false, Some(_)) => return Err(Error::CaWithoutTls),
        (false, None) => None,
    };
    let endpoint = configured(Endpoint::from(uri))
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE))
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(false);
    match tls {
        Some(tls) => Ok(endpoint.tls_config(tls)?),
        None => Ok(endpoint),
    }
}

/// Sets the limits of HTTP/2.
pub(super) fn configured(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_concurrent_reset_streams(REMEMBERED_RESETS)
        // Late frames of refused answers are no errors of the server, for which HTTP/2 would end the connection.
        .http2_max_local_error_reset_streams(None)
}

/// Reads a file of certificate authorities.
fn certificates(path: &Path) -> Result<Vec<u8>, Error> {
    let error = |reason| Error::Ca { path: path.to_owned(), reason };
    let pem = fs::read(path).map_err(|problem| error(problem.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(error("it contains no certificate in PEM format".to_owned()))
        }
        Ok(_) => Ok(pem),
        Err(problem) => Err(error(problem.to_string())),
    }
}
