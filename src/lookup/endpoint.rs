//! The address of a source of models, and the settings of the connection to it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Uri};

use super::meter::STREAM_WINDOW;

/// Silence of the connection after which TCP probes the peer.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Time for the PING's acknowledgement. Shorter than a call's deadline, so that a dead connection is replaced first.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams reset by this side, because their answer was refused or late, of which HTTP/2 ignores late frames.
const REMEMBERED_RESETS: usize = 1024;

/// A source of models, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: &'static str,
    /// A URL of it.
    pub example: &'static str,
}

/// The settings of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection<'a> {
    pub(crate) peer: Peer,
    /// See [`Error::Ca`]; only for `https`.
    pub(crate) ca: Option<&'a Path>,
    pub(crate) connect_timeout: Duration,
    /// Silence of the connection, while a call is in flight, after which HTTP/2 sends a PING.
    pub(crate) keepalive: Duration,
    /// Bytes that all streams may send before they are read.
    pub(crate) window: u32,
}

/// The reason why no client could be created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be one of the gRPC service.
    #[error("not a URL of a gRPC service such as {example}: {reason}")]
    Url {
        /// A URL that could be one.
        example: &'static str,
        /// The problem. It does not contain the URL, which may include secrets.
        reason: String,
    },
    /// The file of certificate authorities is not usable.
    #[error("the certificate authorities in {path:?} are not usable: {reason}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// There is a file of certificate authorities, but the connection does not use TLS.
    #[error("certificate authorities are only for TLS; write the URL of {peer} with https://")]
    CaWithoutTls {
        /// The name of the service.
        peer: &'static str,
    },
    /// The transport could not be set up; for `https`, mostly because the machine has no root certificates.
    #[error("the transport to {peer} could not be set up")]
    Transport {
        /// The name of the service.
        peer: &'static str,
        /// The cause.
        source: tonic::transport::Error,
    },
}

/// Parses a URL that consists of scheme, host and port, or `HOST:PORT`, which means `http`.
pub(crate) fn uri(url: &str, peer: Peer) -> Result<Uri, Error> {
    let invalid = |reason: &str| Error::Url { example: peer.example, reason: reason.to_owned() };
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
        return Err(invalid(&format!("it contains a user or a password, which {} does not use", peer.name)));
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
pub(crate) fn endpoint(url: &str, connection: &Connection<'_>) -> Result<Endpoint, Error> {
    let peer = connection.peer;
    let uri = uri(url, peer)?;
    let transport = |source| Error::Transport { peer: peer.name, source };
    let tls = match (uri.scheme_str() == Some("https"), connection.ca) {
        (true, Some(ca)) => Some(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificates(ca)?))),
        (true, None) => Some(ClientTlsConfig::new().with_native_roots()),
        (false, Some(_)) => return Err(Error::CaWithoutTls { peer: peer.name }),
        (false, None) => None,
    };
    let endpoint = configured(Endpoint::from(uri), connection.window)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .map_err(transport)?
        .connect_timeout(connection.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(TCP_KEEPALIVE))
        .http2_keep_alive_interval(connection.keepalive)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(false);
    match tls {
        Some(tls) => endpoint.tls_config(tls).map_err(transport),
        None => Ok(endpoint),
    }
}

/// Sets the limits of HTTP/2.
pub(crate) fn configured(endpoint: Endpoint, window: u32) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window)
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
