//! The table of values in the chart's README, generated from values.yaml. `UPDATE_DOCS=1 cargo test --test helm docs`
//! regenerates it.

use std::{env, fmt::Write as _};

use super::*;

const BEGIN: &str = "<!-- values: made by tests/helm/docs.rs from values.yaml -->";
const END: &str = "<!-- end of values -->";

/// Returns path and description of each documented value, in order.
fn documented(yaml: &str) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut description: Option<String> = None;
    for line in yaml.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(start) = text.strip_prefix("# -- ") {
            description = Some(start.to_owned());
        } else if let Some(more) = text.strip_prefix("# ") {
            if let Some(description) = &mut description {
                *description += " ";
                *description += more;
            }
        } else if let Some((key, _)) = text.split_once(':').filter(|(key, _)| !key.contains(['-', ' '])) {
            path.retain(|(depth, _)| *depth < indent);
            path.push((indent, key.to_owned()));
            if let Some(description) = description.take() {
                let keys: Vec<_> = path.iter().map(|(_, key)| key.as_str()).collect();
                rows.push((keys.join("."), description));
            }
        }
    }
    rows
}

fn table() -> String {
    let yaml = fs::read_to_string(file("helm/values.yaml")).unwrap();
    let values = &manifests(&yaml)[0];
    let mut table = "| value | default | meaning |\n|---|---|---|\n".to_owned();
    for (path, description) in documented(&yaml) {
        let default = values.pointer(&format!("/{}", path.replace('.', "/"))).unwrap_or_else(|| panic!("{path}"));
        writeln!(table, "| `{path}` | `{default}` | {description} |").unwrap();
    }
    table
}

#[test]
fn the_readme_lists_the_values() {
    let readme = fs::read_to_string(file("helm/README.md")).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    let table = table();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(file("helm/README.md"), format!("{before}{BEGIN}\n{table}{END}{after}")).unwrap();
    } else {
        assert_eq!(shown.trim(), table.trim(), "run UPDATE_DOCS=1 cargo test --test helm docs");
    }
}

/// Adds the paths of all values, except those below a documented one.
fn leaves(value: &Value, path: &str, documented: &[String], found: &mut Vec<String>) {
    match value.as_object().filter(|object| !object.is_empty()) {
        Some(object) if !documented.iter().any(|known| known == path) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(value, &path, documented, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn documentation_schema_and_values_have_the_same_keys() {
    let yaml = fs::read_to_string(file("helm/values.yaml")).unwrap();
    let documented: Vec<_> = documented(&yaml).into_iter().map(|(path, _)| path).collect();
    let mut found = Vec::new();
    leaves(&manifests(&yaml)[0], "", &documented, &mut found);
    found.sort();
    let mut sorted = documented.clone();
    sorted.sort();
    assert_eq!(found, sorted);

    let schema: Value = serde_json::from_str(&fs::read_to_string(file("helm/values.schema.json")).unwrap()).unwrap();
    for path in &documented {
        let pointer = format!("/properties/{}", path.replace('.', "/properties/"));
        assert!(schema.pointer(&pointer).is_some(), "{path} is not in the schema");
    }
    for (key, subschema) in schema["properties"].as_object().unwrap().iter().filter(|(key, _)| *key != "enabled") {
        assert_documented(subschema, key, &documented);
    }
}

/// A value that no variant sets is not tried on the API server.
#[test]
fn every_value_is_set_in_a_variant() {
    let yaml = fs::read_to_string(file("helm/values.yaml")).unwrap();
    let variants: Vec<_> = variants().iter().flat_map(|path| manifests(&fs::read_to_string(path).unwrap())).collect();
    for (path, _) in documented(&yaml) {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(variants.iter().any(|values| values.pointer(&pointer).is_some()), "no file of helm/ci sets {path}");
    }
}

#[test]
fn the_schema_describes_values_as_the_documentation() {
    let yaml = fs::read_to_string(file("helm/values.yaml")).unwrap();
    let schema: Value = serde_json::from_str(&fs::read_to_string(file("helm/values.schema.json")).unwrap()).unwrap();
    for (path, description) in documented(&yaml) {
        let pointer = format!("/properties/{}/description", path.replace('.', "/properties/"));
        assert_eq!(schema.pointer(&pointer).and_then(Value::as_str), Some(&*description), "{path}");
    }
}

/// Some tools drop symbolic links when they package a chart, so the chart has copies.
#[test]
fn the_files_of_the_chart_are_copies() {
    for (copy, original) in [
        ("alerts.yaml", "alerts/model-update-eventsource.yaml"),
        ("operations.json", "dashboards/operations.json"),
        ("traces.json", "dashboards/traces.json"),
    ] {
        let copy = file("helm/files").join(copy);
        assert!(!copy.is_symlink(), "{copy:?}");
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::copy(file(original), &copy).unwrap();
        }
        assert_eq!(
            fs::read(&copy).unwrap(),
            fs::read(file(original)).unwrap(),
            "run UPDATE_DOCS=1 cargo test --test helm docs"
        );
    }
}

fn assert_documented(schema: &Value, path: &str, documented: &[String]) {
    if documented.iter().any(|known| known == path) {
        return;
    }
    let nested = schema["properties"].as_object().unwrap_or_else(|| panic!("{path} is in the schema only"));
    nested.iter().for_each(|(name, schema)| assert_documented(schema, &format!("{path}.{name}"), documented));
}

#[test]
fn chart_and_program_have_the_same_version() {
    let chart = &manifests(&fs::read_to_string(file("helm/Chart.yaml")).unwrap())[0];
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}
