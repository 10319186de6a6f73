//! The Containerfile and the releases, kept in step with the crate. No container engine is needed: what is compared is
//! what both say.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

#[path = "../build_info.rs"]
#[allow(
    dead_code,
    clippy::print_stdout,
    reason = "the build asks git and tells cargo; here is what it makes of the answer"
)]
mod build_info;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use model_update_eventsource::app::Config;

const BINARY: &str = "model-update-eventsource";
/// How the binary of a release is built, after `cargo`.
const BUILD: &str = "build --release --locked";

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

/// The instructions of the Containerfile, each a line: its name, and the rest.
fn instructions() -> Vec<(String, String)> {
    let text = read("Containerfile");
    let without_comments: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let lines = without_comments.join("\n").replace("\\\n", " ");
    let parted = lines.lines().filter_map(|line| line.split_once(' '));
    parted.map(|(name, rest)| (name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))).collect()
}

/// What follows each instruction of this name.
fn all(name: &str) -> Vec<String> {
    instructions().into_iter().filter(|(found, _)| found == name).map(|(_, rest)| rest).collect()
}

fn only(name: &str) -> String {
    let [only] = &all(name)[..] else { panic!("{name}: {:?}", all(name)) };
    only.clone()
}

/// The defaults of a build argument, wherever it has one.
fn defaults(argument: &str) -> Vec<String> {
    let prefix = format!("{argument}=");
    all("ARG").iter().filter_map(|arg| arg.strip_prefix(&prefix)).map(str::to_owned).collect()
}

/// A version's numbers, as many as there are.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|number| number.parse().unwrap()).collect()
}

#[test]
fn the_compiler_is_as_new_as_the_crate_asks_for_and_both_images_are_of_one_debian() {
    let builder = defaults("RUST_IMAGE").remove(0);
    let tag = builder.rsplit_once(':').unwrap().1;
    let (compiler, debian) = tag.split_once("-slim-").unwrap();
    assert_eq!(numbers(compiler).len(), 3, "{compiler} is not one version");
    assert!(numbers(compiler) >= numbers(env!("CARGO_PKG_RUST_VERSION")), "{compiler}");
    let runtime = defaults("RUNTIME_IMAGE").remove(0);
    // Debian 12 is bookworm: the binary is dynamic, and its C library is the final image's.
    assert!(debian == "bookworm" && runtime.contains("-debian12:"), "{builder}, {runtime}");
    assert_eq!(all("FROM"), ["${RUST_IMAGE} AS build", "${RUNTIME_IMAGE}"]);
    for image in [builder, runtime] {
        assert!(read("docs/releasing.md").contains(&format!("{image}@sha256:DIGEST")), "{image}");
    }
}

#[test]
fn it_builds_what_everybody_builds() {
    let build = all("RUN").remove(1);
    assert!(build.contains(&format!("&& cargo auditable {BUILD} &&")), "{build}");
    for page in ["README.md", "docs/releasing.md"] {
        assert!(read(page).contains(&format!("cargo {BUILD}")), "{page}");
    }
}

#[test]
fn it_is_of_this_version_everywhere() {
    assert_eq!(defaults("VERSION"), [env!("CARGO_PKG_VERSION"); 2]);
    assert_eq!(defaults("GIT_REVISION"), ["unknown"; 2]);
}

#[test]
fn it_exposes_the_default_ports_and_starts_the_program_as_an_account_without_rights() {
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
fn its_labels_say_what_the_crate_says_of_itself() {
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
fn what_it_copies_is_what_a_build_may_see_and_cargo_lacks_nothing() {
    let mut copied = BTreeSet::new();
    for copy in all("COPY").iter().filter(|copy| !copy.starts_with("--from=")) {
        let (sources, _destination) = copy.rsplit_once(' ').unwrap();
        copied.extend(sources.split(' ').map(str::to_owned));
    }
    let ignored = read(".dockerignore");
    let seen: BTreeSet<String> = ignored.lines().filter_map(|line| line.strip_prefix('!')).map(str::to_owned).collect();
    assert_eq!(copied, seen);

    // Cargo misses a file that the manifest names as soon as it reads it.
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
fn the_revision_is_the_environments_else_gits_else_unknown() {
    let (given, git) = (|text: &str| Some(text.to_owned()), || Some("from-git".to_owned()));
    assert_eq!(build_info::choose(given("from-environment"), git), "from-environment");
    assert_eq!(build_info::choose(None, git), "from-git");
    assert_eq!(build_info::choose(given(""), git), "from-git", "a build argument that was not given");
    assert_eq!(build_info::choose(None, || None), "unknown");
    assert_eq!(build_info::VARIABLE, "GIT_REVISION", "what `env!` reads");
}
