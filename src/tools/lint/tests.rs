//! Tests of the rules, by manifests as users write them.

use std::fmt::Write as _;

use super::*;

const SOURCE: &str = "\
apiVersion: argoproj.io/v1alpha1
kind: EventSource
metadata: {name: models, namespace: team}
spec:
  generic:
    model-update:
      insecure: true
      url: server.ns.svc:50051
      jsonBody: true
      config: |
        kfpNamespace: team
        include: [eventId]
";

const SENSOR: &str = "\
apiVersion: argoproj.io/v1alpha1
kind: Sensor
metadata: {name: deploy, namespace: team}
spec:
  dependencies:
    - name: model
      eventSourceName: models
      eventName: model-update
      filters:
        data:
          - path: body.pipelineName
            type: string
            value: [^penguin$]
  triggers:
    - template:
        name: log
        log: {}
      parameters:
        - src: {dependencyName: model, dataKey: body.eventId}
          dest: log.x
";

/// The findings of files, one a line: place, weight, rule and message.
fn lint_all(files: &[&str]) -> Vec<String> {
    let mut linter = Linter::new(None, Vec::new());
    for (index, file) in files.iter().enumerate() {
        linter.add(&format!("{index}.yaml"), file.as_bytes());
    }
    let report = linter.finish();
    let line = |finding: &Finding| {
        let mut line = finding.file.as_deref().unwrap_or_default().to_owned();
        if let Some(at) = finding.at {
            write!(line, ":{}:{}", at.line, at.column).unwrap();
        }
        format!("{line} {:?} {} {}", finding.severity, finding.rule.id, finding.message)
    };
    report.findings.iter().map(line).collect()
}

/// Asserts that a manifest, changed at one place, has one finding that begins and continues like this.
fn assert_finding(files: [&str; 2], change: (&str, &str), begins: &str, contains: &str) {
    let [source, sensor] = files;
    let in_source = source.contains(change.0);
    let changed = if in_source { source } else { sensor }.replacen(change.0, change.1, 1);
    assert!(changed != source && changed != sensor, "{change:?} changes nothing");
    let [source, sensor] = if in_source { [&changed, sensor] } else { [source, &changed] };
    let found = lint_all(&[source, sensor]);
    let [finding] = &found[..] else { panic!("{change:?}: {found:#?}") };
    assert!(
        finding.starts_with(begins) && finding.contains(contains),
        "{change:?}: {finding}\nexpected {begins} … {contains}"
    );
}

#[test]
fn correct_manifests_have_no_finding() {
    assert_eq!(lint_all(&[SOURCE, SENSOR]), [""; 0]);
    assert_eq!(lint_all(&[SENSOR]), [""; 0], "an EventSource elsewhere");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}", SOURCE.trim_end().replace('\n', "\n  "));
    assert_eq!(lint_all(&[&list, SENSOR]), [""; 0]);
    let without = |text: &str| text.replace(", namespace: team}", "}");
    assert_eq!(lint_all(&[&without(SOURCE), SENSOR]), [""; 0], "applied with -n");
    assert_eq!(lint_all(&[SOURCE, &without(SENSOR)]), [""; 0]);
}

#[test]
fn problems_of_an_entry_are_found() {
    for (before, after, begins, contains) in [
        ("      insecure: true\n", "", "0.yaml:6:5 Error insecure", "is missing, so false"),
        ("insecure: true", "insecure: false", "0.yaml:7:7 Error insecure", "supplies no credentials"),
        ("insecure: true", "insecure: \"true\"", "0.yaml:7:17 Error wrong-type", "without quotes"),
        ("      url: server.ns.svc:50051\n", "", "0.yaml:6:5 Error url", "url is missing"),
        ("server.ns.svc:50051", "server.ns.svc", "0.yaml:8:12 Error url", "has no port"),
        ("server.ns.svc:50051", "http://server.ns.svc:50051", "0.yaml:8:12 Error url", "scheme"),
        ("server.ns.svc:50051", "\"\"", "0.yaml:8:12 Error url", "url is empty"),
        (
            "jsonBody: true",
            "jsonBody: true\n      jsonbody: true",
            "0.yaml:10:7 Error unknown-key",
            "did you mean jsonBody?",
        ),
        ("jsonBody: true", "jsonBody: true\n      tls: {}", "0.yaml:10:7 Error unknown-key", "remove it"),
        ("jsonBody: true", "jsonBody: true\n      authSecret: {name: token}", "0.yaml:10:7 Error auth-secret", "key"),
        ("argoproj.io/v1alpha1", "argoproj.io/v1", "0.yaml:1:13 Error api-version", "argoproj.io/v1alpha1"),
        ("metadata: {name: models,", "metadata: {", "0.yaml:3:1 Error name", "metadata.name is missing"),
    ] {
        let sensor = if before.contains("metadata") { "" } else { SENSOR };
        assert_finding([SOURCE, sensor], (before, after), begins, contains);
    }
}

