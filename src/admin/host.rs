//! The names under which a browser may have reached the admin port.
//!
//! A web site can give its own name the address of this port (DNS rebinding), for example that of a port-forward on the
//! visitor's machine. To the browser, the port is then part of the site, whose scripts may read it. The Host header shows
//! this: it has a name that the site's owner has registered. So the status, where it needs no token, and changes of the log
//! level are for requests whose host is not a domain that can be registered.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::{HeaderMap, StatusCode, header};

use super::reader::Refused;
use crate::{model::subscription::has_dns_label_syntax, text::one_line};

/// Suffixes of names inside of a cluster or of a machine. They are no public domains.
const LOCAL_SUFFIXES: [&str; 3] = [".localhost", ".svc", ".cluster.local"];
/// The longest name, and how much of another text a refusal repeats.
const MAX_NAME: usize = 253;

/// Further names of the admin port, such as that of an Ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNames(Vec<HostName>);

/// A name in DNS, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

/// The reason why a text is no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host name; write it without scheme, port and path, for example status.example.com")]
pub struct HostNameError;

impl std::str::FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.to_ascii_lowercase();
        let is_name = name.len() <= MAX_NAME && name.split('.').all(has_dns_label_syntax);
        if is_name { Ok(Self(name)) } else { Err(HostNameError) }
    }
}

impl FromIterator<HostName> for HostNames {
    fn from_iter<T: IntoIterator<Item = HostName>>(names: T) -> Self {
        Self(names.into_iter().collect())
    }
}

impl HostNames {
    /// Refuses a request whose host is a name that a web site could have. A request without a host is none of a browser.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refused> {
        for value in headers.get_all(header::HOST) {
            if value.to_str().is_ok_and(|host| self.contains(host)) {
                continue;
            }
            let host: String = String::from_utf8_lossy(value.as_bytes()).chars().take(MAX_NAME).collect();
            let text = format!(
                "the host {:?} may be that of a web site, whose scripts could read this answer (DNS rebinding); use an IP address, \
                 localhost or the name of a Service (NAME.NAMESPACE.svc), or allow it with --status-page-host",
                one_line(&host)
            );
            return Err(Refused { status: StatusCode::MISDIRECTED_REQUEST, text });
        }
        Ok(())
    }

    fn contains(&self, host: &str) -> bool {
        let host = host.trim().to_ascii_lowercase();
        if let Some(rest) = host.strip_prefix('[') {
            return rest.split_once(']').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
        }
        let name = host.split_once(':').map_or(&*host, |(name, _)| name);
        let name = name.strip_suffix('.').unwrap_or(name);
        name.parse::<IpAddr>().is_ok()
            // A name of one label is no domain: localhost, a Service of the same namespace, a machine.
            || has_dns_label_syntax(name)
            || LOCAL_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
            || self.0.iter().any(|known| known.0 == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> HostNames {
        ["Status.example.com"].map(|name| name.parse().unwrap()).into_iter().collect()
    }

    #[test]
    fn hosts_that_are_no_registrable_domain_are_accepted() {
        for host in [
            "127.0.0.1:8080",
            "10.1.2.3",
            "[::1]:8080",
            "[fd00::1]",
            "localhost:8080",
            "LOCALHOST",
            "a.localhost:1",
            "server-metrics",
            "server.kfp-operator-system.svc:8080",
            "server.kfp-operator-system.svc.cluster.local.",
            "10-0-0-7.kubeflow.pod.cluster.local:8080",
            "status.example.com",
            "STATUS.example.com.:443",
        ] {
            assert!(names().contains(host), "{host}");
        }
    }

    #[test]
    fn hosts_of_web_sites_are_refused() {
        for host in [
            "evil.example:8080",
            "rebind.127.0.0.1.example",
            "other.example.com",
            "server.kfp-operator-system",
            "localhost.evil.example",
            "127.0.0.1.example",
            "[evil]",
            "svc.example",
            "",
            "a b",
        ] {
            assert!(!names().contains(host), "{host}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(names().check(&headers), Ok(()), "no browser");
        headers.append(header::HOST, "127.0.0.1".parse().unwrap());
        headers.append(header::HOST, "evil.example".parse().unwrap());
        let refused = names().check(&headers).unwrap_err();
        assert!(refused.status == 421 && refused.text.contains("\"evil.example\""), "{refused:?}");
    }

    #[test]
    fn a_further_name_is_a_name() {
        for text in ["https://status.example.com", "status.example.com:443", "", "a..b", "*.example.com"] {
            assert_eq!(text.parse::<HostName>(), Err(HostNameError), "{text}");
        }
    }
}
