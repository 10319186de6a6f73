//! Rights: those that the server needs, and those to install it.

use super::{
    Category, Options, answers,
    server::{Flags, Server},
};
use crate::{
    access::Mode,
    k8s::{Cluster, ClusterError, ClusterOptions, Right},
};

/// Checks the rights of the server's account: of this account in a Pod or with `--as`, else by impersonating the
/// account of the server's Pod. Without a Pod they are those of this account.
pub(super) async fn of_server(cluster: &Cluster, options: &Options, server: &Server) -> Category {
    let mut category = Category::new("server-rights");
    let chosen = cluster.is_in_pod() || options.cluster.user.is_some();
    let account = server.account.clone().filter(|_| !chosen);
    let connection = match &account {
        None => Ok(cluster.clone()),
        Some(account) => {
            let impersonated =
                ClusterOptions { user: Some(account.clone()), groups: Vec::new(), ..options.cluster.clone() };
            Cluster::connect(&impersonated).await
        }
    };
    let who = match (&account, &options.cluster.user) {
        (Some(account), _) | (None, Some(account)) => account.as_str(),
        (None, None) => "this account",
    };
    let hint = "the chart grants it: see rbac in its values; check another account with --as \
                system:serviceaccount:NAMESPACE:NAME";
    let needed = needed(options, &server.flags);
    let reviews = needed.iter().map(async |right| match &connection {
        Ok(connection) => connection.allowed(right).await,
        Err(error) => Err(error.clone()),
    });
    let reviews = answers(reviews).await;
    let unanswered = reviews.iter().filter(|review| review.is_none()).count();
    for (right, allowed) in needed.iter().zip(reviews) {
        let description = format!("{who} can {right}");
        let Some(allowed) = allowed else { continue };
        match allowed {
            Ok(true) => category.ok(description),
            Ok(false) => category.fail(description, format!("the right to {right} is missing"), hint),
            Err(ClusterError::Forbidden { message }) => {
                let hint = "not checked: impersonate the server's account with an account that may, or run the check in the server's \
                            Pod";
                category.warn(description, message, hint);
                // The same for every right.
                break;
            }
            Err(error) => category.unknown(description, &error),
        }
    }
    category.unanswered(unanswered, format!("{who} has the server's rights"));
    category
}

/// The rights that the server needs, with the flags of its Pod and those that were given.
fn needed(options: &Options, flags: &Flags) -> Vec<Right> {
    let given = if options.namespaces.is_empty() { &flags.namespaces } else { &options.namespaces };
    let served: Vec<Option<&str>> = match &options.namespace {
        Some(namespace) => vec![Some(namespace.as_str())],
        None if given.is_empty() => vec![None],
        None => given.iter().map(|namespace| Some(namespace.as_str())).collect(),
    };
    let mut rights = Vec::new();
    for namespace in &served {
        rights.extend(["list", "watch", "patch"].map(|verb| Right::workflows(verb, *namespace)));
    }
    if options.auth != Mode::None || flags.reviews {
        rights.push(Right::new("create", "authentication.k8s.io", "tokenreviews", None));
        rights.push(Right::new("create", "authorization.k8s.io", "subjectaccessreviews", None));
    }
    if options.kubernetes_events || flags.kubernetes_events {
        rights.extend(served.iter().map(|namespace| Right::new("create", "events.k8s.io", "events", *namespace)));
    }
    rights
}

/// Checks the rights of this account to install the chart.
pub(super) async fn to_install(cluster: &Cluster, options: &Options) -> Category {
    let mut category = Category::new("pre-install-rights");
    let namespace = options.install_namespace.as_str();
    match cluster.get(&format!("/api/v1/namespaces/{namespace}")).await {
        Ok(Some(_)) => category.ok(format!("the namespace {namespace} exists")),
        Ok(None) => category.warn(
            format!("the namespace {namespace} exists"),
            format!("there is no namespace {namespace}"),
            "create it, or install with --create-namespace; choose another with --install-namespace",
        ),
        Err(error) => category.unknown(format!("the namespace {namespace} exists"), &error),
    }
    let namespaced = [("apps", "deployments"), ("", "services"), ("", "serviceaccounts"), ("", "secrets")];
    let cluster_wide = [
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ];
    let namespaced = namespaced.map(|(group, resource)| Right::new("create", group, resource, Some(namespace)));
    let cluster_wide = cluster_wide.map(|(group, resource)| Right::new("create", group, resource, None));
    for right in namespaced.iter().chain(&cluster_wide) {
        let description = format!("can {right}");
        match cluster.allowed(right).await {
            Ok(true) => category.ok(description),
            Ok(false) => {
                let hint = if right.namespace.is_some() {
                    "ask an administrator of the namespace to install the chart, or for this right"
                } else {
                    "ask an administrator of the cluster to install the chart; with `namespaces` and \
                     admissionPolicy.enabled=false it needs no cluster-wide objects"
                };
                category.fail(description, format!("the right to {right} is missing"), hint);
            }
            Err(error) => category.unknown(description, &error),
        }
    }
    category
}
