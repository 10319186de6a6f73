//! Linting, validation of values, and rendered objects.

use std::collections::BTreeSet;

use model_update_eventsource::app::Config;

use super::*;

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn helm_lint_accepts_every_variant() {
    let peers = peers().await;
    for variant in variants() {
        let output = helm(&peers, &["lint", "--strict", "helm", "--values", variant.to_str().unwrap()]);
        assert!(output.status.success(), "{variant:?}: {}", printed(&output));
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_wrong_value_is_refused_with_its_name() {
    let peers = peers().await;
    for (wrong, message) in [
        ("replicaCount=many", "'/replicaCount': got string, want integer"),
        ("service.ipFamilies={IPv5}", "'/service/ipFamilies/0'"),
        ("extraArgs={max-streams}", "'/extraArgs/0'"),
        ("replicas=2", "additional properties 'replicas' not allowed"),
        ("image.tga=1", "'/image': additional properties 'tga' not allowed"),
        ("image.digest=sha256:1", "'/image/digest'"),
        ("image.pullPolicy=Sometimes", "value must be one of 'Always', 'IfNotPresent', 'Never'"),
        ("metadataStore=mlmd", "'/metadataStore': 'mlmd' does not match"),
        ("metadataStoreCA.secret=mlmd", "'/metadataStoreCA': additional properties 'secret' not allowed"),
        ("artifacts=both", "'/artifacts': value must be one of 'auto', 'mlmd', 'kfp'"),
        ("kfp.api=ml-pipeline", "'/kfp/api': 'ml-pipeline' does not match"),
        ("namespaces={Team_A}", "'/namespaces/0': 'Team_A' does not match"),
        ("namespaces={a,a}", "'/namespaces'"),
        ("confirmAfter=soon", "'/confirmAfter': 'soon' does not match"),
        ("maxConnectionAge=soon", "'/maxConnectionAge': 'soon' does not match"),
        ("markRate=0", "'/markRate': minimum: got 0, want 1"),
        ("log.format=xml", "'/log/format': value must be one of 'json', 'text'"),
        ("tracing.protocol=http", "'/tracing/protocol': value must be one of 'grpc', 'http/protobuf'"),
        ("auth.mode=tokens", "'/auth/mode': value must be one of 'none', 'audit', 'token'"),
        ("auth.audiences={a b}", "'/auth/audiences/0': 'a b' does not match"),
        ("auth.cacheDeny=soon", "'/auth/cacheDeny': 'soon' does not match"),
        ("auth.clusterRole.agregate=true", "'/auth/clusterRole': additional properties 'agregate' not allowed"),
        ("tls.secret=tls", "'/tls': additional properties 'secret' not allowed"),
        ("tls.certManager.enabled=maybe", "'/tls/certManager/enabled': got string, want boolean"),
        ("service.appProtocol=HTTP", "'/service/appProtocol': 'HTTP' does not match"),
        ("service.port=70000", "'/service/port': maximum"),
        ("service.type=ExternalName", "'/service/type'"),
        ("metrics.port=8080", "'/metrics/port': 'not' failed"),
        ("terminationGracePeriodSeconds=5", "'/terminationGracePeriodSeconds': minimum: got 5, want 10"),
        ("serviceMonitor.interval=often", "'/serviceMonitor/interval'"),
        ("podDisruptionBudget.maxUnavailable=some", "'/podDisruptionBudget/maxUnavailable'"),
    ] {
        let output = helm(&peers, &["template", RELEASE, "helm", "--set", wrong]);
        let printed = printed(&output);
        assert!(!output.status.success() && printed.contains(message), "{wrong}: {printed}");
    }
    // Errors that the schema cannot detect.
    for (args, message) in [
        (&["--set", "tls.certManager.enabled=true"][..], "tls.certManager.issuerRef: name the issuer"),
        (&["--set", "serviceAccount.create=false"], "serviceAccount.name: name an existing account"),
        (&["--set", "metadataStoreCA.secretName=mlmd"], "metadataStoreCA: only for TLS"),
        (
            &["--set", "metadataStore=https://mlmd,metadataStoreCA.secretName=a,metadataStoreCA.configMapName=b"],
            "metadataStoreCA: name a Secret or a ConfigMap, not both",
        ),
        (&["--set", "artifacts=kfp"], "artifacts: kfp needs kfp.api"),
        (&["--set", "kfp.api=ml-pipeline:8887,kfp.ca.secretName=a"], "kfp.ca: only for TLS"),
        (
            &["--set", "serviceAccount.create=false,serviceAccount.name=operator"],
            "the policy refuses everything but marks to the account operator, which this chart does not create",
        ),
        (
            &["--set", "prometheusRule.enabled=true,prometheusRule.disabled={ModelUpdateDwon}"],
            "prometheusRule: there is no alert ModelUpdateDwon; the alerts are ModelUpdate",
        ),
        (
            &["--set", "serviceMonitor.enabled=true,podMonitor.enabled=true"],
            "serviceMonitor.enabled and podMonitor.enabled: choose one",
        ),
        (&["--kube-version", "1.29.0"], "admissionPolicy.enabled: this cluster has no ValidatingAdmissionPolicy"),
    ] {
        let output = helm(&peers, &[&["template", RELEASE, "helm"], args].concat());
        let printed = printed(&output);
        assert!(!output.status.success() && printed.contains(message), "{args:?}: {printed}");
    }
}

/// The documentation of kfp-operator contains the address of the Service.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_service_has_the_documented_name_and_port() {
    let peers = peers().await;
    let objects = rendered(&peers, &[]);
    let service = find_object(&objects, "Service", "kfp-operator-model-update-eventsource-server");
    assert_eq!(service["metadata"]["namespace"], NAMESPACE);
    assert_eq!(service["spec"]["ports"][0]["port"], 50051);
    // It selects the server's Pods and one of their ports, and not the Pod of `helm test`.
    let labels = &find_object(&objects, "Deployment", FULLNAME)["spec"]["template"]["metadata"]["labels"];
    let test = &find_object(&objects, "Pod", &format!("{FULLNAME}-test"))["metadata"]["labels"];
    let selector = service["spec"]["selector"].as_object().unwrap();
    assert!(selector.iter().all(|(key, value)| labels[key] == *value));
    assert!(!selector.iter().all(|(key, value)| test[key] == *value));
    let container = &find_object(&objects, "Deployment", FULLNAME)["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"][0]["name"], service["spec"]["ports"][0]["targetPort"]);
}

