//! Tests of the command line as users type it.

use std::{path::Path, time::Duration};

use clap::{CommandFactory, Parser, error::ErrorKind};

use super::*;
use crate::{app::Config, lookup::Artifacts};

fn serve(arguments: &[&str]) -> Result<Config, clap::Error> {
    let program = ["model-update-eventsource", "serve"];
    match Cli::try_parse_from(program.iter().chain(arguments))?.command {
        Command::Serve(serve) => Ok((*serve).into()),
        _ => unreachable!("the command is serve"),
    }
}

fn usage_error(arguments: &[&str]) -> String {
    let error = serve(arguments).expect_err("a usage error");
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_defaults_are_as_documented() {
    let config = serve(&[]).unwrap();
    assert_eq!(config.listen.to_string(), "[::]:50051");
    assert_eq!(config.admin_listen.to_string(), "[::]:8080");
    assert_eq!(config.metrics_listen, None);
    assert_eq!(config.metadata_store, "http://metadata-grpc-service.kubeflow:8080");
    assert_eq!(config.metadata_store_ca, None);
    assert_eq!((config.artifacts, config.kfp_api), (Artifacts::Auto, None));
    assert_eq!((config.kfp_ca, config.kfp_token_file), (None, None));
    assert!(config.namespaces.is_empty());
    assert_eq!(config.selector, "pipeline/runid");
    assert_eq!(config.confirm_after, Duration::from_secs(1));
    assert_eq!(config.max_connection_age, None);
    assert!(!config.skip_labelled && !config.kubernetes_events);
    assert_eq!(config.mark_rate.get(), 100);
}

#[test]
fn every_flag_sets_its_option() {
    let config = serve(&[
        "--listen=127.0.0.1:0",
        "--admin-listen=[::1]:9090",
        "--metrics-listen=127.0.0.1:9091",
        "--metadata-store=https://mlmd.example:443",
        "--metadata-store-ca=/etc/mlmd/ca.crt",
        "--artifacts=kfp",
        "--kfp-api=https://ml-pipeline.kubeflow:8887",
        "--kfp-ca=/etc/kfp/ca.crt",
        "--kfp-token-file=/var/run/secrets/kfp/token",
        "--namespaces=team-a,team-b",
        "--selector=a=b",
        "--confirm-after=250ms",
        "--max-connection-age=6h",
        "--skip-labelled",
        "--kubernetes-events",
        "--mark-rate=7",
        "--log-format=json",
        "--log-level=debug,kube=info",
    ])
    .unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.admin_listen.to_string(), "[::1]:9090");
    assert_eq!(config.metrics_listen.unwrap().to_string(), "127.0.0.1:9091");
    assert_eq!(config.metadata_store, "https://mlmd.example:443");
    assert_eq!(config.metadata_store_ca.as_deref(), Some(Path::new("/etc/mlmd/ca.crt")));
    assert_eq!(config.artifacts, Artifacts::Kfp);
    assert_eq!(config.kfp_api.as_deref(), Some("https://ml-pipeline.kubeflow:8887"));
    assert_eq!(config.kfp_ca.as_deref(), Some(Path::new("/etc/kfp/ca.crt")));
    assert_eq!(config.kfp_token_file.as_deref(), Some(Path::new("/var/run/secrets/kfp/token")));
    assert_eq!(config.namespaces, ["team-a", "team-b"].map(Into::into));
    assert_eq!(config.selector, "a=b");
    assert_eq!(config.confirm_after, Duration::from_millis(250));
    assert_eq!(config.max_connection_age, Some(Duration::from_secs(6 * 3600)));
    assert!(config.skip_labelled && config.kubernetes_events);
    assert_eq!(config.mark_rate.get(), 7);
}

