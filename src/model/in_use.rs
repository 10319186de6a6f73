//! The names of the subscriptions that this process serves.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use super::SubscriptionName;

/// The subscriptions in use, by namespace. The delivery task writes it, the watches read it: of too many marks on a
/// Workflow they keep those of subscriptions that would otherwise receive its event again. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionsInUse(Arc<RwLock<Namespaces>>);

/// Names by namespace.
type Namespaces = HashMap<Box<str>, HashSet<Box<str>>>;

impl SubscriptionsInUse {
    /// Adds a subscription.
    pub fn insert(&self, namespace: &str, name: &SubscriptionName) {
        let mut namespaces = self.0.write().unwrap_or_else(PoisonError::into_inner);
        namespaces.entry(namespace.into()).or_default().insert(name.as_str().into());
    }

    /// Removes a subscription.
    pub fn remove(&self, namespace: &str, name: &SubscriptionName) {
        let mut namespaces = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = namespaces.get_mut(namespace) {
            names.remove(name.as_str());
            if names.is_empty() {
                namespaces.remove(namespace);
            }
        }
    }

    /// Returns whether a subscription of this name is in use in the namespace.
    pub fn contains(&self, namespace: &str, name: &str) -> bool {
        let namespaces = self.0.read().unwrap_or_else(PoisonError::into_inner);
        namespaces.get(namespace).is_some_and(|names| names.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_in_use_until_it_is_removed() {
        let in_use = SubscriptionsInUse::default();
        let name = SubscriptionName::new("deploy").unwrap();
        in_use.insert("team-a", &name);
        assert!(in_use.clone().contains("team-a", "deploy"));
        assert!(!in_use.contains("team-b", "deploy") && !in_use.contains("team-a", "evaluate"));
        in_use.remove("team-a", &name);
        in_use.remove("team-a", &name);
        assert!(!in_use.contains("team-a", "deploy") && in_use.0.read().unwrap().is_empty());
    }
}
