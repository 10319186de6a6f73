# Recipes for people. The steps of .ci/run are the only definition of each check; these are their names.

# Lists the recipes
default:
    @just --list

# Every check that a change must pass, with the real peers
ci:
    .ci/run

# The checks that need no peers
quick:
    .ci/run format site dependencies lints documentation
    tests/run --without-peers

# Format of the Rust sources
format:
    .ci/run format

# The hosted workflows, by actionlint
workflows:
    .ci/run workflows

# The documentation as a site, with links and spelling
site:
    .ci/run site

# The site on http://127.0.0.1:8000
serve-site:
    docs/site/build serve

# Licenses, duplicates and sources of dependencies
dependencies:
    .ci/run dependencies

# Advisories about dependencies; needs the network
advisories:
    .ci/run advisories

# Clippy, with warnings as errors
lints:
    .ci/run lints

# The documentation of the crate
documentation:
    .ci/run documentation

# Tests; arguments are those of tests/run: `just test --test serve`
test *arguments:
    tests/run {{ arguments }}

# Figures of docs/performance.md, with their baselines; arguments are those of benches/run
bench *arguments:
    benches/run {{ arguments }}

# Generated tables in the documentation
update-docs:
    UPDATE_DOCS=1 cargo test --test documentation
    UPDATE_DOCS=1 cargo test --test helm docs

# The oldest supported Rust
msrv:
    .ci/run msrv

# Cross-compiles for arm64
arm64:
    .ci/run arm64

# The long soak tests, about 25 minutes
soak:
    .ci/run soak

# The whole flow without a cluster
demo:
    cargo run -- demo

# The steps of a release that need no registry
release-dry-run:
    .ci/release dry-run
