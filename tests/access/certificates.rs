//! Authorities, certificates, and a tunnel by which clients without TLS reach a server with it.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::task::AbortOnDropHandle;

/// The name in every certificate.
const NAME: &str = "server";

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(crate) struct Identity {
    cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// The certificate of the authority, in PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate.
    pub(crate) fn issue(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let cert =
            CertificateParams::new([NAME, "127.0.0.1"].map(str::to_owned)).unwrap().signed_by(&key, &self.0).unwrap();
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// Connects to a server whose certificate is of this authority.
    pub(crate) async fn connect(&self, server: SocketAddr, client: Option<&Identity>) -> std::io::Result<Connection> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let cert = rustls::pki_types::CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(server).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), tcp).await
    }
}

/// A connection with TLS.
pub(crate) type Connection = TlsStream<TcpStream>;

impl Identity {
    /// Writes `tls.crt` and `tls.key`, the keys of a Secret, into a folder.
    pub(crate) fn write(&self, folder: &Path) {
        fs::write(folder.join("tls.crt"), &self.cert).unwrap();
        fs::write(folder.join("tls.key"), &self.key).unwrap();
    }
}

/// The flags for the files of [`Identity::write`].
pub(crate) fn flags(folder: &Path) -> [String; 2] {
    let file = |flag: &str, name: &str| format!("--tls-{flag}={}", folder.join(name).display());
    [file("cert", "tls.crt"), file("key", "tls.key")]
}

/// Forwards plaintext connections to a server with TLS. HTTP/2, and so every PING, goes end to end.
pub(crate) struct Tunnel {
    pub(crate) address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Tunnel {
    pub(crate) async fn start(server: SocketAddr, authority: Authority, client: Option<Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new((authority, client));
        let task = tokio::spawn(async move {
            loop {
                let (mut plain, _) = listener.accept().await.unwrap();
                let shared = shared.clone();
                tokio::spawn(async move {
                    let (authority, client) = &*shared;
                    // A server that refuses the connection closes it, and so does this.
                    let Ok(mut encrypted) = authority.connect(server, client.as_ref()).await else { return };
                    let _closed = copy_bidirectional(&mut plain, &mut encrypted).await;
                });
            }
        });
        Self { address, _task: AbortOnDropHandle::new(task) }
    }
}
