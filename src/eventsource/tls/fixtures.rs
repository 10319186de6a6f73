//! Authorities and certificates for tests.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::TlsFiles;

/// A certificate authority.
pub(in crate::eventsource) type Authority = CertifiedIssuer<'static, KeyPair>;

/// Creates an authority.
pub(in crate::eventsource) fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a certificate for `server` and its key into a folder.
pub(in crate::eventsource) fn write(folder: &Path, authority: &Authority) -> TlsFiles {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["server".to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
    fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    TlsFiles { cert: folder.join("tls.crt"), key: folder.join("tls.key"), client_ca: None }
}