#[test]
fn a_missing_generic_is_found() {
    for (spec, begins, contains) in [
        ("spec: {}", "0.yaml:4:1 Error generic", "spec.generic is missing"),
        ("spec: {eventBusName: default}", "0.yaml:4:1 Error generic", "spec.generic is missing"),
        ("spec: {generic: {}}", "0.yaml:4:8 Error generic", "is empty"),
        ("spec: {generic: }", "0.yaml:4:8 Error generic", "is nothing"),
        ("spec: {generics: {a: {}}}", "0.yaml:4:8 Error generic", "did you mean generic?"),
        ("spec: {generic: {a: }}", "0.yaml:4:", "is nothing, not a mapping"),
    ] {
        let head = SOURCE.split("spec:").next().unwrap();
        assert_finding([SOURCE, ""], (SOURCE, &format!("{head}{spec}\n")), begins, contains);
    }
    let other = SOURCE.split("spec:").next().unwrap().to_owned() + "spec: {webhook: {hook: {port: \"1\"}}}\n";
    assert_eq!(lint_all(&[&other]), [""; 0], "an EventSource of another type");
}

#[test]
fn problems_of_a_config_have_their_line_in_the_file() {
    for (before, after, begins, contains) in [
        (
            "kfpNamespace: team",
            "kfpNamspace: team",
            "0.yaml:11:9 Error config-unknown-key",
            "did you mean kfpNamespace?",
        ),
        ("        kfpNamespace: team\n", "", "0.yaml:11:9 Error config-missing-key", "kfpNamespace is missing"),
        ("kfpNamespace: team", "kfpNamespace: team-*", "0.yaml:11:9 Error config-invalid-value", "DNS label"),
        ("include: [eventId]", "include: [eventID]", "0.yaml:12:9 Error config-invalid-value", "did you mean eventId?"),
        ("include: [eventId]", "include: [eventId", "0.yaml:1", "YAML"),
        (
            "include: [eventId]",
            "include: [eventId]\n        include: [runId]",
            "0.yaml:13:9 Error config-duplicate-key",
            "again",
        ),
        (
            "include: [eventId]",
            "maxAge: 12\n        # words\n        latestOnly: on",
            "0.yaml:12:9 Error config-invalid-value",
            "unit",
        ),
        (
            "include: [eventId]",
            "include: [eventId]\n        ---\n        a: b",
            "0.yaml:14:9 Error config-several-documents",
            "second",
        ),
        ("config: |\n", "config: |\n        # nothing\n      x-config: |\n", "0.yaml:", "empty"),
        ("config: |\n        kfp", "config:\n        kfp", "0.yaml:", "write `config: |`"),
    ] {
        let mut source = SOURCE.replacen(before, after, 1);
        assert_ne!(source, SOURCE, "{before}");
        source = source.replace("x-config", "metadata");
        let found = lint_all(&[&source]);
        assert!(found[0].starts_with(begins) && found[0].contains(contains), "{after}: {found:#?}\nexpected {begins}");
    }
    let quoted = SOURCE.split("config: |").next().unwrap().to_owned() + "config: 'kfpNamspace: team'\n";
    assert!(lint_all(&[&quoted])[0].starts_with("0.yaml:10:15 Error config-unknown-key"));
}

#[test]
fn shared_subscriptions_are_found() {
    let other = SOURCE.replace("name: models", "name: other").replace("[eventId]", "[runId]");
    let found = lint_all(&[SOURCE, &other]);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("1.yaml:11:9 Warning shared-subscription model-update: shares"), "{found:#?}");
    for (before, after) in [
        ("include: [runId]", "subscription: other"),
        ("kfpNamespace: team", "kfpNamespace: other"),
        ("include: [runId]", "remember: false"),
    ] {
        assert_eq!(lint_all(&[SOURCE, &other.replace(before, after)]), [""; 0], "{after}");
    }
    // With tokens, the server scopes names by the namespace of the account.
    let token = |text: &str, namespace: &str| {
        let text = text.replace("jsonBody: true", "authSecret: {name: a, key: b}");
        text.replace("namespace: team}", &format!("namespace: {namespace}}}"))
    };
    assert_eq!(lint_all(&[&token(SOURCE, "a"), &token(&other, "b")]), [""; 0]);
}

