//! The difference between a server with TLS and one without, after a connection of the other kind has failed.

use std::{error::Error, io, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::Uri;

/// The time limit of a handshake that only shows whether the server has TLS.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Returns whether the server has TLS: it answers the start of a handshake on another connection. The failed one does not
/// show it: some servers close a connection without TLS silently, and the alert of others is lost with unread bytes.
pub(super) async fn has_tls(url: &Uri) -> bool {
    let handshake = async {
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        // Without authorities, every certificate is rejected, so that nothing is sent to a server that is not verified.
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tcp = TcpStream::connect((host, url.port_u16().unwrap_or(80))).await?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map(drop)
    };
    match timeout(HANDSHAKE, handshake).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => tls_error(&error).is_some_and(|error| !is_of_plaintext(error)),
        Err(_elapsed) => false,
    }
}

/// Returns whether a connection with TLS has failed because the server's answer is none of TLS.
pub(super) fn is_plaintext(error: &(dyn Error + 'static)) -> bool {
    tls_error(error).is_some_and(is_of_plaintext)
}

fn is_of_plaintext(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidMessage(_))
}

/// Returns the error of TLS among the causes. That inside of an [`io::Error`] is not a source of it.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let causes = std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source());
    let inner = |error: &'a (dyn Error + 'static)| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref())
    };
    causes.filter_map(inner).next()
}
