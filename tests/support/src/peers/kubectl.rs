//! The few commands of kubectl that the server prints as advice, executed as they stand.

use kube::error::Status;
use serde_json::{Value, json};

use super::Cluster;

/// The words of a command, by their meaning to kubectl.
struct Command<'a> {
    kind: &'a str,
    name: &'a str,
    namespace: &'a str,
    flags: Vec<(&'a str, &'a str)>,
}

impl<'a> Command<'a> {
    fn parse(text: &'a str) -> Self {
        let mut words = text.split_whitespace();
        assert_eq!((words.next(), words.next()), (Some("kubectl"), Some("create")), "{text}");
        let (kind, name) = (words.next().expect("a kind"), words.next().expect("a name"));
        let (mut namespace, mut flags) = (None, Vec::new());
        while let Some(word) = words.next() {
            match word.strip_prefix("--").and_then(|flag| flag.split_once('=')) {
                Some(flag) => flags.push(flag),
                None if word == "-n" => namespace = words.next(),
                None => panic!("unknown word {word} in {text}"),
            }
        }
        Self { kind, name, namespace: namespace.expect("a namespace"), flags }
    }

    fn flag(&self, name: &str) -> Option<&'a str> {
        self.flags.iter().find(|(flag, _)| *flag == name).map(|(_, value)| *value)
    }

    /// The object that kubectl creates.
    fn object(&self) -> Value {
        let metadata = json!({"name": self.name, "namespace": self.namespace});
        let api_version = "rbac.authorization.k8s.io/v1";
        match self.kind {
            "role" => {
                let (resource, group) =
                    self.flag("resource").and_then(|kind| kind.split_once('.')).expect("--resource");
                let rule = json!({"apiGroups": [group], "resources": [resource], "verbs": [self.flag("verb")]});
                json!({"apiVersion": api_version, "kind": "Role", "metadata": metadata, "rules": [rule]})
            }
            "rolebinding" => {
                let (kind, role) = match (self.flag("clusterrole"), self.flag("role")) {
                    (Some(role), None) => ("ClusterRole", role),
                    (None, Some(role)) => ("Role", role),
                    flags => panic!("{flags:?}"),
                };
                let (namespace, name) =
                    self.flag("serviceaccount").and_then(|account| account.split_once(':')).expect("--serviceaccount");
                json!({
                    "apiVersion": api_version, "kind": "RoleBinding", "metadata": metadata,
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
                    "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
                })
            }
            kind => panic!("unknown kind {kind}"),
        }
    }
}

impl Cluster {
    /// Executes `kubectl create role` and `kubectl create rolebinding`, joined by `&&`.
    ///
    /// # Errors
    /// The API server's refusal.
    ///
    /// # Panics
    /// If a command is another one.
    pub async fn kubectl(&self, commands: &str) -> Result<(), Box<Status>> {
        for command in commands.split("&&") {
            self.apply("kubectl", &Command::parse(command).object()).await?;
        }
        Ok(())
    }
}
