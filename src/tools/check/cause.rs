//! The likely cause of a failed call to a source of models, by the way it fails.

/// A source of models.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Its name.
    pub(super) name: &'static str,
    /// Its gRPC port in Kubeflow.
    pub(super) port: u16,
    /// The labels that admit the server through a NetworkPolicy.
    pub(super) policy: &'static str,
}

/// Returns the likely cause of a failure, with the mend.
pub(super) fn cause(peer: Peer, code: &str, message: &str) -> String {
    let Peer { name, port, policy } = peer;
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["refused"]) {
        format!("nothing listens there: {name} is not running, or the port is wrong ({port} in Kubeflow)")
    } else if says(&["lookup address", "dns", "name or service"]) {
        "the name is not known here: check the Service's name and namespace; names of Services resolve in Pods only"
            .into()
    } else if code == "timeout" || code == "deadline_exceeded" || says(&["timed out", "deadline"]) {
        format!(
            "packets are dropped: most likely a NetworkPolicy of Kubeflow's namespace does not admit this one; {policy}"
        )
    } else if says(&["not grpc"]) {
        format!(
            "an HTTP server answers, not {name}: the address may be that of its web page, or of a proxy or mesh that refuses the \
             call"
        )
    } else if code == "unimplemented" {
        format!("another gRPC server answers: the address is not that of {name}'s gRPC service")
    } else if code == "permission_denied" || code == "unauthenticated" {
        "a mesh refuses the call: admit the server's service account in an AuthorizationPolicy (see mesh.md in the documentation)"
            .into()
    } else if says(&["reset", "broken pipe", "closed", "http2", "h2", "frame", "tls", "certificate", "transport"]) {
        "the other side ended the connection: most likely a mesh that requires mutual TLS, a server with another protocol, or \
         https where http is meant (see mesh.md in the documentation)"
            .into()
    } else {
        format!("see the log of {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_of_a_failure_names_its_cause() {
        let peer = Peer { name: "ML Metadata", port: 8080, policy: "metadataStoreNetworkPolicy admits the server" };
        for (code, message, words) in [
            ("unavailable", "tcp connect error: Connection refused (os error 111)", "nothing listens"),
            ("unavailable", "dns error: failed to lookup address information", "not known here"),
            ("timeout", "no response within 10s", "metadataStoreNetworkPolicy"),
            ("malformed", "the response is not gRPC (content type: text/html)", "not ML Metadata"),
            ("unimplemented", "", "another gRPC server"),
            ("permission_denied", "RBAC: access denied", "AuthorizationPolicy"),
            ("unavailable", "connection reset by peer", "mutual TLS"),
            ("internal", "out of memory", "see the log"),
        ] {
            let cause = cause(peer, code, message);
            assert!(cause.contains(words), "{code} {message}: {cause}");
        }
    }
}