#[test]
fn problems_of_dependencies_and_triggers_are_found() {
    for (before, after, begins, contains) in [
        (
            "eventSourceName: models",
            "eventSourceName: model",
            "1.yaml:7:24 Warning unknown-event-source",
            "did you mean models?",
        ),
        (
            "eventSourceName: models",
            "eventSourceName: penguins",
            "1.yaml:7:24 Warning unknown-event-source",
            "lint its manifest too",
        ),
        (
            "eventName: model-update",
            "eventName: model-updates",
            "1.yaml:8:18 Error unknown-event",
            "did you mean model-update?",
        ),
        ("eventName: model-update", "eventName: update", "1.yaml:8:18 Error unknown-event", "write model-update"),
        ("      eventName: model-update\n", "", "1.yaml:6:7 Error dependency", "no eventName"),
        ("        name: log\n", "", "1.yaml:15:7 Error trigger", "no template.name"),
        ("        name: log\n", "        name: \"\"\n", "1.yaml:15:7 Error trigger", "no template.name"),
        (
            "dependencyName: model",
            "dependencyName: models",
            "1.yaml:19:33 Error unknown-dependency",
            "did you mean model?",
        ),
        (
            "        - src",
            "        - src: {dependencyName: x}\n        - src",
            "1.yaml:19:33 Error unknown-dependency",
            "write one of model",
        ),
        ("type: string", "type: text", "1.yaml:11:13 Error filter", "needs a path, a type"),
        ("type: string", "type: string\n            comparator: \"==\"", "1.yaml:13:25 Error filter", "does not exist"),
        (
            "type: string",
            "type: string\n            comparator: \">\"",
            "1.yaml:13:25 Error filter",
            "never matches text",
        ),
        ("value: [^penguin$]", "value: []", "1.yaml:11:13 Error filter", "a list of values"),
        ("value: [^penguin$]", "value: [1]", "1.yaml:13:21 Error filter", "in quotes"),
        ("value: [^penguin$]", "value: [penguin]", "1.yaml:13:21 Warning unanchored-filter", "write ^…$"),
        ("value: [^penguin$]", "value: [\"^[\"]", "1.yaml:13:21 Warning invalid-regex", "backslash"),
    ] {
        assert_finding([SOURCE, SENSOR], (before, after), begins, contains);
    }
    let doubled = SENSOR.replace("    - template:", "    - template: {name: log, log: {}}\n    - template:");
    assert!(lint_all(&[SOURCE, &doubled])[0].starts_with("1.yaml:17:15 Error trigger two triggers"));
    let elsewhere = SOURCE.replace("namespace: team}", "namespace: other}");
    assert!(lint_all(&[&elsewhere, SENSOR])[0].contains("is in the namespace other"));
    let empty = SENSOR.split("spec:").next().unwrap().to_owned() + "spec: {dependencies: [], triggers: []}\n";
    assert_eq!(lint_all(&[&empty]).len(), 2);
}

#[test]
fn paths_are_checked_against_the_event() {
    for (before, after, begins, contains) in [
        ("dataKey: body.eventId", "dataKey: body.runId", "1.yaml:19:49 Error not-included", "include: [runId]"),
        ("dataKey: body.eventId", "dataKey: body.runId, value: x", "1.yaml:19:49 Warning not-included", "runId"),
        ("dataKey: body.eventId", "dataKey: body.version", "1.yaml:19:49 Error unknown-path", "its fields are"),
        ("path: body.pipelineName", "path: pipelineName", "1.yaml:11:19 Error unknown-path", "write body.pipelineName"),
        (
            "dataKey: body.eventId",
            "dataTemplate: '{{ .Input.body.workflowName }}'",
            "1.yaml:19:54 Error not-included",
            "workflowName",
        ),
        (
            "dataKey: body.eventId",
            "dataTemplate: '{{ .Input.body.name | upper }}'",
            "1.yaml:19:54 Error unknown-path",
            "template",
        ),
        (
            "dataKey: body.eventId",
            "dataTemplate: '{{ (b64dec .Input.body | mustFromJson).pipelineName }}'",
            "1.yaml:19:54 Error json-body",
            "without b64dec",
        ),
        (
            "        data:\n",
            "        exprs: [{expr: a > 1, fields: [{name: a, path: body.models}]}]\n        data:\n",
            "1.yaml:10:56 Error unknown-path",
            "its fields are",
        ),
        ("      jsonBody: true\n", "", "1.yaml:11:19 Error json-body", "write `jsonBody: true`"),
    ] {
        let sensor =
            if before.contains("jsonBody") { SENSOR.replace("body.eventId", "body") } else { SENSOR.to_owned() };
        assert_finding([SOURCE, &sensor], (before, after), begins, contains);
    }
    let transformed =
        SENSOR.replace("      filters:", "      transform: {jq: .body}\n      filters:").replace("body.", "");
    assert_eq!(lint_all(&[SOURCE, &transformed]), [""; 0]);
}