/// The value of a variable of the server.
fn variable(objects: &[Value], name: &str) -> Option<Value> {
    let deployment = find_object(objects, "Deployment", FULLNAME);
    let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    env.iter().find(|variable| variable["name"] == name).map(|variable| variable["value"].clone())
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn default_values_are_the_defaults_of_the_server() {
    let peers = peers().await;
    let defaults = Config::default();
    let objects = rendered(&peers, &[]);
    for (name, value) in [
        ("MODEL_UPDATE_LISTEN", defaults.listen.to_string()),
        ("MODEL_UPDATE_ADMIN_LISTEN", defaults.admin_listen.to_string()),
        ("MODEL_UPDATE_METADATA_STORE", defaults.metadata_store),
        ("MODEL_UPDATE_SELECTOR", defaults.selector),
        ("MODEL_UPDATE_CONFIRM_AFTER", humantime::format_duration(defaults.confirm_after).to_string()),
        ("MODEL_UPDATE_SKIP_LABELLED", defaults.skip_labelled.to_string()),
        ("MODEL_UPDATE_KUBERNETES_EVENTS", defaults.kubernetes_events.to_string()),
        ("MODEL_UPDATE_MARK_RATE", defaults.mark_rate.to_string()),
    ] {
        assert_eq!(variable(&objects, name), Some(value.into()), "{name}");
    }
    assert_eq!(variable(&objects, "MODEL_UPDATE_NAMESPACES"), None);
    assert_eq!(variable(&objects, "OTEL_EXPORTER_OTLP_ENDPOINT"), None);
    let listed = rendered(&peers, &["--set", "namespaces={team-a,team-b}"]);
    assert_eq!(variable(&listed, "MODEL_UPDATE_NAMESPACES"), Some("team-a,team-b".into()));
}

/// The file that the variable names is mounted from the Secret or the ConfigMap.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_private_authority_of_ml_metadata_is_mounted() {
    let peers = peers().await;
    let secret = ["--set", "metadataStore=https://mlmd:8443,metadataStoreCA.secretName=mlmd-tls"];
    let config_map = ["--values", "helm/ci/metadata-tls-values.yaml"];
    for (args, file, source) in [
        (secret, "ca.crt", serde_json::json!({"secret": {"secretName": "mlmd-tls"}})),
        (config_map, "ca-bundle.crt", serde_json::json!({"configMap": {"name": "internal-authority"}})),
    ] {
        let objects = rendered(&peers, &args);
        let pod = &find_object(&objects, "Deployment", FULLNAME)["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let mount = &container["volumeMounts"][0];
        assert_eq!((&mount["name"], &mount["readOnly"]), (&"metadata-store-ca".into(), &true.into()));
        let path = format!("{}/{file}", mount["mountPath"].as_str().unwrap());
        let env = container["env"].as_array().unwrap();
        let variable = env.iter().find(|variable| variable["name"] == "MODEL_UPDATE_METADATA_STORE_CA").unwrap();
        assert_eq!(variable["value"], path);
        let mut volume = pod["volumes"][0].clone();
        assert_eq!(volume.as_object_mut().unwrap().remove("name"), Some("metadata-store-ca".into()));
        assert_eq!(volume, source);
    }
    let objects = rendered(&peers, &["--set", "metadataStore=mlmd:8080"]);
    let pod = &find_object(&objects, "Deployment", FULLNAME)["spec"]["template"]["spec"];
    assert!(pod["volumes"].is_null());
}

/// The token has Kubeflow's audience, and its account the right that Kubeflow asks for.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn kubeflows_api_is_asked_with_a_token_of_its_audience() {
    let peers = peers().await;
    let right = serde_json::json!({"apiGroups": ["pipelines.kubeflow.org"], "resources": ["runs"], "verbs": ["get"]});
    let role = CLUSTER_NAME;
    for (set, has_token) in [
        ("kfp.api=ml-pipeline.kubeflow:8887", true),
        ("kfp.api=ml-pipeline.kubeflow:8887,kfp.token=false", false),
        ("kfp.api=ml-pipeline.kubeflow:8887,artifacts=mlmd", false),
        ("artifacts=auto", false),
    ] {
        let objects = rendered(&peers, &["--set", set]);
        let rules = find_object(&objects, "ClusterRole", role)["rules"].as_array().unwrap().clone();
        assert_eq!(rules.contains(&right), has_token, "{set}");
        let file = has_token.then(|| "/etc/model-update-eventsource/kfp-token/token".to_owned());
        assert_eq!(variable(&objects, "MODEL_UPDATE_KFP_TOKEN_FILE"), file.map(Into::into), "{set}");
        let pod = &find_object(&objects, "Deployment", FULLNAME)["spec"]["template"]["spec"];
        let source = pod["volumes"].pointer("/0/projected/sources/0/serviceAccountToken");
        let audience = has_token.then(|| Value::from("pipelines.kubeflow.org"));
        assert_eq!(source.map(|token| token["audience"].clone()), audience, "{set}");
    }
    let objects = rendered(&peers, &["--values", "helm/ci/kfp-values.yaml"]);
    assert_eq!(variable(&objects, "MODEL_UPDATE_KFP_CA"), Some("/etc/model-update-eventsource/kfp-ca/ca.crt".into()));
    assert_eq!(variable(&objects, "MODEL_UPDATE_KFP_API"), Some("https://ml-pipeline.kubeflow:8887".into()));
}