#[test]
fn kubeflows_api_is_named_where_it_is_needed() {
    assert_eq!(serve(&["--kfp-api", "ml-pipeline.kubeflow:8887"]).unwrap().artifacts, Artifacts::Auto);
    assert_eq!(serve(&["--artifacts", "mlmd"]).unwrap().artifacts, Artifacts::Mlmd);
    for (arguments, message) in [
        (&["--artifacts", "kfp"][..], "--kfp-api <URL>"),
        (&["--kfp-ca", "ca.crt"], "--kfp-api <URL>"),
        (&["--kfp-token-file", "token"], "--kfp-api <URL>"),
        (&["--artifacts", "both"], "[possible values: auto, mlmd, kfp]"),
        (
            &["--kfp-api", "ml-pipeline.kubeflow"],
            "not a URL of a gRPC service such as http://ml-pipeline.kubeflow:8887",
        ),
    ] {
        let error = usage_error(arguments);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn the_metadata_store_may_be_a_host_and_a_port() {
    for address in ["metadata-grpc-service.kubeflow:8080", "10.0.0.1:8080", "[::1]:8080"] {
        assert_eq!(serve(&["--metadata-store", address]).unwrap().metadata_store, address);
    }
}

#[test]
fn repeated_flags_override_and_namespaces_accumulate() {
    let config = serve(&["--mark-rate=1", "--mark-rate=2", "--namespaces=a,b", "--namespaces=c"]).unwrap();
    assert_eq!(config.mark_rate.get(), 2);
    assert_eq!(config.namespaces, ["a", "b", "c"].map(Into::into));
}

#[test]
fn every_flag_of_serve_has_a_variable_with_its_name() {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    for argument in serve.get_arguments().filter(|argument| !argument.is_global_set()) {
        let Some(flag) = argument.get_long().filter(|flag| *flag != "help") else { continue };
        let expected = format!("MODEL_UPDATE_{}", flag.to_uppercase().replace('-', "_"));
        assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(expected.as_str()), "--{flag}");
    }
}

#[test]
fn people_name_the_sources_of_models_as_the_server_does() {
    let command = Cli::command();
    let variable = |command_name: &str, flag: &str| {
        let found = command.find_subcommand(command_name).unwrap();
        let argument = found.get_arguments().find(|argument| argument.get_long() == Some(flag));
        argument.unwrap_or_else(|| panic!("{command_name} has no --{flag}")).get_env().map(ToOwned::to_owned)
    };
    for flag in ["artifacts", "kfp-api", "kfp-ca", "kfp-token-file", "metadata-store", "metadata-store-ca"] {
        for command_name in ["explain", "check"] {
            assert_eq!(variable(command_name, flag), variable("serve", flag), "{command_name} --{flag}");
        }
    }
    let wrong = ["model-update-eventsource", "explain", "--kfp-ca", "ca.crt"];
    let error = Cli::try_parse_from(wrong).map(drop).expect_err("a usage error");
    assert!(error.to_string().contains("--kfp-api"), "{error}");
}

#[test]
fn a_usage_error_names_the_flag_and_a_remedy() {
    for (arguments, flag, remedy) in [
        (&["--listen=50051"], "--listen", "write it as IP:PORT"),
        (&["--metadata-store=metadata-grpc-service.kubeflow"], "--metadata-store", "begin with http://"),
        (&["--metadata-store=grpc://metadata:8080"], "--metadata-store", "begin with http://"),
        (&["--namespaces=team_a"], "--namespaces", "separate several by commas"),
        (&["--namespaces="], "--namespaces", "leave the flag (and its variable) out"),
        (&["--selector=a=b,,c"], "--selector", "character 5: "),
        (&["--confirm-after=1"], "--confirm-after", "write a duration such as"),
        (&["--confirm-after=5s"], "--confirm-after", "at most 4s"),
        (&["--max-connection-age=1s"], "--max-connection-age", "from 5s to 30days"),
        (&["--mark-rate=0"], "--mark-rate", "non-zero"),
        (&["--log-level=inof"], "--log-level", "off, error, warn, info, debug, trace"),
        (&["--log-format=yaml"], "--log-format", "possible values: text, json"),
    ] {
        let message = usage_error(arguments);
        assert!(message.contains(flag) && message.contains(remedy), "{message}");
    }
}

#[test]
fn the_version_names_the_revision() {
    let error = Cli::try_parse_from(["model-update-eventsource", "--version"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DisplayVersion);
    let version = format!("model-update-eventsource {} ({})\n", env!("CARGO_PKG_VERSION"), env!("GIT_REVISION"));
    assert_eq!(error.to_string(), version);
}

#[test]
fn a_server_address_needs_no_scheme() {
    for (written, expected) in [
        ("127.0.0.1:50051", "http://127.0.0.1:50051"),
        ("server.team:50051", "http://server.team:50051"),
        ("[::1]:50051", "http://[::1]:50051"),
        ("http://server:1", "http://server:1"),
        ("https://server:1", "https://server:1"),
    ] {
        assert_eq!(values::server(written).unwrap(), expected);
    }
    for invalid in ["", "server", ":50051", "server:1/path", "ftp://server:1", "server:port"] {
        assert!(values::server(invalid).unwrap_err().contains("HOST:PORT"), "{invalid:?}");
    }
}

#[test]
fn completions_is_still_a_name_of_completion() {
    for name in ["completion", "completions"] {
        let cli = Cli::try_parse_from(["model-update-eventsource", name, "bash"]).unwrap();
        assert!(matches!(cli.command, Command::Completion(_)));
    }
    assert!(!Cli::command().render_long_help().to_string().contains("completions"), "the old name is hidden");
}
