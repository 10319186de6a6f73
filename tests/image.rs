//! Consistency of the Containerfile and the steps of a release with the crate. No container engine is needed.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

#[path = "../build_info.rs"]
#[expect(dead_code, clippy::print_stdout, reason = "only the build script runs git and prints to cargo")]
mod build_info;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use model_update_eventsource::app::Config;

const BINARY: &str = "model-update-eventsource";

/// Arguments of `cargo` for the binary of a release.
const BUILD: &str = "build --release --locked";

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

/// Returns the instructions of the Containerfile: name and arguments.
fn instructions() -> Vec<(String, String)> {
    let text = read("Containerfile");
    let without_comments: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let lines = without_comments.join("\n").replace("\\\n", " ");
    let pairs = lines.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(name, rest)| (name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))).collect()
}

/// Returns the arguments of each instruction of this name.
fn all(name: &str) -> Vec<String> {
    instructions().into_iter().filter(|(found, _)| found == name).map(|(_, rest)| rest).collect()
}

fn only(name: &str) -> String {
    let [only] = &all(name)[..] else { panic!("{name}: {:?}", all(name)) };
    only.clone()
}

/// Returns the defaults of a build argument.
fn defaults(argument: &str) -> Vec<String> {
    let prefix = format!("{argument}=");
    all("ARG").iter().filter_map(|arg| arg.strip_prefix(&prefix)).map(str::to_owned).collect()
}

/// Returns the numbers of a version.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|number| number.parse().unwrap()).collect()
}

/// Both images have the same version of Debian.
#[test]
fn the_compiler_is_at_least_the_minimum_of_the_crate() {
    let builder = defaults("RUST_IMAGE").remove(0);
    let tag = builder.rsplit_once(':').unwrap().1;
    let (compiler, debian) = tag.split_once("-slim-").unwrap();
    assert_eq!(numbers(compiler).len(), 3, "{compiler} is not an exact version");
    assert!(numbers(compiler) >= numbers(env!("CARGO_PKG_RUST_VERSION")), "{compiler}");
    let runtime = defaults("RUNTIME_IMAGE").remove(0);
    // Debian 12 is bookworm. The binary links dynamically to the C library of the final image.
    assert!(debian == "bookworm" && runtime.contains("-debian12:"), "{builder}, {runtime}");
    assert_eq!(all("FROM"), ["${RUST_IMAGE} AS build", "${RUNTIME_IMAGE}"]);
}

#[test]
fn the_image_is_built_with_the_documented_command() {
    let build = all("RUN").remove(1);
    assert!(build.contains(&format!("&& cargo auditable {BUILD} &&")), "{build}");
    for page in ["docs/install.md", ".ci/release"] {
        assert!(read(page).contains(&format!("cargo {BUILD}")), "{page}");
    }
}

#[test]
fn the_default_version_is_that_of_the_crate() {
    assert_eq!(defaults("VERSION"), [env!("CARGO_PKG_VERSION"); 2]);
    assert_eq!(defaults("GIT_REVISION"), ["unknown"; 2]);
}

#[test]
fn the_program_has_its_default_ports_and_an_unprivileged_user() {
    let Config { listen, admin_listen, .. } = Config::default();
    assert_eq!(only("EXPOSE"), format!("{} {}", listen.port(), admin_listen.port()));
    let installed = format!("/usr/local/bin/{BINARY}");
    assert_eq!(Path::new(env!("CARGO_BIN_EXE_model-update-eventsource")).file_name().unwrap(), BINARY);
    assert!(all("COPY").contains(&format!("--from=build /out/{BINARY} {installed}")));
    assert_eq!(only("ENTRYPOINT"), format!("[\"{installed}\"]"));
    assert_eq!(only("CMD"), "[\"serve\"]");
    assert_eq!(only("USER"), "65532:65532");
    assert!(read("sidecar/deployment.yaml").contains("runAsUser: 65532"));
}

#[test]
fn labels_contain_the_metadata_of_the_crate() {
    let labels = only("LABEL");
    for (label, value) in [
        ("title", env!("CARGO_PKG_NAME")),
        ("description", env!("CARGO_PKG_DESCRIPTION")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("source", "${SOURCE}"),
        ("revision", "${GIT_REVISION}"),
        ("version", "${VERSION}"),
        ("base.name", "${RUNTIME_IMAGE}"),
    ] {
        let label = format!("org.opencontainers.image.{label}=\"{value}\"");
        assert!(labels.contains(&label), "{label} is not in {labels}");
    }
}

#[test]
fn copied_files_match_dockerignore_and_suffice_for_cargo() {
    let mut copied = BTreeSet::new();
    for copy in all("COPY").iter().filter(|copy| !copy.starts_with("--from=")) {
        let (sources, _destination) = copy.rsplit_once(' ').unwrap();
        copied.extend(sources.split(' ').map(str::to_owned));
    }
    let ignored = read(".dockerignore");
    let allowed: BTreeSet<String> =
        ignored.lines().filter_map(|line| line.strip_prefix('!')).map(str::to_owned).collect();
    assert_eq!(copied, allowed);

    // Cargo fails if a file in the manifest is missing.
    let folder = tempfile::tempdir().unwrap();
    for name in &copied {
        copy(&file(name), &folder.path().join(name));
    }
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--offline", "--locked", "--no-deps", "--format-version=1"]).current_dir(folder.path());
    let output = metadata.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    if from.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

#[test]
fn the_revision_is_from_the_environment_else_git() {
    let (given, git) = (|text: &str| Some(text.to_owned()), || Some("from-git".to_owned()));
    assert_eq!(build_info::choose(given("from-environment"), git), "from-environment");
    assert_eq!(build_info::choose(None, git), "from-git");
    assert_eq!(build_info::choose(given(""), git), "from-git", "an omitted build argument");
    assert_eq!(build_info::choose(None, || None), "unknown");
    assert_eq!(build_info::VARIABLE, "GIT_REVISION", "the name in `env!`");
}
