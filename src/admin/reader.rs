//! The right of a reader of the status: that of a subscription, in the namespace that is asked for, or in all.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::{HeaderMap, StatusCode, header};
use tracing::warn;

use crate::{
    access::{Access, Refusal, Token},
    model::subscription::is_dns_label,
    telemetry::LogThrottle,
};

/// Addresses whose readers are remembered, so that a page that is open for hours is logged rarely.
const MAX_LOGGED: usize = 64;

/// Decides about readers.
#[derive(Debug)]
pub(super) struct Readers {
    access: Access,
    audited: Mutex<LogThrottle<IpAddr>>,
}

/// A refusal, as the reader sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Readers {
    pub(super) fn new(access: Access) -> Self {
        Self { access, audited: Mutex::new(LogThrottle::new(MAX_LOGGED)) }
    }

    /// Checks the right of a reader. `namespace` is empty for all.
    pub(super) async fn check(&self, headers: &HeaderMap, namespace: &Arc<str>, peer: IpAddr) -> Result<(), Refused> {
        let token = token(headers);
        match self.access.admit_reader(token.as_ref(), namespace, Some(peer)).await {
            Ok(None) => Ok(()),
            Ok(Some(refusal)) => {
                let (status, reason) = (status_of(&refusal), text_of(&refusal, namespace));
                let mut audited = self.audited.lock().unwrap_or_else(PoisonError::into_inner);
                if audited.allows(peer, &(namespace, status.as_u16())) {
                    warn!(%namespace, %peer, decision = "would_refuse", reason, "admitted reader of the status that the mode token refuses");
                }
                Ok(())
            }
            Err(refusal) => Err(Refused { status: status_of(&refusal), text: text_of(&refusal, namespace) }),
        }
    }
}

/// Returns whether a request has a token.
pub(super) fn has_token(headers: &HeaderMap) -> bool {
    token(headers).is_some()
}

fn token(headers: &HeaderMap) -> Option<Token> {
    headers.get(header::AUTHORIZATION)?.to_str().ok().and_then(Token::from_header)
}

/// Returns the namespace of a request's query, empty without one.
pub(super) fn namespace_of(query: Option<&str>) -> Result<Arc<str>, Refused> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let namespace = pairs.filter(|(key, _)| key == "namespace").map(|(_, value)| value).last().unwrap_or_default();
    let namespace = namespace.trim();
    if namespace.is_empty() || is_dns_label(namespace) {
        Ok(namespace.into())
    } else {
        let text = "the parameter namespace is not the name of a namespace (1 to 63 characters: a-z, 0-9 and '-')";
        Err(Refused { status: StatusCode::BAD_REQUEST, text: text.to_owned() })
    }
}

fn status_of(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::NoToken | Refusal::InvalidToken { .. } => StatusCode::UNAUTHORIZED,
        Refusal::Denied { .. } => StatusCode::FORBIDDEN,
        Refusal::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn text_of(refusal: &Refusal, namespace: &str) -> String {
    match refusal {
        Refusal::NoToken => {
            "this server shows the status only with a token: send the header Authorization: Bearer TOKEN, and \
             ?namespace=NAMESPACE for the namespace in which its account may subscribe; for example the token of \
             `kubectl -n NAMESPACE create token ACCOUNT`"
                .to_owned()
        }
        Refusal::InvalidToken { reason, audiences } => {
            let audience = audiences.first().map(|audience| format!(" --audience={audience}")).unwrap_or_default();
            format!(
                "the token is not valid: {reason}; get one with `kubectl -n NAMESPACE create token ACCOUNT{audience}`"
            )
        }
        Refusal::Denied { user, .. } if namespace.is_empty() => format!(
            "{user} has neither the verb subscribe nor watch on workflows.argoproj.io in all namespaces; \
             add ?namespace=NAMESPACE for one in which it has"
        ),
        refusal @ (Refusal::Denied { .. } | Refusal::Unavailable { .. }) => refusal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Mode, Verb, fake};

    fn headers(token: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        headers
    }

    async fn check(mode: Mode, token: Option<&str>, namespace: &str) -> Result<(), Refused> {
        let reviewer = fake::FakeReviewer::default();
        reviewer.add("ann", "ann");
        reviewer.allow("ann", "team", Verb::Watch);
        reviewer.add("root", "root");
        reviewer.allow("root", "", Verb::Subscribe);
        let readers = Readers::new(fake::access(mode, &reviewer));
        readers.check(&headers(token), &namespace.into(), IpAddr::from([127, 0, 0, 1])).await
    }

    #[tokio::test]
    async fn a_reader_needs_the_right_of_a_subscriber() {
        assert_eq!(check(Mode::Token, Some("ann"), "team").await, Ok(()));
        assert_eq!(check(Mode::Token, Some("root"), "").await, Ok(()));
        for (token, namespace, status, words) in [
            (None, "team", 401, "Authorization: Bearer"),
            (Some("joe"), "team", 401, "create token"),
            (Some("ann"), "", 403, "add ?namespace="),
            (Some("ann"), "other", 403, "in the namespace other; grant it"),
        ] {
            let refused = check(Mode::Token, token, namespace).await.unwrap_err();
            assert!(refused.status.as_u16() == status && refused.text.contains(words), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn the_other_modes_admit_everybody() {
        for mode in [Mode::None, Mode::Audit] {
            for token in [None, Some("joe"), Some("ann")] {
                assert_eq!(check(mode, token, "").await, Ok(()), "{mode:?} {token:?}");
            }
        }
    }

    #[test]
    fn the_namespace_is_checked() {
        for (query, expected) in
            [(None, ""), (Some("x=1"), ""), (Some("namespace="), ""), (Some("namespace=team-a"), "team-a")]
        {
            assert_eq!(&*namespace_of(query).unwrap(), expected, "{query:?}");
        }
        for query in ["namespace=Team", "namespace=a/b", "namespace=%3Cscript%3E"] {
            assert_eq!(namespace_of(Some(query)).unwrap_err().status, StatusCode::BAD_REQUEST);
        }
    }
}
