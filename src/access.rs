//! Access control of subscriptions: who may receive the events of a namespace.
//!
//! A subscriber sends a bearer token (Argo Events: `authSecret`). A TokenReview returns its user, a SubjectAccessReview
//! whether that user has the verb `subscribe`, or else `watch`, on `workflows.argoproj.io` in the wanted namespace. The
//! reviews are made by the Kubernetes adapter, behind [`Reviewer`]; this module keeps their answers for a while, makes
//! equal ones once, and repeats them for streams that stay open.
//!
//! | mode | a request without the right | names of subscriptions |
//! |---|---|---|
//! | `none` | is accepted | as configured |
//! | `audit` | is accepted, logged and counted | as configured |
//! | `token` | is refused | scoped to the account's namespace or user |

#[cfg(test)]
pub(crate) mod fake;
mod gate;
mod metrics;
mod review;

use std::{borrow::Cow, num::NonZeroUsize, time::Duration};

pub use gate::{Access, Grant};
pub use metrics::AccessMetrics;
pub use review::{Authentication, ReviewError, Reviewer, Token, User, Verb};

/// The treatment of requests without the right to subscribe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Accept every request
    #[default]
    None,
    /// Accept every request; log and count those that the mode token would refuse
    Audit,
    /// Refuse requests without a valid token, and those of users without the right
    Token,
}

/// The configuration of access control.
#[derive(Clone, Debug)]
pub struct Options {
    /// The mode.
    pub mode: Mode,
    /// The audiences that a token must have, any of them; empty: those of the API server.
    pub audiences: Vec<String>,
    /// The time for which a valid token is not reviewed again.
    pub cache_token: Duration,
    /// The time for which a right is not reviewed again.
    pub cache_allow: Duration,
    /// The time for which an invalid token or a missing right is not reviewed again.
    pub cache_deny: Duration,
    /// The name of a ClusterRole with the right, for the advice in refusals.
    pub subscriber_role: Option<String>,
    /// The limit of reviews in flight.
    pub reviews: NonZeroUsize,
}

impl Default for Options {
    /// The times are those of other users of these reviews: controller-runtime and kube-rbac-proxy.
    fn default() -> Self {
        Self {
            mode: Mode::None,
            audiences: Vec::new(),
            cache_token: Duration::from_secs(60),
            cache_allow: Duration::from_secs(300),
            cache_deny: Duration::from_secs(30),
            subscriber_role: None,
            reviews: const { NonZeroUsize::new(16).expect("not zero") },
        }
    }
}

/// The reason why a subscription is refused, with its remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request has no bearer token.
    #[error(
        "this server requires a token; set authSecret of the EventSource to a Secret with the token of a service account"
    )]
    NoToken,
    /// The token is not valid, or not any more.
    #[error("the token is not valid: {reason}; set authSecret of the EventSource to a valid token{}", with_audience(.audiences))]
    InvalidToken {
        /// The API server's reason.
        reason: String,
        /// The audiences of which the token must have one.
        audiences: Vec<String>,
    },
    /// The user has no right to the runs of this namespace.
    #[error(
        "{user} has neither the verb subscribe nor watch on workflows.argoproj.io in the namespace {namespace}; grant it: {command}"
    )]
    Denied {
        /// The user's name.
        user: String,
        /// The namespace.
        namespace: String,
        /// Commands that grant the right.
        command: String,
    },
    /// The review could not be made.
    #[error("the token or its rights could not be reviewed, try again: {reason}")]
    Unavailable {
        /// The cause.
        reason: String,
    },
}

impl Refusal {
    /// The refusal of a user without the right, with the commands that grant it.
    fn denied(user: &User, namespace: &str, role: Option<&str>) -> Self {
        // The names differ by subject, so that the commands work for a second one, too.
        let (subject, suffix) = match user.service_account() {
            Some((namespace, name)) => (format!("--serviceaccount={namespace}:{name}"), format!("{namespace}-{name}")),
            None => (format!("--user={}", quoted(&user.name)), user.scope()),
        };
        let name = format!("modelupdate-subscriber-{suffix}");
        let command = match role {
            Some(role) => format!("kubectl create rolebinding {name} --clusterrole={role} {subject} -n {namespace}"),
            None => format!(
                "kubectl create role {name} --verb=subscribe --resource=workflows.argoproj.io -n {namespace} && \
                 kubectl create rolebinding {name} --role={name} {subject} -n {namespace}"
            ),
        };
        Self::Denied { user: user.to_string(), namespace: namespace.to_owned(), command }
    }
}

/// Returns a text as one word of a shell.
fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_@%+=:,./".contains(c);
    if text.chars().all(is_plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")).into() }
}

fn with_audience(audiences: &[String]) -> String {
    match audiences {
        [] => String::new(),
        audiences => format!(" with the audience {}", audiences.join(" or ")),
    }
}

#[cfg(test)]
mod tests;
