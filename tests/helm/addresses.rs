//! The addresses in the documentation are those of Services that its own commands create.

use std::collections::BTreeSet;

use super::*;

/// Services of others that the documentation names, as it says there.
const OTHERS: [&str; 4] = [
    "metadata-grpc-service.kubeflow",
    "ml-pipeline.kubeflow",
    "otel-collector.observability",
    "jaeger-collector.observability",
];

/// Returns the arguments of the command that begins with these words, which may continue over several lines.
fn command(text: &str, words: &str) -> Vec<String> {
    let start = text.find(&format!("\n{words}")).unwrap_or_else(|| panic!("no {words}")) + 1;
    let mut command = String::new();
    for line in text[start..].lines() {
        let part = line.strip_suffix('\\');
        command += part.unwrap_or(line);
        if part.is_none() {
            break;
        }
    }
    command.replace("\"$IMAGE\"", "image").split_whitespace().map(str::to_owned).collect()
}

/// Returns each `NAME.NAMESPACE` that is followed by a port, as `NAME.NAMESPACE:PORT`.
fn addresses(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-.:".contains(c);
    let words = text.split(|c| !is_part(c)).filter(|word| !word.contains("..."));
    let address = |word: &str| {
        let (host, port) = word.trim_end_matches([':', '.']).rsplit_once(':')?;
        port.parse::<u16>().ok()?;
        let host = host.trim_end_matches(".cluster.local").trim_end_matches(".svc");
        let (name, namespace) = host.split_once('.')?;
        let is_label = |label: &str| label.starts_with(|c: char| c.is_ascii_lowercase()) && !label.contains(['.', ':']);
        (is_label(name) && is_label(namespace)).then(|| format!("{name}.{namespace}:{port}"))
    };
    // A line of a file is not an address.
    let is_file = |word: &&str| word.contains(".yaml:") || word.contains(".rs:");
    words.filter(|word| !is_file(word)).filter_map(address).collect()
}

fn texts(path: &Path, found: &mut Vec<(PathBuf, String)>) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| texts(&entry.unwrap().path(), found));
    } else if path.extension().is_some_and(|extension| ["md", "yaml", "rs"].iter().any(|known| extension == *known)) {
        // The unit tests of a module are no documentation.
        let text = fs::read_to_string(path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap().to_owned();
        found.push((path.to_owned(), text));
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn every_address_is_a_service_that_the_commands_create() {
    let peers = peers().await;
    let (mut created, mut pages) = (BTreeSet::new(), Vec::new());
    for page in ["README.md", "helm/README.md"] {
        let install = command(&fs::read_to_string(file(page)).unwrap(), "helm install ");
        let args: Vec<_> = install[2..].iter().map(String::as_str).filter(|arg| *arg != "--create-namespace").collect();
        let output = helm(&peers, &[&["template", "--set", "demo.enabled=true"], &args[..]].concat());
        assert!(output.status.success(), "{install:?}: {}", printed(&output));
        let printed_notes = helm(&peers, &[&["install", "--dry-run=client"], &args[..]].concat());
        let printed_notes = String::from_utf8(printed_notes.stdout).unwrap();
        let (_, notes) = printed_notes.split_once("\nNOTES:").unwrap();
        pages.push((PathBuf::from("NOTES.txt"), notes.to_owned()));
        for object in manifests(&String::from_utf8(output.stdout).unwrap()) {
            let metadata = &object["metadata"];
            for port in object["spec"]["ports"].as_array().filter(|_| object["kind"] == "Service").into_iter().flatten()
            {
                let (name, namespace) = (metadata["name"].as_str().unwrap(), metadata["namespace"].as_str().unwrap());
                created.insert(format!("{name}.{namespace}:{}", port["port"]));
            }
        }
    }
    assert!(created.contains(&format!("{FULLNAME}-server.{NAMESPACE}:50051")), "{created:?}");

    // The help of the program, too.
    for path in ["docs", "helm/values.yaml", "examples", "sidecar", "alerts", "src/cli"] {
        texts(&file(path), &mut pages);
    }
    for folder in [".", "helm", "dashboards", "proto", "fuzz"] {
        let entries = fs::read_dir(file(folder)).unwrap().map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.extension().is_some_and(|end| end == "md"))
            .for_each(|path| texts(&path, &mut pages));
    }
    let mut known = 0;
    for (page, text) in pages {
        for address in addresses(&text) {
            let host = address.split(':').next().unwrap();
            let placeholder = host.ends_with(".example") || host.starts_with("server.");
            assert!(
                created.contains(&address) || OTHERS.contains(&host) || placeholder,
                "{}: nothing creates {address}; the commands create {created:?}",
                page.display()
            );
            known += usize::from(created.contains(&address));
        }
    }
    assert!(known >= 12, "{known}");
}
