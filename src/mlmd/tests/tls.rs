//! TLS with certificate authorities of a file.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming};

use super::*;
use crate::mlmd::proto::metadata_store_service_server::MetadataStoreServiceServer;

/// A private certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Starts the server of a TFX run with one model, with a certificate for `localhost`. Returns its port.
    async fn serve(&self) -> u16 {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let identity = Identity::from_pem(certificate.pem(), key.serialize_pem());
        let env = TestEnv::tfx();
        env.server.store().add_model(5, 10, &[1]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        let service = MetadataStoreServiceServer::new(env.server);
        tokio::spawn(server.add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
        port
    }
}

fn mlmd(url: &str, ca: &Path) -> Result<Mlmd, Error> {
    let options = Options { ca: Some(ca.to_owned()), ..Options::default() };
    Mlmd::new(url, &options, LookupMetrics::new(&mut Registry::default()))
}

#[tokio::test]
async fn a_server_of_a_private_authority_is_trusted_by_its_file() {
    let (authority, other) = (Authority::new(), Authority::new());
    let url = format!("https://localhost:{}", authority.serve().await);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ca.crt");
    let find = async |pem: String| {
        fs::write(&file, pem).unwrap();
        mlmd(&url, &file).unwrap().find(&compiled(), &Arc::default()).await
    };
    assert_eq!(find(authority.pem()).await.unwrap().models.len(), 1);
    assert_eq!(find(other.pem() + &authority.pem()).await.unwrap().models.len(), 1, "a bundle");
    let (code, message) = failure(find(other.pem()).await);
    assert_eq!(code, "unavailable");
    assert!(message.contains("invalid peer certificate"), "{message}");
}

#[tokio::test]
async fn a_name_that_the_certificate_does_not_have_is_refused() {
    let authority = Authority::new();
    let url = format!("https://127.0.0.1:{}", authority.serve().await);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ca.crt");
    fs::write(&file, authority.pem()).unwrap();
    let (code, message) = failure(mlmd(&url, &file).unwrap().find(&compiled(), &Arc::default()).await);
    assert_eq!(code, "unavailable");
    assert!(message.contains("not valid for name"), "{message}");
}

#[tokio::test]
async fn an_unusable_file_is_refused_at_the_start() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ca.crt");
    let error = || mlmd("https://localhost:1", &file).unwrap_err().to_string();
    assert!(error().contains("No such file"), "{}", error());
    for (content, reason) in [
        ("", "no certificate in PEM format"),
        ("not a certificate", "no certificate in PEM format"),
        ("-----BEGIN CERTIFICATE-----\n", "missing section end"),
    ] {
        fs::write(&file, content).unwrap();
        assert!(error().contains(reason) && error().contains("ca.crt"), "{}", error());
    }
    for url in ["http://localhost:1", "localhost:1"] {
        let error = mlmd(url, &file).unwrap_err().to_string();
        assert!(error.contains("https://"), "{error}");
    }
}
