//! Reviews of tokens and rights, made by the API server.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Resource, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};

use super::{Client, GROUP, WORKFLOWS};
use crate::{
    access::{Authentication, ReviewError, Reviewer, Token, User, Verb},
    telemetry::log::chain,
};

/// Makes reviews through the Kubernetes API. Requires the right to create both kinds of reviews.
pub struct ApiReviewer {
    client: Client,
}

impl ApiReviewer {
    /// A reviewer with this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn create<T>(&self, review: &T) -> Result<T, ReviewError>
    where
        T: Clone + std::fmt::Debug + DeserializeOwned + Serialize + Resource<DynamicType = ()>,
    {
        let api: Api<T> = Api::all(self.client.kube.clone());
        api.create(&PostParams::default(), review).await.map_err(|error| ReviewError(explain(&error)))
    }
}

/// The message of a failed review. A refusal of this server's own rights names the remedy.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "this server may not make reviews; grant its service account create on tokenreviews.authentication.k8s.io and \
             subjectaccessreviews.authorization.k8s.io: {}",
            status.message
        ),
        error => chain(error),
    }
}

impl Reviewer for ApiReviewer {
    fn authenticate<'a>(
        &'a self,
        token: &'a Token,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Authentication, ReviewError>> {
        Box::pin(async move {
            let audiences = (!audiences.is_empty()).then(|| audiences.to_vec());
            let spec = TokenReviewSpec { audiences: audiences.clone(), token: token.secret().to_owned() };
            let answer = self.create(&TokenReview { spec, ..TokenReview::default() }).await?;
            let status = answer.status.unwrap_or_default();
            if status.authenticated != Some(true) {
                let reason = status.error.unwrap_or_else(|| "the API server does not know it".to_owned());
                return Ok(Authentication::Invalid(reason));
            }
            // An authenticator that knows no audiences leaves them out: then the token is one of the API server only.
            let valid_for = status.audiences.unwrap_or_default();
            if audiences.is_some_and(|wanted| !wanted.iter().any(|audience| valid_for.contains(audience))) {
                return Ok(Authentication::Invalid("it has another audience".to_owned()));
            }
            let user = status.user.unwrap_or_default();
            Ok(Authentication::User(Arc::new(User {
                name: user.username.unwrap_or_default(),
                uid: user.uid,
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default(),
            })))
        })
    }

    fn authorize<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
        verb: Verb,
    ) -> BoxFuture<'a, Result<bool, ReviewError>> {
        Box::pin(async move {
            let attributes = ResourceAttributes {
                group: Some(GROUP.to_owned()),
                resource: Some(WORKFLOWS.to_owned()),
                namespace: Some(namespace.to_owned()),
                verb: Some(verb.as_str().to_owned()),
                ..ResourceAttributes::default()
            };
            let spec = SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: user.uid.clone(),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            };
            let answer = self.create(&SubjectAccessReview { spec, ..SubjectAccessReview::default() }).await?;
            Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
        })
    }
}
