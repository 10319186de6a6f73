//! The reviews that access control needs, as the Kubernetes adapter makes them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use futures::future::BoxFuture;
use ring::digest::{SHA256, digest};

use crate::model::subscription::is_dns_label;

/// The prefix of the user names of service accounts; namespace and name follow.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// A bearer token. Neither its debug output nor its key reveals it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

/// The hash of a token.
pub(super) type TokenKey = [u8; 32];

impl Token {
    /// The token in the value of the header `authorization`, if it has the form `Bearer <token>`.
    pub fn from_header(value: &str) -> Option<Self> {
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Self(token.into()))
    }

    /// The token itself, for the review.
    pub fn secret(&self) -> &str {
        &self.0
    }

    pub(super) fn key(&self) -> TokenKey {
        sha256(&self.0)
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The user that a token belongs to, as the API server describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// The name, for example `system:serviceaccount:team-a:default`.
    pub name: String,
    /// The UID.
    pub uid: Option<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// Further properties, which authorizers may consider.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Namespace and name of a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')
    }

    /// The scope of this user's subscriptions: the namespace of a service account, for others a hash of the name.
    pub(super) fn scope(&self) -> String {
        match self.service_account() {
            Some((namespace, _)) if is_dns_label(namespace) => namespace.to_owned(),
            _ => match sha256(&self.name) {
                [a, b, c, d, ..] => format!("u-{a:02x}{b:02x}{c:02x}{d:02x}"),
            },
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service_account() {
            Some((namespace, name)) => write!(f, "the service account {namespace}/{name}"),
            None => write!(f, "the user {:?}", self.name),
        }
    }
}

/// The answer to a TokenReview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// The token is valid and belongs to this user.
    User(Arc<User>),
    /// The token is not valid, for this reason.
    Invalid(String),
}

/// A verb on Workflows that gives the right to subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// The right to receive events, and nothing else.
    Subscribe,
    /// The right to read whole Workflows, which contains more.
    Watch,
}

impl Verb {
    /// The verb as RBAC writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Watch => "watch",
        }
    }
}

/// A review that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReviewError(pub String);

/// Makes reviews. An error proves nothing, and is not remembered.
pub trait Reviewer: Send + Sync + 'static {
    /// Reviews a token, for any of these audiences (none: those of the API server).
    fn authenticate<'a>(
        &'a self,
        token: &'a Token,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Authentication, ReviewError>>;

    /// Reviews whether a user has a verb on the Workflows of a namespace.
    fn authorize<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
        verb: Verb,
    ) -> BoxFuture<'a, Result<bool, ReviewError>>;
}
