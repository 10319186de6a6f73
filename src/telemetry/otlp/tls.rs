//! TLS of the OTLP clients.

use std::{error::Error, fmt, time::Duration};

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::TracingError;

/// The certificates for an `https` endpoint, as PEM texts.
#[derive(Default, PartialEq)]
pub(super) struct Tls {
    /// The endpoint's scheme is `https`.
    pub(super) https: bool,
    /// Certificate authorities to trust beside those of the system.
    pub(super) certificate: Option<Vec<u8>>,
    /// The client's certificate chain and its key.
    pub(super) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("https", &self.https).finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn grpc_config(&self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new().with_enabled_roots();
        if let Some(certificate) = &self.certificate {
            config = config.ca_certificate(Certificate::from_pem(certificate));
        }
        if let Some((certificate, key)) = &self.client {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        config
    }

    /// A client for OTLP over HTTP/1.1, without proxies and redirects.
    pub(super) fn http_client(
        &self,
        timeout: Duration,
    ) -> Result<HyperClient<HttpsConnector<HttpConnector>>, TracingError> {
        let config = self.http_config().map_err(|error| TracingError::Certificates(error.to_string()))?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        Ok(HyperClient::new(connector, timeout, None))
    }

    fn http_config(&self) -> Result<ClientConfig, Box<dyn Error>> {
        let mut roots = RootCertStore::empty();
        if self.https {
            // A system without readable certificates is no error: the collector's may be the only one.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        for certificate in CertificateDer::pem_slice_iter(self.certificate.as_deref().unwrap_or_default()) {
            roots.add(certificate?)?;
        }
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        Ok(match &self.client {
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
            }
            None => builder.with_no_client_auth(),
        })
    }
}
