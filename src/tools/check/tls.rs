//! The files of the server's TLS.

use std::{fs, path::Path};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::parse_x509_certificate;

use super::Category;
use crate::{
    clock::WallClock,
    eventsource::{Tls, TlsFiles, TlsMetrics},
    telemetry::log::chain,
};

/// The time before the end of a certificate at which it is renewed, at the latest: cert-manager begins after two thirds
/// of its life, which is at least 20 minutes.
const SOON: i64 = 7 * 24 * 3600;
const DAY: i64 = 24 * 3600;

/// Checks that the files can be used, now and in a while.
pub(super) fn check(files: Option<&TlsFiles>) -> Category {
    let mut category = Category::new("tls");
    let Some(files) = files else { return category };
    let description = "the certificate and its key are readable, and belong together";
    match Tls::load(files.clone(), TlsMetrics::default()) {
        Ok(_) => category.ok(description),
        Err(error) => {
            category.fail(
                description,
                chain(&error),
                "correct --tls-cert, --tls-key and --tls-client-ca, or the Secret",
            );
        }
    }
    validity(&mut category, "the certificate", &files.cert, true);
    if let Some(authorities) = &files.client_ca {
        validity(&mut category, "the clients' authority", authorities, false);
    }
    category
}

/// Checks the dates of a file's certificates. A chain fails with any of them, a list of authorities only with all.
fn validity(category: &mut Category, what: &str, path: &Path, is_chain: bool) {
    // A file that cannot be read is reported already.
    let Ok(pem) = fs::read(path) else { return };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    let now = WallClock::default().now();
    let dates = certificates.iter().filter_map(|certificate| {
        let (_, parsed) = parse_x509_certificate(certificate).ok()?;
        let validity = parsed.validity();
        Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
    });
    let dates: Vec<(i64, i64)> = dates.collect();
    let end = dates.iter().map(|(_, end)| *end);
    let Some(end) = (if is_chain { end.min() } else { end.max() }) else { return };
    let description = format!("{what} is valid ({})", path.display());
    let hint = "renew it; the server reads the files again by itself";
    let days = |seconds: i64| format!("{} days", seconds / DAY);
    if is_chain && dates.iter().any(|(begin, _)| *begin > now) {
        category.fail(description, "it is not valid yet", "wait, or correct the clock of this machine");
    } else if end <= now {
        category.fail(description, format!("it expired {} ago", days(now - end)), hint);
    } else if end - now < SOON {
        category.warn(description, format!("it expires in {}", days(end - now)), hint);
    } else {
        category.ok(description);
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::{super::Outcome, *};

    /// The outcomes for a certificate that is valid for so many days.
    fn outcomes(days: i64, other_key: bool) -> Vec<Outcome> {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(["server".to_owned()]).unwrap();
        let now = std::time::SystemTime::now();
        let length = std::time::Duration::from_secs(u64::try_from(days.abs() * DAY).unwrap());
        parameters.not_before = (now - std::time::Duration::from_secs(30 * 24 * 3600)).into();
        parameters.not_after = if days < 0 { now - length } else { now + length }.into();
        let certificate = parameters.self_signed(&key).unwrap();
        let written = if other_key { KeyPair::generate().unwrap() } else { key };
        let files = TlsFiles {
            cert: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
            client_ca: Some(folder.path().join("tls.crt")),
        };
        fs::write(&files.cert, certificate.pem()).unwrap();
        fs::write(&files.key, written.serialize_pem()).unwrap();
        check(Some(&files)).checks.into_iter().map(|check| check.result).collect()
    }

    #[test]
    fn certificates_are_valid_now_and_in_a_while() {
        use Outcome::{Error, Success, Warning};
        assert_eq!(outcomes(30, false), [Success; 3]);
        assert_eq!(outcomes(30, true), [Error, Success, Success]);
        assert_eq!(outcomes(2, false), [Success, Warning, Warning]);
        assert_eq!(outcomes(-2, false), [Success, Error, Error]);
        let missing = TlsFiles { cert: "/none".into(), key: "/none".into(), client_ca: None };
        let category = check(Some(&missing));
        assert_eq!(category.checks.len(), 1);
        assert!(category.checks[0].error.as_deref().unwrap().contains("/none"));
        assert_eq!(check(None).checks, []);
    }
}
