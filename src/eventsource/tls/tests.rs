use std::os::unix::fs::symlink;

use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::duplex;
use tokio_rustls::TlsConnector;

use super::{
    fixtures::{Authority, authority, write},
    *,
};

fn load(files: &TlsFiles) -> Tls {
    Tls::load(files.clone(), TlsMetrics::default()).unwrap()
}

fn client(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = ring::default_provider().into();
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

/// Connects; returns the errors of both sides.
async fn connect(tls: &Tls, config: ClientConfig) -> (io::Result<()>, io::Result<()>) {
    let (ours, theirs) = duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("server").unwrap();
    let (server, client) = tokio::join!(tls.handshake(ours), connector.connect(name, theirs));
    (server.map(drop), client.map(drop))
}

fn reloads(metrics: &TlsMetrics, result: Reload) -> u64 {
    metrics.reloads.get_or_create(&ReloadLabels { result }).get()
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_connects() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority();
    let tls = load(&write(folder.path(), &authority));
    let (server, client_side) = connect(&tls, client(&authority)).await;
    server.unwrap();
    client_side.unwrap();
    let (_, refused) = connect(&tls, client(&self::authority())).await;
    assert!(refused.is_err(), "another authority");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_a_time_limit() {
    let folder = tempfile::tempdir().unwrap();
    let tls = load(&write(folder.path(), &authority()));
    let (ours, _silent) = duplex(1024);
    assert_eq!(tls.handshake(ours).await.map(drop).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn with_an_authority_for_clients_a_client_needs_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, clients) = (authority(), authority());
    let client_ca = folder.path().join("ca.crt");
    fs::write(&client_ca, clients.pem()).unwrap();
    let files = TlsFiles { client_ca: Some(client_ca), ..write(folder.path(), &authority) };
    let tls = load(&files);
    let (server, _) = connect(&tls, client(&authority)).await;
    assert!(server.is_err(), "no certificate");
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["client".to_owned()]).unwrap().signed_by(&key, &clients).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let mut config = builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let (server, client_side) = connect(&tls, config).await;
    server.unwrap();
    client_side.unwrap();
}

/// As the kubelet does it: the files are links to a link to a folder, and the middle link is exchanged.
#[tokio::test(start_paused = true)]
async fn exchanged_links_are_noticed_and_unusable_files_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (authority(), authority());
    let data = |name: &str| folder.path().join(name);
    fs::create_dir(data("1")).unwrap();
    fs::create_dir(data("2")).unwrap();
    write(&data("1"), &first);
    write(&data("2"), &second);
    symlink(data("1"), data("..data")).unwrap();
    let files = TlsFiles { cert: data("..data/tls.crt"), key: data("..data/tls.key"), client_ca: None };
    let metrics = TlsMetrics::default();
    let tls = Tls::load(files, metrics.clone()).unwrap();
    let reloading = tokio::spawn(tls.clone().reload());
    let exchange = |target: &str| {
        symlink(data(target), data("next")).unwrap();
        fs::rename(data("next"), data("..data")).unwrap();
    };
    exchange("2");
    let reloaded = async {
        while reloads(&metrics, Reload::Ok) == 0 {
            sleep(RELOAD_INTERVAL).await;
        }
    };
    timeout(RELOAD_INTERVAL * 100, reloaded).await.unwrap();
    connect(&tls, client(&second)).await.1.unwrap();

    fs::write(data("2").join("tls.key"), "not a key").unwrap();
    let failed = async {
        while reloads(&metrics, Reload::Failed) == 0 {
            sleep(RELOAD_INTERVAL).await;
        }
    };
    timeout(RELOAD_INTERVAL * 100, failed).await.unwrap();
    connect(&tls, client(&second)).await.1.unwrap();
    reloading.abort();
}

#[test]
fn an_unusable_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let files = write(folder.path(), &authority());
    let error = |files: TlsFiles| Tls::load(files, TlsMetrics::default()).map(drop).unwrap_err().to_string();
    let absent = folder.path().join("absent");
    assert!(error(TlsFiles { cert: absent, ..files.clone() }).contains("absent"));
    assert!(error(TlsFiles { key: files.cert.clone(), ..files.clone() }).contains("no private key"));
    assert!(error(TlsFiles { cert: files.key.clone(), ..files.clone() }).contains("no certificate"));
    let other = tempfile::tempdir().unwrap();
    let mismatch = TlsFiles { key: write(other.path(), &authority()).key, ..files };
    assert!(error(mismatch).contains("cannot be used"));
}
