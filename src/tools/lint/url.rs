//! The url of a generic entry: a target of gRPC.

/// A server that a url names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// The mend of every problem.
const EXAMPLE: &str = "write HOST:PORT, such as model-update-eventsource-server.kubeflow.svc:50051";

/// Returns the server that a url names, or `None` if it is of a kind that names no host and port.
///
/// # Errors
/// Argo Events could not connect: the problem and the mend.
pub fn target(url: &str) -> Result<Option<Target>, String> {
    if url.trim() != url || url.contains(char::is_whitespace) {
        return Err(format!("contains blanks; {EXAMPLE}"));
    }
    let address = match url.split_once(':') {
        Some(("http" | "https", rest)) if rest.starts_with("//") => {
            return Err(format!(
                "begins with a scheme that gRPC does not know, so Argo Events cannot connect; {EXAMPLE}"
            ));
        }
        Some(("dns" | "passthrough", rest)) => match rest.strip_prefix("//") {
            // An authority, usually empty, precedes the address.
            Some(rest) => rest.split_once('/').map_or("", |(_, address)| address),
            None => rest,
        },
        Some(("ipv4" | "ipv6" | "unix" | "unix-abstract" | "xds", _)) => return Ok(None),
        _ => url,
    };
    let (host, port) = match address.rsplit_once(':') {
        // The colons of an IPv6 address without brackets.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
        _ => return Err(format!("has no port, and Argo Events would connect to port 443; {EXAMPLE}")),
    };
    if address.contains('/') || host.is_empty() {
        return Err(format!("is no address; {EXAMPLE}"));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(Some(Target { host: host.to_owned(), port })),
        _ => Err(format!("has the port {port:?}, which is no number from 1 to 65535; {EXAMPLE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_host_and_a_port() {
        for url in [
            "server.team:50051",
            "dns:server.team:50051",
            "dns:///server.team:50051",
            "passthrough:///server.team:50051",
        ] {
            assert_eq!(target(url), Ok(Some(Target { host: "server.team".to_owned(), port: 50051 })), "{url}");
        }
        assert_eq!(target("[::1]:1"), Ok(Some(Target { host: "[::1]".to_owned(), port: 1 })));
        assert_eq!(target("unix:/run/socket"), Ok(None));
    }

    #[test]
    fn a_url_that_cannot_be_dialled_is_explained() {
        for (url, words) in [
            ("server.team", "has no port"),
            ("::1", "has no port"),
            ("http://server:50051", "scheme"),
            ("https://server:50051", "scheme"),
            ("server:50051/path", "is no address"),
            ("server/path:50051", "is no address"),
            (":50051", "is no address"),
            ("server:", "is no number"),
            ("server:0", "is no number"),
            ("server:70000", "is no number"),
            (" server:50051", "blanks"),
        ] {
            let problem = target(url).unwrap_err();
            assert!(problem.contains(words) && problem.contains("HOST:PORT"), "{url}: {problem}");
        }
    }
}
