//! TLS for subscribers, with certificates that are read again when their files change.
//!
//! Kubernetes replaces the files of a mounted Secret by exchanging a symbolic link, so the files are read again by their
//! paths, at intervals, and compared by content. Connections that are open keep their certificate; new ones get the new
//! one. Files that cannot be used leave the last good ones in place.

use std::{
    convert::Infallible,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{info, warn};

use crate::telemetry::{LogThrottle, label_values, log::chain};

/// The interval at which the files are read. Certificates are renewed hours before they expire.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);
/// The time limit of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The protocol of gRPC, which a client has to offer.
const ALPN: &[u8] = b"h2";

/// The files of a server's TLS, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by those of intermediate authorities.
    pub cert: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// Certificates of the authorities of clients. With it, a client must present a certificate of one of them.
    pub client_ca: Option<PathBuf>,
}

/// The reason why TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path:?}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// A file does not contain what it should.
    #[error("{path:?} contains no {content} in PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// The missing part.
        content: &'static str,
    },
    /// The certificate and the key cannot be used together, or at all.
    #[error("the certificate and its key cannot be used: {0}")]
    Certificate(#[from] rustls::Error),
    /// The certificates of the clients' authorities cannot be used.
    #[error("the certificates of the clients' authorities cannot be used: {0}")]
    ClientCa(#[from] VerifierBuilderError),
}

label_values! {
    /// The result of reading changed files.
    pub(super) enum Reload {
        /// New connections get the new certificate.
        Ok = "ok",
        /// The files cannot be used.
        Failed = "failed",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: Reload,
}

/// Metrics of TLS. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TlsMetrics {
    reloads: Family<ReloadLabels, Counter>,
}

impl TlsMetrics {
    /// Creates the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for &result in Reload::ALL {
            drop(metrics.reloads.get_or_create(&ReloadLabels { result }));
        }
        registry.register("tls_reloads", "Readings of changed TLS files, by result", metrics.reloads.clone());
        metrics
    }

    fn reloaded(&self, result: Reload) {
        self.reloads.get_or_create(&ReloadLabels { result }).inc();
    }
}

/// The contents of the files.
#[derive(PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// TLS of the subscribers' port. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    config: Arc<RwLock<Arc<ServerConfig>>>,
    files: Arc<TlsFiles>,
    /// The contents at the start.
    contents: Arc<Contents>,
    metrics: TlsMetrics,
}

impl TlsFiles {
    fn read(&self) -> Result<Contents, TlsError> {
        let read = |path: &Path| fs::read(path).map_err(|error| TlsError::Read { path: path.to_owned(), error });
        let client_ca = self.client_ca.as_deref().map(read).transpose()?;
        Ok(Contents { cert: read(&self.cert)?, key: read(&self.key)?, client_ca })
    }

    fn parse(&self, contents: &Contents) -> Result<ServerConfig, TlsError> {
        let certificates = |path: &Path, pem: &[u8]| {
            let parsed: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
            if parsed.is_empty() { Err(missing(path, "certificate")) } else { Ok(parsed) }
        };
        let chain = certificates(&self.cert, &contents.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|_| missing(&self.key, "private key"))?;
        let provider: Arc<CryptoProvider> = ring::default_provider().into();
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match (&self.client_ca, &contents.client_ca) {
            (Some(path), Some(pem)) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(path, pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build()?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

fn missing(path: &Path, content: &'static str) -> TlsError {
    TlsError::Pem { path: path.to_owned(), content }
}

impl Tls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn load(files: TlsFiles, metrics: TlsMetrics) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let config = Arc::new(RwLock::new(Arc::new(files.parse(&contents)?)));
        Ok(Self { config, files: Arc::new(files), contents: Arc::new(contents), metrics })
    }

    /// Performs a handshake, within a time limit.
    pub(super) async fn handshake<IO>(&self, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(io)).await {
            Ok(accepted) => accepted,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Reads the files again at intervals, forever.
    pub(super) async fn reload(self) -> Infallible {
        let (mut log, mut current) = (LogThrottle::new(1), self.contents.clone());
        loop {
            sleep(RELOAD_INTERVAL).await;
            let reloaded = match self.read().await {
                Ok(contents) if contents == *current => continue,
                Ok(contents) => self.files.parse(&contents).map(|config| (contents, config)),
                Err(error) => Err(error),
            };
            match reloaded {
                Ok((contents, config)) => {
                    *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    current = contents.into();
                    self.metrics.reloaded(Reload::Ok);
                    info!(cert = ?self.files.cert, "reloaded TLS files");
                }
                Err(error) => {
                    self.metrics.reloaded(Reload::Failed);
                    let error = chain(&error);
                    if log.allows((), &error) {
                        warn!(error, "cannot reload TLS files, keeping the last ones");
                    }
                }
            }
        }
    }

    async fn read(&self) -> Result<Contents, TlsError> {
        let files = self.files.clone();
        let path = files.cert.clone();
        tokio::task::spawn_blocking(move || files.read())
            .await
            .unwrap_or_else(|error| Err(TlsError::Read { path, error: io::Error::other(error) }))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod fixtures;
#[cfg(test)]
mod tests;