/// Releases of the same name in two namespaces have no object in common.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn two_releases_fit_one_cluster() {
    let peers = peers().await;
    let objects = |namespace: &str| {
        let set = "auth.mode=token,metadataStoreNetworkPolicy.enabled=true";
        let output = helm(&peers, &["template", RELEASE, "helm", "--namespace", namespace, "--set", set]);
        assert!(output.status.success(), "{}", printed(&output));
        let objects = manifests(&String::from_utf8(output.stdout).unwrap());
        let id = |object: &Value| {
            let metadata = &object["metadata"];
            format!("{} {} {}", object["kind"], metadata["namespace"], metadata["name"])
        };
        objects.iter().map(id).collect::<BTreeSet<_>>()
    };
    let (first, second) = (objects("first"), objects("second"));
    assert!(first.len() >= 10, "{first:?}");
    assert_eq!(first.intersection(&second).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// A new version of the chart alone must not replace the Pods: that ends all streams.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_pods_do_not_contain_the_version_of_the_chart() {
    let peers = peers().await;
    for variant in variants() {
        let objects = rendered(&peers, &["--values", variant.to_str().unwrap()]);
        for deployment in objects.iter().filter(|object| object["kind"] == "Deployment") {
            let labels = deployment["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
            assert!(!labels.contains_key("helm.sh/chart") && !labels.contains_key("app.kubernetes.io/version"));
        }
    }
}

/// Switches and changes of single alerts.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn alerts_can_be_left_out_and_changed() {
    let peers = peers().await;
    let objects = rendered(&peers, &["--values", "helm/ci/policies-values.yaml"]);
    let groups = find_object(&objects, "PrometheusRule", FULLNAME)["spec"]["groups"].as_array().unwrap().clone();
    let rules: Vec<_> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(rules.len() >= 8 && !rules.iter().any(|rule| rule["alert"] == "ModelUpdateMarksFailing"));
    let changed = rules.iter().find(|rule| rule["alert"] == "ModelUpdateWatchDown").unwrap();
    assert_eq!((&changed["for"], &changed["labels"]["severity"]), (&"10m".into(), &"warning".into()));
    assert!(changed["expr"].is_string() && changed["annotations"]["summary"].is_string());
    for rule in rules {
        let annotations = rule["annotations"].as_object().unwrap();
        assert!(!annotations.contains_key("runbook_url") && !annotations.contains_key("dashboard_url"), "no base URL");
    }
}