#[test]
fn base64_bodies_are_decoded_by_templates() {
    let source = SOURCE.replace("      jsonBody: true\n", "");
    let filter = "path: body\n            template: '{{ (b64dec .Input | mustFromJson).pipelineName }}'";
    let sensor = SENSOR.replace("path: body.pipelineName", filter).replace("dataKey: body.eventId", "dataKey: body");
    assert_eq!(lint_all(&[&source, &sensor]), [""; 0]);
    let [unanchored] = &lint_all(&[&source, &sensor.replace("^penguin$", "penguin")])[..] else { panic!() };
    assert!(unanchored.contains("Warning unanchored-filter"), "{unanchored}");
    let [unknown] = &lint_all(&[&source, &sensor.replace("pipelineName }}", "pipeline }}")])[..] else { panic!() };
    assert!(unknown.contains("Error unknown-path"), "{unknown}");
}

#[test]
fn other_servers_and_kinds_are_left_alone() {
    let mut linter = Linter::new(None, vec!["dns:///other:50051".to_owned()]);
    linter.add("a", SOURCE.replace("kfpNamespace: team", "key: value").as_bytes());
    linter.add("b", SENSOR.replace("body.eventId", "body.anything").as_bytes());
    assert_eq!(linter.finish().findings, []);
    let knative = "apiVersion: sources.knative.dev/v1\nkind: EventSource\n";
    let found = lint_all(&[knative, "{{ if .Values.x }}\nkind: Deployment\n"]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("0.yaml Warning nothing-to-check"), "{found:#?}");
}

#[test]
fn unreadable_and_hostile_files_are_findings() {
    let large = vec![b' '; MAX_FILE + 1];
    let bomb = format!("kind: Sensor\na: {}", "[".repeat(1000));
    let template = "kind: Sensor\nname: {{ .Values.name }}-x\n";
    let mut linter = Linter::new(None, Vec::new());
    linter.unreadable("missing", "no such file");
    linter.add("large", &large);
    linter.add("bomb", bomb.as_bytes());
    linter.add("latin", b"kind: Sensor # \xfc");
    linter.add("template", template.as_bytes());
    let report = linter.finish();
    let found: Vec<_> =
        report.findings.iter().map(|finding| (finding.file.as_deref().unwrap(), finding.rule.id)).collect();
    let expected = ["unreadable-file", "file-too-large", "not-yaml", "not-yaml", "not-yaml"];
    let files = ["missing", "large", "bomb", "latin", "template"];
    assert_eq!(found, files.into_iter().zip(expected).collect::<Vec<_>>());
    assert!(report.findings.last().unwrap().message.contains("helm template"));
}

#[test]
fn a_document_after_a_broken_one_is_checked() {
    let text = format!("kind: Sensor\na: [\n---\n{}", SOURCE.replace("insecure: true", "insecure: false"));
    let found = lint_all(&[&text]);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[1].starts_with("0.yaml:10:7 Error insecure"), "{found:#?}");
}

#[test]
fn findings_are_limited() {
    let entry = |index: usize| format!("    e{index}: {{}}\n");
    let many: String = (0..MAX_FINDINGS).map(entry).collect();
    let head = SOURCE.split("    model-update:").next().unwrap();
    let mut linter = Linter::new(None, Vec::new());
    linter.add("many", format!("{head}{many}").as_bytes());
    let report = linter.finish();
    assert_eq!((report.findings.len(), report.omitted), (MAX_FINDINGS, 2 * MAX_FINDINGS));
}
