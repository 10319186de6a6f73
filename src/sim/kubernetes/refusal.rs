//! What the API server says when it does not do what it was asked: a `Status`, in the words of kube-apiserver 1.36.

use axum::{
    body::Body,
    http::{Response, StatusCode, header},
    response::IntoResponse,
};
use serde_json::{Value, json};

const GROUP: &str = "argoproj.io";
const RESOURCE: &str = "workflows";
const QUALIFIED: &str = "workflows.argoproj.io";

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// The machine's word for it, for example `NotFound`; empty where the API server gives none.
    pub reason: &'static str,
    /// The same for people.
    pub message: String,
    details: Option<Value>,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, name: &str) -> Self {
        self.details = Some(json!({"name": name, "group": GROUP, "kind": RESOURCE}));
        self
    }

    pub(super) fn not_found(name: &str) -> Self {
        Self::new(404, "NotFound", format!("{QUALIFIED} \"{name}\" not found")).about(name)
    }

    pub(super) fn already_exists(name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{QUALIFIED} \"{name}\" already exists")).about(name)
    }

    pub(super) fn conflict(name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {QUALIFIED} \"{name}\": the object has been modified; please apply your \
             changes to the latest version and try again"
        );
        Self::new(409, "Conflict", message).about(name)
    }

    /// A field of an object is wrong; `cause` is the machine's word for how.
    pub(super) fn invalid(name: &str, cause: &str, field: &str, why: &str) -> Self {
        let mut refusal =
            Self::new(422, "Invalid", format!("Workflow.{GROUP} \"{name}\" is invalid: {field}: {why}")).about(name);
        let causes = json!([{"reason": cause, "message": why, "field": field}]);
        refusal.details = Some(json!({"name": name, "group": GROUP, "kind": "Workflow", "causes": causes}));
        refusal
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn media_type(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(super) fn not_acceptable() -> Self {
        Self::new(406, "NotAcceptable", "only the following media types are accepted: application/json")
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message)
    }

    /// A version that is not reached yet.
    pub(super) fn too_large_version(version: u64, current: u64) -> Self {
        let mut refusal =
            Self::new(504, "Timeout", format!("Timeout: Too large resource version: {version}, current: {current}"));
        let causes = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
        refusal.details = Some(json!({"causes": causes, "retryAfterSeconds": 1}));
        refusal
    }

    /// A version that a watch cannot begin at any more.
    pub(super) fn expired(version: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {version} ({oldest})"))
    }

    /// A page of a list that can no longer be completed.
    pub(super) fn expired_page() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You must start \
                       a new list without the continue parameter.";
        Self::new(410, "Expired", message)
    }

    /// As a test wants a patch to be refused.
    pub(super) fn played(status: StatusCode, namespace: &str, name: &str) -> Self {
        let refusal = match status {
            StatusCode::FORBIDDEN => {
                let message = format!(
                    "{QUALIFIED} \"{name}\" is forbidden: User \"simulated\" cannot patch resource \"{RESOURCE}\" in API \
                     group \"{GROUP}\" in the namespace \"{namespace}\""
                );
                Self::new(403, "Forbidden", message)
            }
            StatusCode::CONFLICT => return Self::conflict(name),
            StatusCode::NOT_FOUND => return Self::not_found(name),
            StatusCode::TOO_MANY_REQUESTS => {
                Self::new(429, "TooManyRequests", "Too many requests, please try again later.")
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                Self::new(503, "ServiceUnavailable", "the server is currently unable to handle the request")
            }
            StatusCode::INTERNAL_SERVER_ERROR => {
                Self::new(500, "InternalError", "Internal error occurred: simulated failure")
            }
            other => Self::new(other.as_u16(), "", "simulated refusal"),
        };
        refusal.about(name)
    }

    /// The body of the answer, or the object of an `ERROR` event.
    pub(super) fn status(&self) -> Value {
        let Self { code, reason, message, details } = self;
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": message, "reason": reason, "code": code,
        });
        if let Some(details) = details {
            status["details"] = details.clone();
        }
        status
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/json")], self.status().to_string()).into_response()
    }
}
