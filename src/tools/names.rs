//! Subscriptions as people name them: by the plain name of the configuration, or by the scoped one of a mark.
//!
//! With `--auth token`, a delivery to `deployer` is remembered as `deployer.<namespace of the account>`, see
//! [`SubscriptionName::scoped`].

use std::fmt;

use crate::model::{SubscriptionName, subscription::MAX_NAME};

/// The digits of the hash that shortens a scoped name.
const HASH: usize = 16;

/// The plain or scoped name of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSubscription(String);

impl NamedSubscription {
    /// Reads the name of a subscription.
    ///
    /// # Errors
    /// If no mark can have this name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_valid = (1..=MAX_NAME).contains(&text.len())
            && text.bytes().all(|b| is_inner(b) || matches!(b, b'-' | b'.' | b'_'))
            && text.bytes().next().is_some_and(is_inner)
            && text.bytes().next_back().is_some_and(is_inner);
        if is_valid {
            Ok(Self(text.to_owned()))
        } else {
            Err("not the name of a subscription; write that of the EventSource's configuration (deployer), or that of a mark \
                 (deployer.team-a)"
                .to_owned())
        }
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a mark for exactly this subscription.
    pub fn to_mark(&self) -> SubscriptionName {
        SubscriptionName::from_annotation(self.0.as_str().into())
    }

    /// Returns whether a subscription has this name, with or without its scope.
    pub fn is_name_of(&self, subscription: &SubscriptionName) -> bool {
        subscription.as_str() == self.0 || is_scope_of(&self.0, subscription.as_str())
    }

    /// Returns whether a mark of this name may stand for a delivery to the subscription: its own, for a plain name that of
    /// each scope, and for a scoped name the plain one, which counts for every scope.
    pub fn includes(&self, mark: &SubscriptionName) -> bool {
        self.is_name_of(mark) || is_scope_of(mark.as_str(), &self.0)
    }
}

impl fmt::Display for NamedSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether a name has a scope.
pub fn is_scoped(name: &str) -> bool {
    name.contains(['.', '_'])
}

/// Returns whether a scoped name is one of this plain name. Of a shortened one only the beginning is known.
fn is_scope_of(plain: &str, scoped: &str) -> bool {
    if is_scoped(plain) {
        return false;
    }
    if scoped.strip_prefix(plain).is_some_and(|rest| rest.starts_with('.')) {
        return true;
    }
    let Some((stem, hash)) = scoped.rsplit_once('_') else { return false };
    let begins = format!("{plain}.");
    hash.len() == HASH
        && hash.bytes().all(|b| b.is_ascii_hexdigit())
        && (begins.starts_with(stem) || stem.starts_with(&begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn includes(given: &str, mark: &SubscriptionName) -> bool {
        NamedSubscription::parse(given).unwrap().includes(mark)
    }

    fn plain(name: &str) -> SubscriptionName {
        SubscriptionName::new(name).unwrap()
    }

    #[test]
    fn a_plain_name_stands_for_all_scopes() {
        let deployer = plain("deployer");
        for mark in [deployer.clone(), deployer.scoped("team-a"), deployer.scoped("u-0123abcd")] {
            assert!(includes("deployer", &mark), "{mark}");
        }
        for other in [plain("deployer-2"), plain("deployer-2").scoped("team-a"), plain("deploy")] {
            assert!(!includes("deployer", &other), "{other}");
        }
    }

    #[test]
    fn a_scoped_name_stands_for_itself_and_the_plain_one() {
        let deployer = plain("deployer");
        assert!(includes("deployer.team-a", &deployer.scoped("team-a")));
        assert!(includes("deployer.team-a", &deployer), "it counts for every scope");
        assert!(!includes("deployer.team-a", &deployer.scoped("team-b")));
        assert!(!includes("deployer.team-a", &plain("other")));
    }

    #[test]
    fn a_shortened_name_is_found_by_its_plain_one() {
        let long = plain(&"d".repeat(60));
        let shortened = long.scoped("team-a");
        assert!(shortened.as_str().contains('_'));
        assert!(includes(long.as_str(), &shortened));
        assert!(includes(shortened.as_str(), &long));
        let between = plain(&"d".repeat(40));
        let shortened = between.scoped(&"n".repeat(40));
        assert!(shortened.as_str().contains('_') && includes(between.as_str(), &shortened), "{shortened}");
    }

    #[test]
    fn names_that_no_mark_can_have_are_refused() {
        for text in ["", "Deployer", "a/b", "-a", "a.", "a b", &"x".repeat(64)] {
            assert!(NamedSubscription::parse(text).unwrap_err().contains("deployer.team-a"), "{text:?}");
        }
    }
}
