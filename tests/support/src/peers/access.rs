//! Service accounts, their permissions and their tokens.

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::ServiceAccount as Account,
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, PostParams},
};

use super::Cluster;
use crate::{SOON, eventually};

/// Returns permissions for one resource: `rule("argoproj.io", "workflows", &["list", "watch", "patch"])`.
pub fn rule(group: &str, resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..PolicyRule::default()
    }
}

/// A service account.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Granted permissions, see [`Cluster::revoke`].
#[derive(Debug)]
pub struct Grant {
    account: ServiceAccount,
    /// `None` means all namespaces.
    namespace: Option<String>,
    name: String,
    rules: Vec<PolicyRule>,
}

impl Cluster {
    /// Creates a service account without permissions.
    pub async fn service_account(&self, namespace: &str, name: &str) -> ServiceAccount {
        let accounts = Api::<Account>::namespaced(self.client().await, namespace);
        let account = Account { metadata: named(name), ..Account::default() };
        accounts.create(&PostParams::default(), &account).await.expect("a service account");
        ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Returns a token of the account for these audiences, or for the API server itself if there are none.
    pub async fn token(&self, account: &ServiceAccount, audiences: &[&str]) -> String {
        let accounts = Api::<Account>::namespaced(self.client().await, &account.namespace);
        let audiences = Some(audiences.iter().map(|&audience| audience.to_owned()).collect());
        let spec = TokenRequestSpec { audiences, ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts.create_token_request(&account.name, &PostParams::default(), &request).await;
        answer.expect("a token").status.and_then(|status| status.token).expect("the answer contains it")
    }

    /// Grants permissions in one namespace or (`None`) in all, and waits until they are in effect.
    pub async fn grant(&self, account: &ServiceAccount, namespace: Option<&str>, rules: Vec<PolicyRule>) -> Grant {
        let name = format!("{}-{}-{}", account.namespace, account.name, uuid::Uuid::from_u128(rand::random()));
        let client = self.client().await;
        let subject = Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.name.clone(),
            namespace: Some(account.namespace.clone()),
            ..Subject::default()
        };
        let role_ref = |kind: &str| RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: kind.to_owned(),
            name: name.clone(),
        };
        let params = PostParams::default();
        if let Some(namespace) = namespace {
            let role = Role { metadata: named(&name), rules: Some(rules.clone()) };
            let binding =
                RoleBinding { metadata: named(&name), role_ref: role_ref("Role"), subjects: Some(vec![subject]) };
            Api::namespaced(client.clone(), namespace).create(&params, &role).await.expect("a role");
            Api::namespaced(client, namespace).create(&params, &binding).await.expect("a role binding");
        } else {
            let role = ClusterRole { metadata: named(&name), rules: Some(rules.clone()), ..ClusterRole::default() };
            let binding = ClusterRoleBinding {
                metadata: named(&name),
                role_ref: role_ref("ClusterRole"),
                subjects: Some(vec![subject]),
            };
            Api::all(client.clone()).create(&params, &role).await.expect("a cluster role");
            Api::all(client).create(&params, &binding).await.expect("a cluster role binding");
        }
        let grant = Grant { account: account.clone(), namespace: namespace.map(str::to_owned), name, rules };
        self.wait_for(&grant, true).await;
        grant
    }

    /// Revokes permissions by deleting the binding, as an operator would, and waits until that is in effect.
    pub async fn revoke(&self, grant: Grant) {
        let client = self.client().await;
        let params = DeleteParams::default();
        let deleted = match &grant.namespace {
            Some(namespace) => {
                let bindings = Api::<RoleBinding>::namespaced(client, namespace);
                bindings.delete(&grant.name, &params).await.map(drop)
            }
            None => Api::<ClusterRoleBinding>::all(client).delete(&grant.name, &params).await.map(drop),
        };
        deleted.expect("the binding was there");
        self.wait_for(&grant, false).await;
    }

    /// Waits until the authorizer has seen the change: it watches roles and bindings.
    async fn wait_for(&self, grant: &Grant, granted: bool) {
        let reviews = Api::<SubjectAccessReview>::all(self.client().await);
        let what = format!("permissions of {}: {granted}", grant.account.name);
        for review in grant.reviews() {
            eventually(SOON, &what, async || {
                let answer =
                    reviews.create(&PostParams::default(), &review).await.map_err(|error| error.to_string())?;
                let allowed = answer.status.is_some_and(|status| status.allowed);
                (allowed == granted).then_some(()).ok_or_else(|| format!("allowed: {allowed}: {review:?}"))
            })
            .await;
        }
    }
}

impl ServiceAccount {
    /// The name of the user that the API server authenticates.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl Grant {
    /// One question to the authorizer for each group, resource and verb.
    fn reviews(&self) -> Vec<SubjectAccessReview> {
        let mut reviews = Vec::new();
        for rule in &self.rules {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        let attributes = ResourceAttributes {
                            group: Some(group.clone()),
                            resource: Some(resource.clone()),
                            verb: Some(verb.clone()),
                            namespace: self.namespace.clone(),
                            ..ResourceAttributes::default()
                        };
                        let spec = SubjectAccessReviewSpec {
                            resource_attributes: Some(attributes),
                            user: Some(self.account.user()),
                            ..SubjectAccessReviewSpec::default()
                        };
                        reviews.push(SubjectAccessReview { spec, ..SubjectAccessReview::default() });
                    }
                }
            }
        }
        reviews
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}