/// The NetworkPolicy has no rule for the port of the probes, which the kubelet reaches in any case.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn metrics_and_probes_have_ports_of_their_own() {
    let peers = peers().await;
    for (set, name, port) in [("metrics.port=9090", "metrics", 9090), ("metrics.port=0", "admin", 8080)] {
        let objects = rendered(&peers, &["--set", set, "--set", "networkPolicy.enabled=true"]);
        let container = &find_object(&objects, "Deployment", FULLNAME)["spec"]["template"]["spec"]["containers"][0];
        let ports = container["ports"].as_array().unwrap().iter();
        let ports: Vec<_> = ports.map(|port| (&port["name"], &port["containerPort"])).collect();
        assert!(ports.contains(&(&name.into(), &port.into())), "{set}: {ports:?}");
        let env = container["env"].as_array().unwrap().iter();
        let listen = env.filter(|variable| variable["name"] == "MODEL_UPDATE_METRICS_LISTEN").count();
        assert_eq!(listen, usize::from(name == "metrics"), "{set}");
        for probe in ["livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], "admin", "{set}");
        }
        let service = find_object(&objects, "Service", &format!("{FULLNAME}-metrics"));
        let scraped = &service["spec"]["ports"][0];
        assert_eq!((&scraped["port"], &scraped["targetPort"]), (&port.into(), &name.into()), "{set}");
        let policy = &find_object(&objects, "NetworkPolicy", FULLNAME)["spec"]["ingress"];
        let rules = policy.as_array().unwrap().iter().map(|rule| &rule["ports"][0]["port"]);
        assert_eq!(rules.collect::<Vec<_>>(), ["grpc", name], "{set}");
        let scraper = &policy[1]["from"][0]["podSelector"]["matchLabels"];
        assert_eq!(scraper["app.kubernetes.io/name"], "prometheus", "{set}");
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn every_pod_meets_the_restricted_pod_security_standard() {
    let peers = peers().await;
    for variant in variants() {
        let objects = rendered(&peers, &["--values", variant.to_str().unwrap()]);
        let deployments = objects.iter().filter(|object| object["kind"] == "Deployment");
        let pods = deployments.map(|deployment| &deployment["spec"]["template"]["spec"]);
        let pods = pods.chain(objects.iter().filter(|object| object["kind"] == "Pod").map(|pod| &pod["spec"]));
        for pod in pods {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            for container in pod["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false);
                assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
                assert_eq!(context["readOnlyRootFilesystem"], true);
            }
        }
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn monitoring_includes_the_alerts_and_dashboards_unchanged() {
    let peers = peers().await;
    let objects = rendered(&peers, &["--values", "helm/ci/monitoring-values.yaml"]);
    let rules = &find_object(&objects, "PrometheusRule", FULLNAME)["spec"]["groups"];
    let alerts = fs::read_to_string(file("alerts/model-update-eventsource.yaml")).unwrap();
    let runbooks = "https://runbooks.example.com/model-update";
    let alerts = alerts.replace("runbook_url: docs/runbooks/", &format!("runbook_url: {runbooks}/"));
    let mut expected = manifests(&alerts)[0]["groups"].clone();
    for rule in expected[0]["rules"].as_array_mut().unwrap() {
        let page = "https://grafana.example.com/d/model-update-eventsource-operations";
        let cluster = "{{ with $labels.cluster }}?var-cluster={{ . }}{{ end }}";
        rule["annotations"]["dashboard_url"] = format!("{page}{cluster}").into();
        assert!(rule["annotations"]["runbook_url"].as_str().unwrap().starts_with(runbooks));
    }
    assert_eq!(*rules, expected);
    for name in ["operations", "traces"] {
        let map = find_object(&objects, "ConfigMap", &format!("{FULLNAME}-dashboard-{name}"));
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let included = map["data"][format!("model-update-eventsource-{name}.json")].as_str().unwrap();
        let dashboard = fs::read_to_string(file(&format!("dashboards/{name}.json"))).unwrap();
        let links = dashboard.replace("\"docs/runbooks\"", &format!("\"{runbooks}\""));
        assert_eq!(json(included), json(&links));
    }
    let service = find_object(&objects, "Service", &format!("{FULLNAME}-metrics"));
    let monitor = &find_object(&objects, "ServiceMonitor", FULLNAME)["spec"];
    let labels = monitor["selector"]["matchLabels"].as_object().unwrap();
    assert!(labels.iter().all(|(key, value)| service["metadata"]["labels"][key] == *value));
    assert_eq!(monitor["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
}

/// Values of access control and TLS reach the program as its variables, and its account may make reviews.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn values_of_access_and_tls_reach_the_server() {
    let peers = peers().await;
    let of = |variant: &str| {
        rendered(&peers, &["--values", file(&format!("helm/ci/{variant}-values.yaml")).to_str().unwrap()])
    };
    let container = |objects: &[Value]| {
        find_object(objects, "Deployment", FULLNAME)["spec"]["template"]["spec"]["containers"][0].clone()
    };
    let variables = |objects: &[Value]| {
        let variables = container(objects)["env"].as_array().unwrap().clone();
        let value = |variable: &Value| (variable["name"].as_str().unwrap().to_owned(), variable["value"].clone());
        variables.iter().map(value).collect::<std::collections::BTreeMap<_, _>>()
    };
    let auth = of("auth");
    let env = variables(&auth);
    for (name, value) in [
        ("MODEL_UPDATE_AUTH", "token"),
        ("MODEL_UPDATE_AUTH_AUDIENCE", "model-updates,events"),
        ("MODEL_UPDATE_AUTH_CACHE_TOKEN", "2m"),
        ("MODEL_UPDATE_AUTH_CACHE_ALLOW", "10m"),
        ("MODEL_UPDATE_AUTH_CACHE_DENY", "15s"),
    ] {
        assert_eq!(env[name], value, "{name}");
    }
    let role = format!("{CLUSTER_NAME}-subscriber");
    assert_eq!(env["MODEL_UPDATE_SUBSCRIBER_ROLE"], *role);
    let labels = &find_object(&auth, "ClusterRole", &role)["metadata"]["labels"];
    assert!(!labels.to_string().contains("aggregate"), "{labels}");
    let binding = find_object(&auth, "ClusterRoleBinding", &format!("{CLUSTER_NAME}-auth"));
    assert_eq!(binding["roleRef"]["name"], "system:auth-delegator");
    let service = find_object(&auth, "Service", &format!("{FULLNAME}-server"));
    assert_eq!(service["spec"]["ports"][0]["appProtocol"], "tcp");

    let audit = of("audit");
    assert_eq!(variables(&audit)["MODEL_UPDATE_AUTH"], "audit");
    let labels = &find_object(&audit, "ClusterRole", &role)["metadata"]["labels"];
    for to in ["view", "edit", "admin"] {
        assert_eq!(labels[format!("rbac.authorization.k8s.io/aggregate-to-{to}")], "true");
    }

    for (variant, secret, client_ca) in [
        ("tls", "model-update-eventsource-tls".to_owned(), false),
        ("tls-cert-manager", format!("{FULLNAME}-tls"), true),
    ] {
        let objects = of(variant);
        let env = variables(&objects);
        assert_eq!(env["MODEL_UPDATE_TLS_CERT"], "/etc/model-update-eventsource/tls/tls.crt");
        assert_eq!(env.contains_key("MODEL_UPDATE_TLS_CLIENT_CA"), client_ca, "{variant}");
        let mounts = container(&objects)["volumeMounts"].to_string();
        assert!(mounts.contains("/etc/model-update-eventsource/tls"), "{variant}: {mounts}");
        let volumes = &find_object(&objects, "Deployment", FULLNAME)["spec"]["template"]["spec"]["volumes"];
        assert!(volumes.to_string().contains(&secret), "{variant}: {volumes}");
    }

    let plain = rendered(&peers, &[]);
    assert!(!plain.iter().any(|object| object["metadata"]["name"] == *role), "no role without tokens");
    let service = find_object(&plain, "Service", &format!("{FULLNAME}-server"));
    assert_eq!(service["spec"]["ports"][0].get("appProtocol"), None);
}
